//! What the allocator keeps.
//!
//! glibc gives every thread that allocates an arena of its own, and keeps what was freed. A server that pulled an image
//! would stay tens of megabytes larger than it has to be.

/// How many arenas all threads share. Two: the server is not an allocation benchmark, and each arena keeps its own hoard.
#[cfg(target_env = "gnu")]
const ARENAS: libc::c_int = 2;

/// Makes all threads share a few arenas. To be called once, before threads are started.
pub fn limit_arenas() {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt takes two integers and no pointers; it may be called at any time.
    unsafe {
        // A refusal leaves the default, which is only larger.
        let _ = libc::mallopt(libc::M_ARENA_MAX, ARENAS);
    }
}

/// Gives memory that was freed back to the system. Takes some milliseconds and blocks other allocations for parts of
/// them: meant for the end of something large.
pub fn trim() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim takes one integer and no pointers; it locks the arenas itself.
    unsafe {
        // It tells whether anything was given back, which nobody needs to know.
        let _ = libc::malloc_trim(0);
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn memory_stays_usable() {
        super::limit_arenas();
        let before = vec![1_u8; 1 << 20];
        super::trim();
        assert_eq!(
            before.iter().map(|&byte| usize::from(byte)).sum::<usize>(),
            1 << 20
        );
    }
}
