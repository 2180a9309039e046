//! Work that gives way to everything else.

/// The scheduling class of I/O that is done when the disk has nothing else to do, as ioprio_set(2) wants it.
const IO_IDLE: libc::c_int = 3 << 13;

/// ioprio_set(2): the number that follows is that of a thread.
const IO_OF_A_THREAD: libc::c_int = 1;

/// The least priority for the processor.
const NICEST: i32 = 19;

/// Lets the calling thread, and those that it starts from now on, have processor and disk only when nobody else wants
/// them. There is no way back for an unprivileged process, so it is meant for threads of their own.
pub fn give_way() {
    // On Linux this concerns the calling thread alone. A refusal leaves it as it was, which is only less kind.
    let _ = rustix::process::setpriority_process(None, NICEST);
    // SAFETY: ioprio_set takes three integers and no pointers; 0 is the calling thread.
    unsafe {
        // The same: schedulers without classes do not know it.
        let _ = libc::syscall(libc::SYS_ioprio_set, IO_OF_A_THREAD, 0, IO_IDLE);
    }
}
