//! The files and sockets that processes have open.

use std::{mem::MaybeUninit, os::fd::OwnedFd};

use rustix::{
    fs::{AtFlags, Mode, OFlags, RawDir},
    io::Errno,
};

/// Bytes for names of descriptors: of some hundred at a time.
const NAMES_BYTES: usize = 8 << 10;

/// What one process has open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OpenFiles {
    /// File descriptors; `None` if there were more than were to be looked at, on kernels that do not tell their number.
    pub descriptors: Option<u64>,
    /// Those of them that are sockets; `None` if there were more descriptors than were to be looked at.
    pub sockets: Option<u64>,
}

/// Counts what a process has open. Each descriptor that is looked at takes one of `looks`, and without any left nothing is
/// looked at any more. Linux 6.2 and later tell the number of descriptors also then. `None` if the process is gone or may
/// not be looked at.
pub fn open_files(pid: u32, looks: &mut u64) -> Option<OpenFiles> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = rustix::fs::open(format!("/proc/{pid}/fd"), flags, Mode::empty()).ok()?;
    // Since Linux 6.2 the size of the directory is the number of descriptors; before it is 0.
    let size = rustix::fs::statat(&dir, c"", AtFlags::EMPTY_PATH).map_or(0, |stat| stat.st_size);
    let known = u64::try_from(size).ok().filter(|count| *count > 0);
    look_into(&dir, known, looks)
}

/// Counts what is open by the names in `dir`, which was not read from yet, as far as `looks` reach. `known` is how many there are, if the kernel told.
fn look_into(dir: &OwnedFd, known: Option<u64>, looks: &mut u64) -> Option<OpenFiles> {
    let too_many = Some(OpenFiles {
        descriptors: known,
        sockets: None,
    });
    if known.unwrap_or(0) > *looks {
        return too_many;
    }
    let (mut descriptors, mut sockets) = (0, 0);
    let mut names = [MaybeUninit::uninit(); NAMES_BYTES];
    let mut entries = RawDir::new(dir, &mut names);
    while let Some(entry) = entries.next() {
        let entry = entry.ok()?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        // Before the next one is read: a process may have a million, and share them with a thousand others.
        let Some(left) = looks.checked_sub(1) else {
            return too_many;
        };
        *looks = left;
        descriptors += 1;
        let mut target = [0_u8; 16];
        match rustix::fs::readlinkat_raw(dir, name, &mut target[..]) {
            Ok(len) if target[..len].starts_with(b"socket:") => sockets += 1,
            // Closed meanwhile.
            Ok(_) | Err(Errno::NOENT) => {}
            Err(_) => return None,
        }
    }
    Some(OpenFiles {
        descriptors: Some(descriptors),
        sockets: Some(sockets),
    })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use std::{
        io::{Read as _, Write as _},
        os::unix::net::UnixStream,
    };

    use super::*;

    #[test]
    fn descriptors_and_sockets_are_counted() {
        // A process of its own: the other tests of this one open and close what they like.
        let (one, mut other) = UnixStream::pair().unwrap();
        let mut child = std::process::Command::new("cat")
            .stdin(OwnedFd::from(one))
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        // Until it answers, it is still being made and has files of ours.
        other.write_all(b"x").unwrap();
        let mut echo = [0];
        child
            .stdout
            .as_mut()
            .unwrap()
            .read_exact(&mut echo)
            .unwrap();
        let found = open_files(child.id(), &mut 1000).unwrap();
        assert!(
            found.descriptors.is_some_and(|count| count >= 3),
            "{found:?}"
        );
        assert_eq!(found.sockets, Some(1));
        let cut = open_files(child.id(), &mut 1).unwrap();
        assert_eq!((cut.descriptors, cut.sockets), (found.descriptors, None));
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(open_files(child.id(), &mut 1000), None);
    }

    #[test]
    fn no_more_is_looked_at_than_there_are_looks() {
        let dir = tempfile::tempdir().unwrap();
        for (name, target) in [
            ("0", "/dev/null"),
            ("1", "socket:[7]"),
            ("2", "pipe:[8]"),
            ("3", "socket:[9]"),
        ] {
            std::os::unix::fs::symlink(target, dir.path().join(name)).unwrap();
        }
        for (known, looks, left, descriptors, sockets) in [
            (Some(4), 5, 1, Some(4), Some(2)),
            (Some(4), 3, 3, Some(4), None),
            // More than there were a moment ago.
            (Some(2), 3, 0, Some(2), None),
            // Before Linux 6.2.
            (None, 5, 1, Some(4), Some(2)),
            (None, 4, 0, Some(4), Some(2)),
            (None, 3, 0, None, None),
            (None, 0, 0, None, None),
        ] {
            let mut rest = looks;
            let opened = OwnedFd::from(std::fs::File::open(dir.path()).unwrap());
            let found = look_into(&opened, known, &mut rest).unwrap();
            let wanted = OpenFiles {
                descriptors,
                sockets,
            };
            assert_eq!((found, rest), (wanted, left), "{known:?} {looks}");
        }
    }
}
