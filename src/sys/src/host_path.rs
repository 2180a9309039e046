//! Paths of the node that a user chose: what is behind them may be a file server that is gone.
//!
//! A look-up there can hang for ever, and a thread that hangs in the kernel cannot be got back. So what the kernel does not
//! know by heart is left to a child process, which is killed at the deadline: waits for file servers can be ended by
//! SIGKILL, though by nothing less. The child shares no memory and makes nothing but system calls, and the kernel kills it
//! when this process ends.
//!
//! Relabelling a volume for SELinux is such an errand too, and the longest.
//!
//! The few children that not even SIGKILL ends (a broken disk) are counted, and from `STUCK_MAX` on further ones are refused:
//! nothing piles up.

mod relabel;

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec},
    fs::{CWD, Mode, OFlags, ResolveFlags},
    io::Errno,
    net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags},
};

pub use self::relabel::{Relabelled, Relabelling, relabel};
use crate::{SysError, child};

/// How many children may wait for the end of what cannot be ended.
const STUCK_MAX: usize = 64;

/// How long a killed child may take to be gone before it counts as stuck.
const KILL_PATIENCE: Duration = Duration::from_millis(200);

/// How much of a file's contents goes into one packet.
const CHUNK_BYTES: usize = 8 << 10;

/// First byte of a packet with contents.
const CONTENTS: u8 = 0;
/// The packet that says that all contents were sent.
const END: u8 = 1;

/// Children that were killed and are still there.
static STUCK: Mutex<Vec<libc::pid_t>> = Mutex::new(Vec::new());

/// A path of the node, looked up.
#[derive(Debug)]
pub struct Found {
    /// The file or directory itself, held without being opened.
    pub fd: OwnedFd,
    /// Its path without symbolic links.
    pub path: PathBuf,
}

/// Looks `path` up, following symbolic links. Blocks until `within` is over at most; the error then is `TimedOut`.
pub fn find(path: &Path, within: Duration) -> Result<Found, SysError> {
    let failed = |source: io::Error| SysError::Path {
        doing: "find",
        path: path.to_owned(),
        source,
    };
    let fd = match find_by_heart(path) {
        Ok(fd) => fd,
        Err(Errno::AGAIN | Errno::NOSYS | Errno::INVAL | Errno::PERM) => {
            let mut child = Child::spawn(path, Errand::Find).map_err(failed)?;
            let outcome = child.answer(Instant::now() + within);
            child.end();
            outcome
                .and_then(|fd| fd.ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof)))
                .map_err(failed)?
        }
        Err(error) => return Err(failed(error.into())),
    };
    let link = format!("/proc/self/fd/{}", fd.as_raw_fd());
    // Where the kernel knows it to be: this asks no file system.
    let path = std::fs::read_link(link).map_err(failed)?;
    Ok(Found { fd, path })
}

/// What is in a regular file, of at most `max_bytes`; of more, one byte more is returned. Blocks until `within` is over at
/// most; the error then is `TimedOut`. Anything but a regular file is `InvalidInput`, and is not waited for.
pub fn read(path: &Path, max_bytes: usize, within: Duration) -> Result<Vec<u8>, SysError> {
    let failed = |source: io::Error| SysError::Path {
        doing: "read",
        path: path.to_owned(),
        source,
    };
    let deadline = Instant::now() + within;
    let mut child = Child::spawn(path, Errand::Read).map_err(failed)?;
    let outcome = child
        .answer(deadline)
        .and_then(|_| child.contents(max_bytes, deadline));
    child.end();
    outcome.map_err(failed)
}

/// Looks a path up as far as the kernel has all of it in memory, which never waits; `EAGAIN` if it has not.
fn find_by_heart(path: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    rustix::fs::openat2(CWD, path, flags, Mode::empty(), ResolveFlags::CACHED)
}

#[derive(Clone, Copy)]
enum Errand {
    Find,
    Read,
}

struct Child {
    pid: libc::pid_t,
    socket: OwnedFd,
}

impl Child {
    fn spawn(path: &Path, errand: Errand) -> io::Result<Self> {
        let path = CString::new(path.as_os_str().as_bytes())?;
        Self::fork(None, |socket| {
            // SAFETY: the path is a C string and the socket is open.
            unsafe {
                match errand {
                    Errand::Find => child_find(path.as_ptr(), socket),
                    Errand::Read => child_read(path.as_ptr(), socket),
                }
            }
        })
    }

    /// Has a child run `errand`, which is given its end of the socket and has `held`, but no other descriptor. It may make
    /// nothing but system calls: no lock, no memory, for another thread may have held any lock at the moment of the fork.
    fn fork(held: Option<&OwnedFd>, errand: impl FnOnce(libc::c_int)) -> io::Result<Self> {
        reap_stuck()?;
        let (socket, theirs) = rustix::net::socketpair(
            rustix::net::AddressFamily::UNIX,
            rustix::net::SocketType::SEQPACKET,
            rustix::net::SocketFlags::CLOEXEC,
            None,
        )?;
        let mut keep = [theirs.as_raw_fd(), held.unwrap_or(&theirs).as_raw_fd()];
        keep.sort_unstable();
        // SAFETY: an all-zero clone_args is valid, and asks for nothing.
        let mut order: libc::clone_args = unsafe { std::mem::zeroed() };
        order.exit_signal = libc::SIGCHLD.cast_unsigned().into();
        let parent = rustix::process::getpid().as_raw_nonzero().get();
        // SAFETY: the call reads one clone_args of the size given. The new process has a copy of this one's memory, and
        // calls nothing that takes a lock or memory: another thread may hold any lock at this moment.
        let pid = unsafe {
            libc::syscall(
                libc::SYS_clone3,
                &raw const order,
                size_of::<libc::clone_args>(),
            )
        };
        if pid == 0 {
            // SAFETY: in the child, where this is all that runs; the descriptor is its own copy, and `_exit` runs no code of
            // the parent's.
            unsafe {
                child::settle(parent, &keep);
                errand(theirs.as_raw_fd());
                libc::_exit(0);
            }
        }
        if pid < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self {
            pid: libc::pid_t::try_from(pid).unwrap_or(0),
            socket,
        })
    }

    /// The child's first word: an error number, or none and perhaps a descriptor.
    fn answer(&mut self, deadline: Instant) -> io::Result<Option<OwnedFd>> {
        self.wait(deadline)?;
        let mut word = [0_u8; 4];
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let received = rustix::net::recvmsg(
            &self.socket,
            &mut [io::IoSliceMut::new(&mut word)],
            &mut ancillary,
            RecvFlags::CMSG_CLOEXEC,
        )?;
        let fd = ancillary.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
            _ => None,
        });
        if received.bytes != word.len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        match i32::from_ne_bytes(word) {
            0 => Ok(fd),
            code => Err(io::Error::from_raw_os_error(code)),
        }
    }

    fn contents(&mut self, max_bytes: usize, deadline: Instant) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let mut packet = [0_u8; 1 + CHUNK_BYTES];
        while bytes.len() <= max_bytes {
            self.wait(deadline)?;
            let count = match rustix::io::read(&self.socket, &mut packet[..]) {
                Ok(count) => count,
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            };
            match packet[..count].split_first() {
                Some((&CONTENTS, chunk)) => bytes.extend_from_slice(chunk),
                Some((&END, _)) => return Ok(bytes),
                // A file server that fails in the middle, or a child that did not come to its end.
                _ => return Err(io::ErrorKind::UnexpectedEof.into()),
            }
        }
        bytes.truncate(max_bytes + 1);
        Ok(bytes)
    }

    fn wait(&self, deadline: Instant) -> io::Result<()> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let timeout = Timespec {
                tv_sec: left.as_secs().try_into().unwrap_or(i64::MAX),
                tv_nsec: left.subsec_nanos().into(),
            };
            let mut fds = [PollFd::new(&self.socket, PollFlags::IN)];
            match rustix::event::poll(&mut fds, Some(&timeout)) {
                Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Kills it, which is nothing to one that has ended, and takes it off the process table.
    fn end(self) {
        // SAFETY: the child was not waited for yet, so the number is its own.
        unsafe { libc::kill(self.pid, libc::SIGKILL) };
        let patience = Instant::now() + KILL_PATIENCE;
        while !is_reaped(self.pid) {
            if Instant::now() > patience {
                STUCK
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push(self.pid);
                return;
            }
            std::thread::sleep(Duration::from_micros(200));
        }
    }
}

/// Takes children off the process table that were stuck and are not any more.
fn reap_stuck() -> io::Result<()> {
    let mut stuck = STUCK.lock().unwrap_or_else(PoisonError::into_inner);
    stuck.retain(|&pid| !is_reaped(pid));
    if stuck.len() < STUCK_MAX {
        return Ok(());
    }
    let why = format!(
        "{STUCK_MAX} earlier look-ups of paths hang in the kernel; their file servers or disks have to answer first"
    );
    Err(io::Error::new(io::ErrorKind::ResourceBusy, why))
}

fn is_reaped(pid: libc::pid_t) -> bool {
    // SAFETY: no status is asked for; a number that is no child's is an error.
    let result = unsafe { libc::waitpid(pid, std::ptr::null_mut(), libc::WNOHANG) };
    result == pid || (result < 0 && io::Error::last_os_error().raw_os_error() == Some(libc::ECHILD))
}

/// The error number of the call that just failed.
///
/// # Safety
/// None; it is for callers that may call nothing but system calls.
unsafe fn errno() -> libc::c_int {
    // SAFETY: the place is this thread's own and always valid.
    unsafe { *libc::__errno_location() }
}

/// Sends the first word.
///
/// # Safety
/// `socket` is open, and so is `fd` unless it is negative.
unsafe fn child_answers(socket: libc::c_int, code: libc::c_int, fd: libc::c_int) {
    /// The size of a descriptor, as the macros of cmsg(3) take it.
    const FD_BYTES: libc::c_uint = libc::c_int::BITS / 8;

    #[repr(C, align(8))]
    struct Space([u8; 64]);

    let word = code.to_ne_bytes();
    let mut part = libc::iovec {
        iov_base: word.as_ptr().cast_mut().cast(),
        iov_len: word.len(),
    };
    let mut space = Space([0; 64]);
    // SAFETY: an all-zero msghdr is valid. It then points to one part and, with a descriptor, to space that is aligned for
    // a control header and larger than one descriptor needs; all live until the call has returned.
    unsafe {
        let mut message: libc::msghdr = std::mem::zeroed();
        message.msg_iov = &raw mut part;
        message.msg_iovlen = 1;
        if fd >= 0 {
            let size = FD_BYTES;
            message.msg_control = (&raw mut space.0).cast();
            message.msg_controllen = libc::CMSG_SPACE(size) as _;
            let header = libc::CMSG_FIRSTHDR(&raw const message);
            (*header).cmsg_level = libc::SOL_SOCKET;
            (*header).cmsg_type = libc::SCM_RIGHTS;
            (*header).cmsg_len = libc::CMSG_LEN(size) as _;
            libc::CMSG_DATA(header)
                .cast::<libc::c_int>()
                .write_unaligned(fd);
        }
        libc::sendmsg(socket, &raw const message, libc::MSG_NOSIGNAL);
    }
}

/// Looks the path up and sends what was found.
///
/// # Safety
/// `path` is a C string and `socket` is open; nothing but system calls may be made.
unsafe fn child_find(path: *const libc::c_char, socket: libc::c_int) {
    // SAFETY: as the caller promises.
    unsafe {
        let fd = libc::open(path, libc::O_PATH | libc::O_CLOEXEC);
        let code = if fd < 0 { errno() } else { 0 };
        child_answers(socket, code, fd);
    }
}

/// Sends what is in the file until the other side wants no more.
///
/// # Safety
/// `path` is a C string and `socket` is open; nothing but system calls may be made.
unsafe fn child_read(path: *const libc::c_char, socket: libc::c_int) {
    let mut packet = [CONTENTS; 1 + CHUNK_BYTES];
    // SAFETY: as the caller promises; the stat structure and the packet are this function's own, and what is read into
    // the packet is one byte shorter than it.
    unsafe {
        // A pipe would wait for its other end without NONBLOCK, and a terminal would become ours without NOCTTY.
        let flags = libc::O_RDONLY | libc::O_CLOEXEC | libc::O_NONBLOCK | libc::O_NOCTTY;
        let fd = libc::open(path, flags);
        let mut stat: libc::stat = std::mem::zeroed();
        let code = if fd < 0 || libc::fstat(fd, &raw mut stat) < 0 {
            errno()
        } else if stat.st_mode & libc::S_IFMT == libc::S_IFREG {
            0
        } else {
            libc::EINVAL
        };
        child_answers(socket, code, -1);
        if code != 0 {
            return;
        }
        loop {
            let start = (&raw mut packet).cast::<u8>();
            let count = libc::read(fd, start.add(1).cast(), CHUNK_BYTES);
            let Ok(count) = usize::try_from(count) else {
                return;
            };
            if count == 0 {
                let end = END;
                libc::send(socket, (&raw const end).cast(), 1, libc::MSG_NOSIGNAL);
                return;
            }
            let sent = libc::send(
                socket,
                start.cast_const().cast(),
                1 + count,
                libc::MSG_NOSIGNAL,
            );
            if sent < 0 {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use std::os::unix::fs::symlink;

    use super::*;

    const LONG: Duration = Duration::from_mins(1);

    #[test]
    fn links_are_followed_and_the_real_path_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let real = dir.path().canonicalize().unwrap();
        std::fs::write(real.join("file"), "text").unwrap();
        symlink("file", real.join("link")).unwrap();
        symlink(".", real.join("here")).unwrap();
        let found = find(&real.join("here/link"), LONG).unwrap();
        assert_eq!(found.path, real.join("file"));
        let error = find(&real.join("nothing"), LONG).unwrap_err();
        assert_eq!(error.io().unwrap().kind(), io::ErrorKind::NotFound);
        assert!(error.to_string().contains("nothing"), "{error}");
    }

    #[test]
    fn a_child_finds_what_the_kernel_would_have_known() {
        let dir = tempfile::tempdir().unwrap();
        let mut child = Child::spawn(dir.path(), Errand::Find).unwrap();
        let fd = child.answer(Instant::now() + LONG).unwrap().unwrap();
        child.end();
        let link = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).unwrap();
        assert_eq!(link, dir.path().canonicalize().unwrap());
        let mut child = Child::spawn(Path::new("/no/such"), Errand::Find).unwrap();
        let error = child.answer(Instant::now() + LONG).unwrap_err();
        child.end();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert!(Child::spawn(Path::new("/a\0b"), Errand::Find).is_err());
    }

    #[test]
    fn contents_come_whole_or_one_byte_too_long() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let text = vec![7_u8; 3 * CHUNK_BYTES + 5];
        std::fs::write(&path, &text).unwrap();
        assert_eq!(read(&path, text.len(), LONG).unwrap(), text);
        assert_eq!(read(&path, 100, LONG).unwrap().len(), 101);
        std::fs::write(&path, "").unwrap();
        assert_eq!(read(&path, 100, LONG).unwrap(), b"");
        assert!(read(&dir.path().join("none"), 100, LONG).is_err());
    }

    #[test]
    fn what_is_no_regular_file_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        let mode = Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(CWD, &pipe, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        for odd in [pipe.as_path(), dir.path(), Path::new("/dev/zero")] {
            let error = read(odd, 100, LONG).unwrap_err();
            assert_eq!(error.io().unwrap().kind(), io::ErrorKind::InvalidInput);
        }
    }

    #[test]
    fn a_child_that_waits_is_killed_at_the_deadline() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, vec![0_u8; 8 << 20]).unwrap();
        // It fills the socket and then waits for us, as it would for a file server.
        let mut child = Child::spawn(&file, Errand::Read).unwrap();
        child.answer(Instant::now() + LONG).unwrap();
        let pid = child.pid;
        child.end();
        assert!(is_reaped(pid));
        // Nothing to be had any more: the wait ends with the time.
        let mut idle = Child::spawn(&file, Errand::Find).unwrap();
        idle.answer(Instant::now() + LONG).unwrap();
        let (open, _kept) = rustix::net::socketpair(
            rustix::net::AddressFamily::UNIX,
            rustix::net::SocketType::SEQPACKET,
            rustix::net::SocketFlags::CLOEXEC,
            None,
        )
        .unwrap();
        idle.socket = open;
        let error = idle
            .answer(Instant::now() + Duration::from_millis(1))
            .unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        idle.end();
    }

    /// A child that waits for us to read what it sends, as it would wait for a file server.
    fn waiting(file: &Path) -> Child {
        std::fs::write(file, vec![0_u8; 8 << 20]).unwrap();
        let mut child = Child::spawn(file, Errand::Read).unwrap();
        child.answer(Instant::now() + LONG).unwrap();
        child
    }

    #[test]
    fn a_child_that_waits_keeps_nothing_of_the_servers_open() {
        let dir = tempfile::tempdir().unwrap();
        let lock = std::fs::File::create(dir.path().join("lock")).unwrap();
        lock.lock().unwrap();
        let child = waiting(&dir.path().join("file"));
        drop(lock);
        let next = std::fs::File::open(dir.path().join("lock")).unwrap();
        next.try_lock().unwrap();
        child.end();
    }

    #[test]
    fn a_child_that_waits_ends_with_those_who_wait_for_it() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        // To the kernel the parent is the thread that made the child.
        let child = std::thread::spawn(move || waiting(&file)).join().unwrap();
        let patience = Instant::now() + LONG;
        while !is_reaped(child.pid) {
            assert!(Instant::now() < patience, "it lives on");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}
