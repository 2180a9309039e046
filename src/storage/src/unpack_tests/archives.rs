//! Unpacking: archives that are odd, broken or of every tool's making.

use super::*;

#[test]
fn long_names() {
    let place = Place::new();
    let dir = "d".repeat(200);
    let name = format!("{dir}/{dir}/{}", "f".repeat(250));
    let target = format!("/{}", "t".repeat(1000));
    let tar = TestTar::new()
        .extended(b'L', name.as_bytes())
        .file("short", b"gnu")
        .extended(b'K', format!("{target}\0").as_bytes())
        .symlink("link", "short")
        .pax(&[("path", b"pax"), ("linkpath", target.as_bytes())])
        .symlink("short", "short")
        .end();
    place.unpack(&tar).unwrap();
    assert_eq!(place.read(&name), "gnu");
    for link in ["link", "pax"] {
        assert_eq!(fs::read_link(place.path(link)).unwrap(), Path::new(&target));
    }
}

#[test]
fn a_name_of_more_than_255_bytes_is_told() {
    let tar = TestTar::new()
        .extended(b'L', "x".repeat(256).as_bytes())
        .file("short", b"")
        .end();
    let Err(error) = Place::new().unpack(&tar) else {
        panic!("unpacked");
    };
    assert!(matches!(error, StorageError::Unpack { .. }), "{error:?}");
    assert!(error.to_string().contains("xxx"), "{error}");
}

fn tar_error(tar: &[u8]) -> TarError {
    match Place::new().unpack(tar) {
        Err(StorageError::Tar { source, .. }) => source,
        Err(error) => panic!("{error:?}"),
        Ok(_) => panic!("unpacked"),
    }
}

#[test]
fn cut_short_anywhere() {
    let whole = TestTar::new()
        .dir("a/")
        .pax(&[("path", b"a/b")])
        .file("x", &[7; 700])
        .file("c", b"c")
        .end();
    // From the end of the last entry's contents on nothing is missing that matters.
    let entries_end = whole.len() - 1024;
    // Every length near a block's border, and a few in between.
    let near = |length: &usize| (length + 1) % 512 <= 2 || length.is_multiple_of(61);
    for length in (1..entries_end).filter(near) {
        let result = Place::new().unpack(&whole[..length]);
        // Between two entries the loss does not show; the digest tells.
        let between = [512, 512 + 1024 + 512 + 1024].contains(&length);
        match result {
            Ok(_) => assert!(between, "{length}"),
            Err(StorageError::Tar {
                source: TarError::CutShort | TarError::Dangling,
                ..
            }) => assert!(!between, "{length}"),
            Err(error) => panic!("{length}: {error:?}"),
        }
    }
    Place::new().unpack(&whole[..entries_end]).unwrap();
    Place::new().unpack(&whole[..entries_end + 512]).unwrap();
    Place::new().unpack(&[]).unwrap();
}

#[test]
fn what_is_no_tar() {
    assert!(matches!(tar_error(&[b'<'; 2000]), TarError::Checksum));
    assert!(matches!(tar_error(b"<html>"), TarError::CutShort));
    let mut damaged = TestTar::new().file("a", b"a").file("b", b"b").end();
    damaged[1024 + 50] ^= 1;
    assert!(matches!(tar_error(&damaged), TarError::Checksum));
    let mut zeros_between = TestTar::new().file("a", b"a").open_end();
    zeros_between.extend_from_slice(&[0; 512]);
    zeros_between.extend(TestTar::new().file("b", b"b").end());
    assert!(matches!(tar_error(&zeros_between), TarError::Checksum));
    let unknown = TestTar::new().kind(b'Z', "x").end();
    assert!(matches!(
        tar_error(&unknown),
        TarError::UnknownType { kind: b'Z' }
    ));
    let dangling = TestTar::new().pax(&[("path", b"x")]).end();
    assert!(matches!(tar_error(&dangling), TarError::Dangling));
    let nul = TestTar::new()
        .pax(&[("path", b"x\0y")])
        .file("x", b"")
        .end();
    assert!(matches!(tar_error(&nul), TarError::NulInName));
    let id = TestTar::new()
        .pax(&[("uid", b"4294967295")])
        .file("x", b"")
        .end();
    assert!(matches!(tar_error(&id), TarError::Number { field: "uid" }));
}

#[test]
fn errors_say_which_entry() {
    let mut damaged = TestTar::new().file("a", b"a").file("b", b"b").end();
    damaged.truncate(1024 + 512 + 100);
    let Err(error) = Place::new().unpack(&damaged) else {
        panic!("unpacked");
    };
    assert_eq!(error.to_string(), "read the layer's tar at entry 2");
    assert!(error.is_bad_layer());
}

#[test]
fn what_links_and_directories_claim_to_contain_is_not_there() {
    // Go's reader takes such sizes for zero, so must everyone.
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(EntryType::Symlink);
    header.set_path("link").unwrap();
    header.set_link_name("target").unwrap();
    header.set_size(512);
    let place = Place::new();
    let tar = TestTar::new()
        .add_as_is(header, b"")
        .file("after", b"x")
        .end();
    place.unpack(&tar).unwrap();
    assert_eq!(place.read("after"), "x");
}

#[test]
fn old_and_global_headers() {
    let place = Place::new();
    let tar = TestTar::new()
        .extended(b'g', b"13 path=evil\n")
        .extended(b'g', &[b'x'; 3000])
        .kind(0, "old-dir/")
        .kind(0, "old-file")
        .kind(b'7', "contiguous")
        .end();
    place.unpack(&tar).unwrap();
    assert!(place.look("old-dir").is_dir());
    assert!(place.look("old-file").is_file());
    assert!(place.look("contiguous").is_file());
    assert!(!place.path("evil").exists());
}

/// What GNU tar itself writes, in every format it has, compared with what it was made of.
#[rstest]
#[case("v7", false)]
#[case("ustar", false)]
#[case("gnu", false)]
#[case("posix", false)]
#[case("gnu", true)]
#[case("posix", true)]
#[case("posix --sparse-version=0.0", true)]
#[case("posix --sparse-version=0.1", true)]
fn what_gnu_tar_writes(#[case] format: &str, #[case] sparse: bool) {
    let source = tempfile::tempdir().unwrap();
    let at = |name: &str| source.path().join(name);
    fs::create_dir_all(at("usr/share/doc")).unwrap();
    fs::write(at("usr/share/doc/copyright"), "free").unwrap();
    fs::set_permissions(
        at("usr/share/doc/copyright"),
        PermissionsExt::from_mode(0o640),
    )
    .unwrap();
    fs::hard_link(at("usr/share/doc/copyright"), at("usr/copyright")).unwrap();
    std::os::unix::fs::symlink("share/doc", at("usr/doc")).unwrap();
    fs::write(
        at("large"),
        (0..300_000_u32)
            .map(|n| n.to_le_bytes()[1])
            .collect::<Vec<_>>(),
    )
    .unwrap();
    std::os::unix::fs::chown(at("large"), Some(1234), Some(5678)).unwrap();
    if format != "v7" && format != "ustar" {
        let long = format!("usr/{}", "n".repeat(240));
        fs::write(at(&long), "long").unwrap();
    }
    if sparse {
        let holes = File::create(at("holes")).unwrap();
        for index in 0..40_u64 {
            std::os::unix::fs::FileExt::write_all_at(&holes, b"data", index * (1 << 20)).unwrap();
        }
        holes.set_len(100 << 20).unwrap();
    }
    let mut command = std::process::Command::new("tar");
    command.current_dir(source.path());
    let mut words = format.split(' ');
    command
        .arg(format!("--format={}", words.next().unwrap()))
        .args(words);
    if sparse {
        command.arg("--sparse");
    }
    let output = command.args(["-c", "."]).output().unwrap();
    assert!(output.status.success(), "{output:?}");

    let place = Place::new();
    place.unpack(&output.stdout).unwrap();
    let compared = std::process::Command::new("diff")
        .args(["-r", "--no-dereference"])
        .args([source.path(), &place.path("")])
        .output()
        .unwrap();
    assert!(compared.status.success(), "{compared:?}");
    assert_eq!(place.look("usr/copyright").nlink(), 2);
    assert_eq!(
        (place.look("large").uid(), place.look("large").gid()),
        (1234, 5678)
    );
    assert_eq!(place.look("usr/copyright").mode() & 0o7777, 0o640);
    if sparse {
        assert!(place.look("holes").blocks() * 512 < 1 << 20);
    }
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(100))]

    /// Whatever names, kinds and targets come in whatever order, nothing outside is touched; `unpack` itself checks that.
    #[test]
    fn nothing_leads_out(entries in proptest::collection::vec(
        (0_u8..6, "(/|\\.\\./|\\./)?[ab]{1}(/(\\.\\.|[abc]|\\.wh\\.[ab])){0,3}", "(/|\\.\\./){0,3}(secret|[ab])(/[abc]){0,2}"),
        1..12,
    )) {
        let place = Place::new();
        let tar = entries.iter().fold(TestTar::new(), |tar, (kind, name, target)| match kind {
            0 => tar.dir(name),
            1 => tar.symlink(name, target),
            2 => tar.hard_link(name, target),
            3 => tar.node(EntryType::Fifo, name, (0, 0), 0o644),
            4 => tar.owned_file(name, b"evil", (1, 1), 0o777),
            _ => tar.owned_dir(name, (1, 1), 0o777),
        });
        let _ = place.unpack(&tar.end());
    }

    /// Damaged archives are refused or unpacked, but nothing panics and nothing leads out.
    #[test]
    fn damage_is_survived(flips in proptest::collection::vec((0_usize..6000, 0_u8..=255), 1..4)) {
        let mut tar = TestTar::new()
            .dir("a/")
            .pax(&[("path", b"a/b"), ("GNU.sparse.map", b"0,700"), ("GNU.sparse.size", b"900")])
            .file("x", &[7; 700])
            .extended(b'L', &[b'n'; 120])
            .symlink("s", "../secret")
            .file("s/x", b"x")
            .end();
        for (position, byte) in flips {
            let length = tar.len();
            tar[position % length] = byte;
        }
        // Checksums are made right again, so that the damage gets further than that.
        for start in (0..tar.len() - 512).step_by(512) {
            let mut header = tar::Header::new_old();
            header.as_mut_bytes().copy_from_slice(&tar[start..start + 512]);
            if header.as_bytes()[..100].iter().any(|byte| *byte != 0) && header.as_bytes()[148] != 7 {
                header.set_cksum();
                tar[start..start + 512].copy_from_slice(header.as_bytes());
            }
        }
        let _ = Place::new().unpack(&tar);
    }
}
