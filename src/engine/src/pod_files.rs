//! The small files that every pod has: resolv.conf and hostname.
//!
//! Containers may write to them, as with other runtimes, and what is written to `/run` is taken from the whole node. So they
//! stand on a tmpfs of the pod's own, in which there is little room beside them.

use std::{
    fmt::Write as _,
    fs,
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::Path,
};

use spec::model::{Dns, PodConfig};
use state::PodId;
use sys::mount::Tmpfs;

use crate::{error::EngineError, paths::Paths, user_namespace};

/// Size of a pod's `/dev/shm`: what Kubernetes users know from the peers.
const SHM_BYTES: u64 = 64 << 20;

/// What a file on a tmpfs takes at least; larger pages make the room larger.
const PAGE_BYTES: u64 = 4096;

/// The node's own host name.
pub(crate) fn node_hostname() -> String {
    rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned()
}

/// How much longer than they are at first the files can become, together.
const ROOM_BYTES: u64 = 64 << 10;

/// The directory and the two files, and some more for what a future version may add to a living pod.
const FILES_MAX: u32 = 16;

/// Make the pod's directory and write its files, which belong to the root of the pod's user namespace.
pub(crate) fn write(
    paths: &Paths,
    id: &PodId,
    config: &PodConfig,
    hostname: &str,
) -> Result<(), EngineError> {
    let resolv = match &config.dns {
        Some(dns) => resolv_conf(dns).into_bytes(),
        None => host_resolv_conf(),
    };
    let hostname = format!("{hostname}\n").into_bytes();
    let (uid, gid) = user_namespace::root(config);
    let files = paths.pod_files(id);
    make_dir(&files)?;
    let pages = |bytes: &[u8]| (bytes.len() as u64).next_multiple_of(PAGE_BYTES);
    sys::mount::tmpfs(
        &files,
        &Tmpfs {
            size_bytes: pages(&resolv) + pages(&hostname) + ROOM_BYTES,
            max_inodes: Some(FILES_MAX),
            mode: 0o755,
            uid,
            gid,
        },
    )?;
    for (path, bytes) in [
        (paths.resolv_conf(id), resolv),
        (paths.hostname(id), hostname),
    ] {
        write_file(&path, &bytes)?;
        user_namespace::give(&path, (uid, gid))?;
    }
    Ok(())
}

/// Mount the pod's `/dev/shm`.
pub(crate) fn mount_shm(paths: &Paths, id: &PodId, config: &PodConfig) -> Result<(), EngineError> {
    let shm = paths.shm(id);
    make_dir(&shm)?;
    let (uid, gid) = user_namespace::root(config);
    let tmpfs = Tmpfs {
        uid,
        gid,
        ..Tmpfs::new(SHM_BYTES, 0o1777)
    };
    Ok(sys::mount::tmpfs(&shm, &tmpfs)?)
}

/// Label what the pod's containers share: the small files, and the top of `/dev/shm` if there is one. What containers make
/// in it has labels of its own.
pub(crate) fn label(paths: &Paths, id: &PodId, label: &str) -> Result<(), EngineError> {
    for path in [
        paths.pod_files(id),
        paths.resolv_conf(id),
        paths.hostname(id),
        paths.shm(id),
    ] {
        if path.exists() {
            sys::selinux::set_label(&path, label)?;
        }
    }
    Ok(())
}

/// Make a directory and those above it, closed to other users.
pub(crate) fn make_dir(path: &Path) -> Result<(), EngineError> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o711)
        .create(path)
        .map_err(|source| EngineError::Io {
            action: "make the directory",
            path: path.to_owned(),
            source,
        })
}

pub(crate) fn write_file(path: &Path, bytes: &[u8]) -> Result<(), EngineError> {
    fs::write(path, bytes).map_err(|source| EngineError::Io {
        action: "write",
        path: path.to_owned(),
        source,
    })
}

/// Write a file that only root may read.
pub(crate) fn write_private(path: &Path, bytes: &[u8]) -> Result<(), EngineError> {
    create_private(path)
        .and_then(|mut file| file.write_all(bytes))
        .map_err(|source| EngineError::Io {
            action: "write",
            path: path.to_owned(),
            source,
        })
}

pub(crate) fn create_private(path: &Path) -> io::Result<fs::File> {
    fs::File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
}

/// A node without the file has no resolver: pods get an empty one, as its own programs do.
fn host_resolv_conf() -> Vec<u8> {
    fs::read("/etc/resolv.conf").unwrap_or_default()
}

fn resolv_conf(dns: &Dns) -> String {
    let mut text = String::new();
    if !dns.searches.is_empty() {
        let _ = writeln!(text, "search {}", dns.searches.join(" "));
    }
    for server in &dns.servers {
        let _ = writeln!(text, "nameserver {server}");
    }
    if !dns.options.is_empty() {
        let _ = writeln!(text, "options {}", dns.options.join(" "));
    }
    text
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn resolv_conf_has_a_line_for_each_part_that_was_given() {
        let dns = Dns {
            servers: vec!["10.0.0.10".into(), "10.0.0.11".into()],
            searches: vec!["a.local".into(), "b.local".into()],
            options: vec!["ndots:5".into()],
        };
        assert_eq!(
            resolv_conf(&dns),
            "search a.local b.local\nnameserver 10.0.0.10\nnameserver 10.0.0.11\noptions ndots:5\n"
        );
        assert_eq!(resolv_conf(&Dns::default()), "");
    }
}
