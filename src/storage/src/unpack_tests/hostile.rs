//! Unpacking: what is known to have broken other engines, and what it costs to refuse it.
//!
//! The most expensive archives are read by a child, whose memory is looked at: archives are made as they are read, so all
//! that grows is the unpacker's.

use std::io::{self, Cursor, Read};

use super::*;
use crate::{Compression, LayerStore};

fn refused(tar: &[u8]) -> StorageError {
    match Place::new().unpack(tar) {
        Err(error) => error,
        Ok(_) => panic!("unpacked"),
    }
}

#[test]
fn a_directory_that_is_swapped_for_a_link_leads_nowhere() {
    let place = Place::new();
    let outside = tempfile::tempdir().unwrap();
    let target = outside.path().to_str().unwrap();
    let tar = TestTar::new()
        .dir("a/")
        .dir("a/b/")
        .file("a/b/before", b"1")
        .symlink("a/b", target)
        .file("a/b/after", b"2")
        .symlink("a", "/")
        .file("a/last", b"3")
        .hard_link("a/linked", "a/last")
        .file("a/.wh.secret", b"")
        .end();
    place.unpack(&tar).unwrap();
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
    assert_eq!(place.read("last"), "3");
    assert_eq!(place.look("linked").nlink(), 2);
    assert!(place.is_whiteout("secret"));
    assert!(place.look("a").is_symlink());
    // What was there before stays aside, for the archive to be written again.
    assert!(!place.path("a/b").exists());
}

#[test]
fn a_link_that_is_swapped_while_names_lead_through_it() {
    let place = Place::new();
    let tar = TestTar::new()
        .dir("one/")
        .dir("two/")
        .symlink("way", "one")
        .file("way/x", b"1")
        .symlink("way", "two")
        .file("way/x", b"2")
        .symlink("way", "../../../..")
        .file("way/x", b"3")
        .end();
    place.unpack(&tar).unwrap();
    for (name, contents) in [("one/x", "1"), ("two/x", "2"), ("x", "3")] {
        assert_eq!(place.read(name), contents);
    }
}

#[test]
fn whiteouts_in_any_order_hide_what_is_below_and_nothing_else() {
    let place = Place::new();
    let tar = TestTar::new()
        .file("opaque-last/new", b"x")
        .file("opaque-last/.wh..wh..opq", b"")
        .file("parent/child", b"x")
        .file("parent/.wh.child", b"")
        .file(".wh.parent", b"")
        .file("gone/.wh.child", b"")
        .file(".wh.gone", b"")
        .file(".wh.first/below", b"")
        .node(EntryType::Char, "as-a-device", (0, 0), 0o600)
        .symlink("link", "parent")
        .file("link/.wh.other", b"")
        .end();
    // A name below what is only the name of a whiteout is a plain directory.
    place.unpack(&tar).unwrap();
    assert!(place.is_opaque("opaque-last"));
    assert_eq!(place.read("opaque-last/new"), "x");
    assert_eq!(place.read("parent/child"), "x");
    assert!(place.is_opaque("parent"));
    assert!(place.is_opaque("gone"));
    assert!(place.is_whiteout("as-a-device"));
    assert!(place.is_whiteout("parent/other"));
}

#[rstest]
// More than there is.
#[case(&[("size", b"5000".as_slice())], "cut short")]
#[case(&[("size", b"9223372036854775807".as_slice())], "bytes unpacked")]
#[case(&[("size", b"9223372036854775808".as_slice())], "size")]
#[case(&[("size", b"99999999999999999999999".as_slice())], "size")]
#[case(&[("size", b"-1".as_slice())], "size")]
#[case(&[("size", b"0x10".as_slice())], "size")]
// Less than there is: the rest is read as a header.
#[case(&[("size", b"1".as_slice())], "checksum")]
#[case(&[("GNU.sparse.map", b"0,1024".as_slice()), ("GNU.sparse.size", b"10".as_slice())], "sparse")]
#[case(&[("GNU.sparse.map", b"0,9223372036854775807".as_slice()), ("GNU.sparse.size", b"9223372036854775807".as_slice())], "sparse")]
#[case(&[("GNU.sparse.map", b"9223372036854775807,9223372036854775807".as_slice()), ("GNU.sparse.size", b"20".as_slice())], "sparse")]
#[case(&[("GNU.sparse.map", b"500,10,0,10".as_slice()), ("GNU.sparse.size", b"1024".as_slice())], "sparse")]
#[case(&[("GNU.sparse.size", b"-1".as_slice()), ("GNU.sparse.map", b"0,0".as_slice())], "GNU.sparse.size")]
fn sizes_that_lie(#[case] records: &[(&str, &[u8])], #[case] expected: &str) {
    let tar = TestTar::new().pax(records).file("x", &[b'x'; 1024]).end();
    let error = refused(&tar);
    let mut words = error.to_string();
    if let Some(source) = std::error::Error::source(&error) {
        words = format!("{words}: {source}");
    }
    assert!(words.contains(expected), "{words}");
    assert!(error.is_bad_layer());
}

#[test]
fn names_of_64_kib_are_refused_wherever_they_stand() {
    let long = "n".repeat(64 << 10);
    let path = "p/".repeat(32 << 10);
    let through = |text: &str| {
        [
            TestTar::new()
                .extended(b'L', text.as_bytes())
                .file("x", b""),
            TestTar::new()
                .pax(&[("path", text.as_bytes())])
                .file("x", b""),
            TestTar::new()
                .extended(b'K', text.as_bytes())
                .symlink("x", "y"),
            TestTar::new()
                .pax(&[("linkpath", text.as_bytes())])
                .symlink("x", "y"),
            TestTar::new()
                .pax(&[("linkpath", text.as_bytes())])
                .hard_link("x", "y"),
        ]
    };
    for tar in [through(&long), through(&path)].into_iter().flatten() {
        let error = refused(&tar.end());
        assert!(
            matches!(
                error,
                StorageError::TooLarge {
                    limit: Limit::NameBytes(4095)
                }
            ),
            "{error:?}"
        );
        // Nor do they get into the message.
        assert!(error.to_string().len() < 200);
    }
}

#[test]
fn attributes_that_mean_something_to_the_node_are_left_out() {
    let keys = [
        "trusted.overlay.opaque",
        "trusted.overlay.redirect",
        "trusted.overlay.metacopy",
        "trusted.overlay.origin",
        "trusted.overlay.overlay.opaque",
        "trusted.anything",
        "security.selinux",
        "security.ima",
        "security.evm",
        "security.SMACK64",
        "security.apparmor",
        "system.nfs4_acl",
    ];
    let place = Place::new();
    let mut tar = TestTar::new();
    for kind in ["file", "dir", "link", "fifo"] {
        let records: Vec<(String, &[u8])> = keys
            .iter()
            .map(|key| (format!("SCHILY.xattr.{key}"), b"y".as_slice()))
            .collect();
        let records: Vec<(&str, &[u8])> = records
            .iter()
            .map(|(key, value)| (key.as_str(), *value))
            .collect();
        tar = tar.pax(&records);
        tar = match kind {
            "file" => tar.owned_file(kind, b"x", (0, 0), 0o6755),
            "dir" => tar.dir(kind),
            "link" => tar.symlink(kind, "/etc/shadow"),
            _ => tar.node(EntryType::Fifo, kind, (0, 0), 0o600),
        };
    }
    place.unpack(&tar.end()).unwrap();
    for kind in ["file", "dir", "link", "fifo"] {
        let mut names = [0; 4096];
        let length = rustix::fs::llistxattr(place.path(kind), &mut names).unwrap();
        let names = String::from_utf8_lossy(&names[..length]).into_owned();
        let others: Vec<&str> = names
            .split('\0')
            .filter(|name| !name.is_empty() && *name != "security.selinux")
            .collect();
        assert_eq!(others, [""; 0], "{kind}");
    }
    // Set-uid is the layer's to give; that nobody but root reaches it is the store's business.
    assert_eq!(place.look("file").mode() & 0o7777, 0o6755);
}

/// What is refused, and how much of it.
const EXPENSIVE: [&str; 6] = [
    "zeros",
    "entries",
    "headers",
    "directories",
    "duplicates",
    "links",
];

const CHILD: &str = "PINTLE_TEST_HOSTILE";

/// How much larger the child may become: what may be held in memory by the limits, buffers, and what the allocator keeps.
const MOST_KIB: u64 = 64 << 10;

/// Hands out an archive piece by piece, each made when it is wanted.
struct Lazy<F> {
    make: F,
    current: Cursor<Vec<u8>>,
}

impl<F: FnMut() -> Option<Vec<u8>>> Read for Lazy<F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let count = self.current.read(buffer)?;
            if count > 0 {
                return Ok(count);
            }
            match (self.make)() {
                Some(piece) => self.current = Cursor::new(piece),
                None => return Ok(0),
            }
        }
    }
}

/// An archive of as many pieces.
fn archive(pieces: u64, make: impl Fn(u64) -> Vec<u8>) -> impl Read {
    let mut next = 0;
    Lazy {
        make: move || {
            (next < pieces).then(|| {
                next += 1;
                make(next - 1)
            })
        },
        current: Cursor::default(),
    }
}

/// Unpacks a hostile layer and tells the limit that it runs into.
fn provoke(what: &str) -> Limit {
    let dir = tempfile::tempdir().unwrap();
    let store = LayerStore::open(dir.path(), &[]).unwrap();
    let limits = UnpackLimits {
        ratio_floor_bytes: 64 << 20,
        entries: 1 << 14,
        held_bytes: 4 << 20,
        ..UnpackLimits::default()
    };
    let long = |number: u64| format!("{number:0>200}");
    let tar: Box<dyn Read> = match what {
        // Ten gibibytes of zeros, compressed by a thousand.
        "zeros" => {
            let gzip = |bytes: &[u8]| {
                use std::io::Write as _;
                let level = flate2::Compression::new(9);
                let mut encoder = flate2::write::GzEncoder::new(Vec::new(), level);
                encoder.write_all(bytes).unwrap();
                encoder.finish().unwrap()
            };
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(EntryType::Regular);
            header.set_path("zeros").unwrap();
            header.set_size(10 << 30);
            header.set_cksum();
            let first = gzip(header.as_bytes());
            let zeros = gzip(&vec![0; 16 << 20]);
            Box::new(archive(641, move |number| match number {
                0 => first.clone(),
                _ => zeros.clone(),
            }))
        }
        // Ten million entries that make nothing.
        "entries" => {
            let entry = TestTar::new().file(".wh..wh.x", b"").open_end();
            let many = entry.repeat(1000);
            Box::new(archive(10_000, move |_| many.clone()))
        }
        // Extended headers without end before one entry.
        "headers" => {
            let header = TestTar::new()
                .extended(b'L', &vec![b'n'; 60 << 10])
                .open_end();
            Box::new(archive(10_000, move |_| header.clone()))
        }
        // Directories that only names imply, which have to be remembered.
        "directories" => Box::new(archive(1 << 14, move |number| {
            let name = format!("{}/{}/x", long(number), long(number));
            TestTar::new()
                .extended(b'L', name.as_bytes())
                .kind(b'0', "x")
                .open_end()
        })),
        // One name for everything.
        "duplicates" => {
            let entries = TestTar::new().dir("d/").file("d", b"").open_end();
            let many = entries.repeat(1000);
            Box::new(archive(10_000, move |_| many.clone()))
        }
        // A link that everything leads through, forty times.
        "links" => {
            let target = "d/../".repeat(18);
            let start = TestTar::new()
                .dir("d/")
                .symlink("l", &format!("{target}d"))
                .open_end();
            let through = TestTar::new().file("l/x", b"").file("d/y", b"").open_end();
            let many = through.repeat(1000);
            Box::new(archive(10_000, move |number| match number {
                0 => start.clone(),
                _ => many.clone(),
            }))
        }
        other => panic!("{other}"),
    };
    let result = store.unpack(tar, Compression::Detect, &limits);
    store.settle();
    let left = fs::read_dir(dir.path().join("tmp")).unwrap().count();
    assert_eq!(left, 0, "something is left");
    match result {
        Err(StorageError::TooLarge { limit }) => limit,
        Err(error) => panic!("{error:?}"),
        Ok(_) => panic!("unpacked"),
    }
}

/// The largest size in memory that this process had, in KiB.
fn peak_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmHWM:"))
        .unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Not a test of its own: what the children do.
#[test]
fn as_a_child() {
    let Ok(what) = std::env::var(CHILD) else {
        return;
    };
    let before = peak_kib();
    let limit = provoke(&what);
    let grown = peak_kib() - before;
    println!("{limit:?}");
    assert!(grown < MOST_KIB, "it takes {grown} KiB of memory");
}

#[rstest]
fn what_is_refused_is_refused_cheaply(#[values(0, 1, 2, 3, 4, 5)] index: usize) {
    let what = EXPENSIVE[index];
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "unpack::tests::hostile::as_a_child",
            "--nocapture",
        ])
        .env(CHILD, what)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let words = format!("{what}: {said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{words}");
    let limit = match what {
        "zeros" => "Ratio(200)",
        "headers" => "HeaderBytes(1048576)",
        "directories" => "HeldBytes(4194304)",
        "links" => "Links(16384)",
        _ => "Entries(16384)",
    };
    assert!(said.contains(limit), "{words}");
}
