//! Signals and child processes by bare libc: `std::process::Command` would hand the monitor's blocked signals down.

use std::{
    ffi::CString,
    io,
    mem::MaybeUninit,
    os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
    ptr,
};

use rustix::process::Pid;

/// A set of signals.
pub(crate) struct SignalSet(libc::sigset_t);

impl SignalSet {
    pub(crate) fn of(signals: &[i32]) -> Self {
        let mut set = MaybeUninit::uninit();
        // SAFETY: sigemptyset initialises the set that sigaddset then changes; both pointers are to our own memory.
        unsafe {
            libc::sigemptyset(set.as_mut_ptr());
            for &signal in signals {
                libc::sigaddset(set.as_mut_ptr(), signal);
            }
            Self(set.assume_init())
        }
    }

    /// Keeps these signals pending instead of delivered.
    pub(crate) fn block(&self) -> io::Result<()> {
        // SAFETY: the set is initialised; a null old set is allowed.
        check(unsafe { libc::sigprocmask(libc::SIG_BLOCK, &raw const self.0, ptr::null_mut()) })
            .map(drop)
    }

    /// Waits for one of these signals, which must be blocked.
    pub(crate) fn wait(&self) -> i32 {
        // SAFETY: the set is initialised; a null siginfo is allowed.
        unsafe { libc::sigwaitinfo(&raw const self.0, ptr::null_mut()) }
    }

    /// A descriptor that becomes readable when one of these signals is pending.
    pub(crate) fn descriptor(&self) -> io::Result<OwnedFd> {
        // SAFETY: the set is initialised; -1 asks for a new descriptor.
        let fd = check(unsafe {
            libc::signalfd(
                -1,
                &raw const self.0,
                libc::SFD_CLOEXEC | libc::SFD_NONBLOCK,
            )
        })?;
        // SAFETY: the kernel just gave us this descriptor; nobody else knows it.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    }
}

/// The number of the next pending signal of a signal descriptor.
pub(crate) fn next_signal(descriptor: BorrowedFd<'_>) -> Option<u32> {
    let mut record = [0_u8; size_of::<libc::signalfd_siginfo>()];
    let length = rustix::io::read(descriptor, &mut record).ok()?;
    // ssi_signo is the record's first member.
    let number = record.get(..4).filter(|_| length == record.len())?;
    Some(u32::from_ne_bytes(number.try_into().ok()?))
}

/// Standard descriptors of a child.
#[derive(Clone, Copy)]
pub(crate) struct ChildStdio<'a> {
    pub(crate) stdin: BorrowedFd<'a>,
    pub(crate) stdout: BorrowedFd<'a>,
    pub(crate) stderr: BorrowedFd<'a>,
}

/// Starts a command in a process group of its own, with no signal blocked and nothing open but its standard descriptors.
/// The program must be a path.
pub(crate) fn spawn(command: &[Vec<u8>], stdio: ChildStdio<'_>) -> io::Result<Pid> {
    let arguments = command
        .iter()
        .map(|argument| CString::new(argument.as_slice()))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    let program = arguments
        .first()
        .ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))?;
    let mut pointers: Vec<*mut libc::c_char> = arguments
        .iter()
        .map(|argument| argument.as_ptr().cast_mut())
        .collect();
    pointers.push(ptr::null_mut());
    let descriptors = [stdio.stdin, stdio.stdout, stdio.stderr];

    let mut actions = MaybeUninit::uninit();
    let mut attributes = MaybeUninit::uninit();
    let mut pid = 0;
    // SAFETY: both objects are initialised before use and destroyed once; every pointer is to memory that lives through
    // the call; argument list and environment end with a null; the descriptors are open. dup2 onto 0, 1 and 2 clears
    // close-on-exec, and the sources are never 0, 1 or 2, which the monitor keeps open on its own log.
    let result = unsafe {
        libc::posix_spawn_file_actions_init(actions.as_mut_ptr());
        libc::posix_spawnattr_init(attributes.as_mut_ptr());
        for (target, source) in (0..).zip(descriptors) {
            libc::posix_spawn_file_actions_adddup2(
                actions.as_mut_ptr(),
                source.as_raw_fd(),
                target,
            );
        }
        let none = SignalSet::of(&[]);
        let default = SignalSet::of(&[libc::SIGPIPE, libc::SIGHUP]);
        libc::posix_spawnattr_setsigmask(attributes.as_mut_ptr(), &raw const none.0);
        libc::posix_spawnattr_setsigdefault(attributes.as_mut_ptr(), &raw const default.0);
        libc::posix_spawnattr_setpgroup(attributes.as_mut_ptr(), 0);
        let flags = libc::POSIX_SPAWN_SETSIGMASK
            | libc::POSIX_SPAWN_SETSIGDEF
            | libc::POSIX_SPAWN_SETPGROUP;
        libc::posix_spawnattr_setflags(
            attributes.as_mut_ptr(),
            libc::c_short::try_from(flags).unwrap_or_default(),
        );
        let result = libc::posix_spawn(
            &raw mut pid,
            program.as_ptr(),
            actions.as_ptr(),
            attributes.as_ptr(),
            pointers.as_ptr(),
            environment(),
        );
        libc::posix_spawnattr_destroy(attributes.as_mut_ptr());
        libc::posix_spawn_file_actions_destroy(actions.as_mut_ptr());
        result
    };
    if result != 0 {
        return Err(io::Error::from_raw_os_error(result));
    }
    Pid::from_raw(pid).ok_or_else(|| io::Error::from_raw_os_error(libc::ECHILD))
}

/// The environment that the server gave to the monitor.
fn environment() -> *const *mut libc::c_char {
    unsafe extern "C" {
        static environ: *const *mut libc::c_char;
    }
    // SAFETY: the monitor has one thread and never changes its environment.
    unsafe { environ }
}

fn check(result: i32) -> io::Result<i32> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}
