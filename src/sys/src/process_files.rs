//! The files and sockets that processes have open.

use rustix::{
    fs::{AtFlags, Dir, Mode, OFlags},
    io::Errno,
};

/// What one process has open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OpenFiles {
    /// File descriptors.
    pub descriptors: u64,
    /// Those of them that are sockets; `None` if there were more descriptors than were to be looked at.
    pub sockets: Option<u64>,
}

/// Counts what a process has open. Descriptors are cheap to count; to tell sockets each one is looked at, and of those at
/// most `looks` in all. `None` if the process is gone or may not be looked at.
pub fn open_files(pid: u32, looks: &mut u64) -> Option<OpenFiles> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = rustix::fs::open(format!("/proc/{pid}/fd"), flags, Mode::empty()).ok()?;
    // Since Linux 6.2 the size of the directory is the number of descriptors; before it is 0.
    let size = rustix::fs::statat(&dir, c"", AtFlags::EMPTY_PATH).map_or(0, |stat| stat.st_size);
    let known = u64::try_from(size).ok().filter(|count| *count > 0);
    if let Some(descriptors) = known
        && descriptors > *looks
    {
        return Some(OpenFiles {
            descriptors,
            sockets: None,
        });
    }
    let (mut descriptors, mut sockets) = (0, Some(0));
    for entry in Dir::read_from(&dir).ok()? {
        let entry = entry.ok()?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        descriptors += 1;
        if *looks == 0 {
            sockets = None;
        }
        let Some(count) = &mut sockets else { continue };
        *looks -= 1;
        let mut target = [0_u8; 16];
        match rustix::fs::readlinkat_raw(&dir, name, &mut target[..]) {
            Ok(len) if target[..len].starts_with(b"socket:") => *count += 1,
            // Closed meanwhile.
            Ok(_) | Err(Errno::NOENT) => {}
            Err(_) => return None,
        }
    }
    Some(OpenFiles {
        descriptors,
        sockets,
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
            .stdin(std::os::fd::OwnedFd::from(one))
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
        assert!(found.descriptors >= 3, "{found:?}");
        assert_eq!(found.sockets, Some(1));
        let cut = open_files(child.id(), &mut 1).unwrap();
        assert_eq!((cut.descriptors, cut.sockets), (found.descriptors, None));
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(open_files(child.id(), &mut 1000), None);
    }
}
