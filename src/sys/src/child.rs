//! Children that stay this program: copies of it that make a few system calls and end.
//!
//! Such a child has a copy of every descriptor that is open here, close-on-exec or not, for it executes nothing. As long as
//! it lives, and a child that hangs in the kernel may live for long, it would hold the server's lock against the next
//! server, and keep pipes and sockets open whose other ends wait for their end. It also knows nothing of its parent's end.

use std::os::fd::RawFd;

/// What a child does first: it ends when its parent does, and closes all descriptors but those of `keep`.
///
/// Returns without closing anything where the kernel has no `close_range` (before Linux 5.9).
///
/// # Safety
/// In a child with one thread and memory of its own, whose parent is the process `parent`. `keep` is in ascending order.
pub(crate) unsafe fn settle(parent: libc::pid_t, keep: &[RawFd]) {
    // SAFETY: system calls without pointers; whoever owned the descriptors is code that never runs in this process.
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        // The parent may have ended before.
        if libc::getppid() != parent {
            libc::_exit(0);
        }
        let mut first: libc::c_uint = 0;
        for fd in keep {
            let fd = fd.cast_unsigned();
            if fd > first {
                libc::syscall(libc::SYS_close_range, first, fd - 1, 0);
            }
            first = fd + 1;
        }
        libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, 0);
    }
}
