//! A root file system of Debian's own files, with everything in it that layers get wrong, made into an image by umoci and GNU tar,
//! pushed by skopeo, pulled by us, and compared file by file with what umoci unpacks of it.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs::{self, File, Permissions};
use std::io::{Seek, SeekFrom, Write as _};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown, lchown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{CWD, FileType, Mode, XattrFlags, makedev, mknodat};
use state::Digest;

use crate::node::Node;
use crate::real_registry::RealRegistry;

const INSIDE: &str = "PINTLE_TEST_DEBIAN_INSIDE";

/// So many of the files of installed packages are taken, and none that is larger.
const ENTRIES: usize = 10_000;
const FILE_BYTES: u64 = 128 << 10;

#[test]
fn a_real_file_system_is_what_umoci_makes_of_it() {
    if std::env::var_os(INSIDE).is_some() {
        tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .unwrap()
            .block_on(compare());
        return;
    }
    // The overlay is mounted where nobody else sees it.
    let output = Command::new("unshare")
        .arg("--mount")
        .arg(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "debian::a_real_file_system_is_what_umoci_makes_of_it",
        ])
        .arg("--nocapture")
        .env(INSIDE, "1")
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

async fn compare() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    make_image(folder.path());
    run(
        folder.path(),
        "umoci",
        &["unpack", "--image", "image:1", "theirs"],
    );

    let registry = RealRegistry::start();
    let reference = registry.reference("debian:1");
    run(
        folder.path(),
        "skopeo",
        &[
            "copy",
            "--quiet",
            "--dest-tls-verify=false",
            "oci:image:1",
            &format!("docker://{reference}"),
        ],
    );
    let node = Node::with_plain_hosts(&[&registry.host]);
    let pulled = node.pull(&reference).await.unwrap();
    assert_eq!(pulled.layers.len(), 4);

    let ours = path("ours");
    fs::create_dir(&ours).unwrap();
    let lower: Vec<String> = pulled
        .layers
        .iter()
        .rev()
        .map(|chain| {
            let layer = node.root().join("layers").join(chain.hex());
            layer.to_string_lossy().into_owned()
        })
        .collect();
    let options = format!("lowerdir={}", lower.join(":"));
    let ours_name = ours.to_string_lossy().into_owned();
    run(
        folder.path(),
        "mount",
        &["-t", "overlay", "overlay", "-o", &options, &ours_name],
    );
    let ours = tree(&ours);
    let theirs = tree(&path("theirs/rootfs"));
    assert!(theirs.len() > ENTRIES / 2, "{}", theirs.len());
    let mut differences = String::new();
    for (name, told) in &theirs {
        let other = ours.get(name);
        if other != Some(told) {
            writeln!(differences, "{}: umoci {told:?}, we {other:?}", shown(name)).unwrap();
        }
    }
    for name in ours.keys().filter(|name| !theirs.contains_key(*name)) {
        writeln!(differences, "{}: only ours", shown(name)).unwrap();
    }
    let some: Vec<&str> = differences.lines().take(20).collect();
    assert!(some.is_empty(), "{}", some.join("\n"));
    assert!(node.leftovers().await.is_empty());
}

fn run(folder: &Path, program: &str, arguments: &[&str]) {
    let output = Command::new("timeout")
        .args(["120", program])
        .args(arguments)
        .current_dir(folder)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Makes `image:1` of four layers: Debian's files by umoci; special files by GNU tar, in its own format and in that of POSIX; and
/// a whiteout.
fn make_image(folder: &Path) {
    let base = folder.join("base");
    debian_files(folder, &base);
    run(folder, "umoci", &["init", "--layout", "image"]);
    run(folder, "umoci", &["new", "--image", "image:1"]);
    run(
        folder,
        "umoci",
        &["insert", "--image", "image:1", "base", "/"],
    );
    for (number, format) in ["gnu", "posix"].into_iter().enumerate() {
        let name = format!("special-{format}");
        let special = folder.join(&name).join(&name);
        fs::create_dir_all(&special).unwrap();
        special_files(&special, format == "posix");
        let tar = format!("{name}.tar");
        let format = format!("--format={format}");
        let mut arguments = vec!["-C", name.as_str(), "--numeric-owner", &format];
        if number == 1 {
            // umoci does not know the old format's sparse files.
            arguments.extend(["--sparse", "--xattrs", "--xattrs-include=*"]);
        }
        arguments.extend(["-cf", tar.as_str(), name.as_str()]);
        run(folder, "tar", &arguments);
        run(
            folder,
            "umoci",
            &["raw", "add-layer", "--image", "image:1", tar.as_str()],
        );
    }
    let whiteout = ["insert", "--image", "image:1", "--whiteout"];
    run(
        folder,
        "umoci",
        &[&whiteout[..], &["/special-gnu/removed"]].concat(),
    );
}

/// Copies files of the installed packages, hard links, owners and all.
fn debian_files(folder: &Path, base: &Path) {
    let mut lists: Vec<PathBuf> = fs::read_dir("/var/lib/dpkg/info")
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|ext| ext == "list"))
        .collect();
    lists.sort();
    let mut names = Vec::new();
    let mut count = 0;
    let mut in_place: HashMap<PathBuf, bool> = HashMap::new();
    'packages: for list in lists {
        for name in fs::read(list).unwrap().split(|byte| *byte == b'\n') {
            let path = PathBuf::from(OsString::from_vec(name.to_vec()));
            let Ok(stat) = fs::symlink_metadata(&path) else {
                continue;
            };
            let Some(parent) = path.parent() else {
                continue;
            };
            // Directories that are links on this machine lead elsewhere.
            let in_place = *in_place
                .entry(parent.to_owned())
                .or_insert_with(|| parent.canonicalize().is_ok_and(|real| real == parent));
            if stat.len() > FILE_BYTES || !in_place {
                continue;
            }
            names.extend_from_slice(&name[1..]);
            names.push(0);
            count += 1;
            if count >= ENTRIES {
                break 'packages;
            }
        }
    }
    fs::create_dir(base).unwrap();
    fs::write(folder.join("names"), names).unwrap();
    run(
        folder,
        "sh",
        &[
            "-c",
            "tar -C / --null --no-recursion --ignore-failed-read --xattrs --xattrs-include='*' -cf - -T names \
             | tar -C base -p --xattrs --xattrs-include='*' -xf -",
        ],
    );
}

/// What is rare in Debian's packages. GNU tar's own format has no extended attributes.
fn special_files(at: &Path, attributes: bool) {
    let mode = |path: &Path, mode| fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    let file = |name: &str, content: &[u8]| {
        let path = at.join(name);
        fs::write(&path, content).unwrap();
        path
    };
    mode(&file("setuid", b"#!/bin/sh\n"), 0o4755);
    mode(&file("setgid", b"x"), 0o2711);
    mode(&file("closed", b"x"), 0o000);
    let sticky = at.join("sticky");
    fs::create_dir(&sticky).unwrap();
    chown(&sticky, Some(1000), Some(50)).unwrap();
    mode(&sticky, 0o3775);

    let first = file("linked", b"linked\n");
    fs::create_dir(at.join("elsewhere")).unwrap();
    for name in ["elsewhere/second", "third"] {
        fs::hard_link(&first, at.join(name)).unwrap();
    }
    // Beyond what seven octal digits say.
    let owned = file("owned", b"owned\n");
    chown(&owned, Some(4_000_000_000), Some(3_000_000)).unwrap();

    file(&"n".repeat(255), b"long\n");
    let deep = (0..12).fold(at.to_owned(), |path, n| {
        path.join(format!("{n}-{}", "d".repeat(50)))
    });
    fs::create_dir_all(&deep).unwrap();
    fs::write(deep.join("bottom"), b"bottom\n").unwrap();
    symlink("t".repeat(1000), at.join("long-target")).unwrap();
    symlink("linked", at.join("link")).unwrap();
    symlink("../../../../etc/passwd", at.join("out")).unwrap();
    lchown(at.join("link"), Some(33), Some(44)).unwrap();
    for name in ["Straße", "with space", "new\nline", "back\\slash", "-dash"] {
        file(name, name.as_bytes());
    }
    let raw = at.join(OsString::from_vec(b"not-utf8-\xff\xfe".to_vec()));
    fs::write(raw, b"x").unwrap();
    file("empty", b"");
    file("removed", b"removed\n");

    let sparse = at.join("sparse");
    let mut holes = File::create(&sparse).unwrap();
    for place in [0_u64, 5 << 20, 40 << 20] {
        holes.seek(SeekFrom::Start(place)).unwrap();
        holes.write_all(b"data between holes").unwrap();
    }
    holes.set_len(64 << 20).unwrap();

    let node = |name: &str, kind, device| {
        mknodat(CWD, at.join(name), kind, Mode::from_raw_mode(0o640), device).unwrap();
    };
    node("fifo", FileType::Fifo, 0);
    node("null", FileType::CharacterDevice, makedev(1, 3));
    node("block", FileType::BlockDevice, makedev(259, 70_000));

    if attributes {
        let with = file("attributes", b"x");
        let set = |key: &str, value: &[u8]| {
            rustix::fs::lsetxattr(&with, key, value, XattrFlags::empty()).unwrap();
        };
        set("user.colour", b"blue");
        set("user.bytes", &[0, 1, 0xff, b'=', b'\n']);
        // cap_net_raw, permitted and effective, as in version 2 of the kernel's format.
        let capability = [&[1, 0, 0, 2, 0, 0x20, 0, 0][..], &[0; 12]].concat();
        set("security.capability", &capability);
    }
    // The same in every run, but for the directories.
    run(
        at,
        "find",
        &[
            ".",
            "-exec",
            "touch",
            "-h",
            "-d",
            "@1700000000.5",
            "{}",
            "+",
        ],
    );
}

/// A name on one line.
fn shown(name: &Path) -> String {
    name.as_os_str().as_bytes().escape_ascii().to_string()
}

/// What matters of a file.
#[derive(Debug, PartialEq, Eq)]
struct Looks {
    mode: u32,
    owner: (u32, u32),
    /// Device number of devices.
    device: u64,
    size: u64,
    modified: i64,
    /// The first name, in order, of the same file, and how many there are.
    links: (PathBuf, u64),
    /// A digest of the content, or the target of a link.
    content: String,
    attributes: BTreeMap<Vec<u8>, Vec<u8>>,
}

fn tree(root: &Path) -> BTreeMap<PathBuf, Looks> {
    let mut looks = BTreeMap::new();
    let mut first_names = HashMap::new();
    let mut pending = vec![PathBuf::new()];
    while let Some(name) = pending.pop() {
        let path = root.join(&name);
        let stat = fs::symlink_metadata(&path).unwrap();
        let kind = stat.file_type();
        let mut content = String::new();
        if kind.is_dir() {
            for entry in fs::read_dir(&path).unwrap() {
                pending.push(name.join(entry.unwrap().file_name()));
            }
        } else if kind.is_symlink() {
            content = fs::read_link(&path).unwrap().to_string_lossy().into_owned();
        } else if kind.is_file() {
            content = Digest::sha256_of(&fs::read(&path).unwrap()).to_string();
        }
        let is_device = kind.is_char_device() || kind.is_block_device();
        let seen = Looks {
            mode: stat.mode(),
            owner: (stat.uid(), stat.gid()),
            device: if is_device { stat.rdev() } else { 0 },
            size: if kind.is_dir() { 0 } else { stat.size() },
            // A directory's changes when something is removed from it, by a whiteout for instance.
            modified: if kind.is_dir() { 0 } else { stat.mtime() },
            links: (PathBuf::new(), if kind.is_dir() { 1 } else { stat.nlink() }),
            content,
            attributes: attributes(&path),
        };
        if !kind.is_dir() {
            let file: &mut PathBuf = first_names
                .entry(stat.ino())
                .or_insert_with(|| name.clone());
            if name < *file {
                file.clone_from(&name);
            }
        }
        looks.insert(name, (stat.ino(), seen));
    }
    looks
        .into_iter()
        .map(|(name, (inode, mut seen))| {
            if seen.links.1 > 1 {
                seen.links.0.clone_from(&first_names[&inode]);
            }
            (name, seen)
        })
        .collect()
}

fn attributes(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut names = vec![0; 65536];
    let length = rustix::fs::llistxattr(path, &mut names[..]).unwrap();
    names[..length]
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty() && *name != b"security.selinux")
        .map(|name| {
            let mut value = vec![0; 65536];
            let length = rustix::fs::lgetxattr(path, name, &mut value[..]).unwrap();
            value.truncate(length);
            (name.to_vec(), value)
        })
        .collect()
}
