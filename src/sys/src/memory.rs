//! What a process keeps though it has no use for it any more.
//!
//! glibc gives every thread that allocates an arena of its own, and keeps what was freed. A server that pulled an image
//! would stay tens of megabytes larger than it has to be. And the kernel maps code in pieces of 64 KiB around what is
//! executed, and leaves it mapped: starting up and pulling touch most of a program that then needs little of it.

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

/// Gives memory that was freed back to the system, and lets go of the program's code. Takes some milliseconds and blocks
/// other allocations for parts of them: meant for the end of something large.
pub fn trim() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim takes one integer and no pointers; it locks the arenas itself.
    unsafe {
        // It tells whether anything was given back, which nobody needs to know.
        let _ = libc::malloc_trim(0);
    }
    release_code();
}

/// Unmaps the pages of the program's file that are only read and executed. They stay in the page cache, where the kernel
/// can take them when it is short; what is executed next comes back from there by minor faults.
pub fn release_code() {
    // SAFETY: `release_segments` has the signature that dl_iterate_phdr demands, and takes no data.
    unsafe {
        libc::dl_iterate_phdr(Some(release_segments), std::ptr::null_mut());
    }
}

/// For the first object of the list, which is the program itself: libraries are shared with others and small.
unsafe extern "C" fn release_segments(
    info: *mut libc::dl_phdr_info,
    _size: libc::size_t,
    _data: *mut libc::c_void,
) -> libc::c_int {
    const LAST: libc::c_int = 1;
    // SAFETY: dl_iterate_phdr passes a valid object for the time of this call.
    let info = unsafe { &*info };
    if info.dlpi_phdr.is_null() {
        return LAST;
    }
    // SAFETY: the object says where its program headers are and how many; they are mapped as long as the program is.
    let headers =
        unsafe { std::slice::from_raw_parts(info.dlpi_phdr, usize::from(info.dlpi_phnum)) };
    let page = rustix::param::page_size();
    for header in headers {
        // A writable segment holds relocated pointers and data, also where it was made read-only later: it would come
        // back as it is in the file.
        if header.p_type != libc::PT_LOAD || header.p_flags & libc::PF_W != 0 {
            continue;
        }
        let (Ok(offset), Ok(length)) = (
            usize::try_from(header.p_vaddr),
            usize::try_from(header.p_memsz),
        ) else {
            continue;
        };
        let Ok(base) = usize::try_from(info.dlpi_addr) else {
            continue;
        };
        // Whole pages inside the segment: a page that it shares with its neighbour is not touched.
        let begin = (base + offset).next_multiple_of(page);
        let end = (base + offset + length) / page * page;
        if begin < end {
            // SAFETY: the range lies inside a segment that is mapped from the program's file and that nothing can have
            // written to, so what a later access finds there is what was there before.
            unsafe {
                // A refusal leaves everything as it is.
                libc::madvise(
                    std::ptr::with_exposed_provenance_mut(begin),
                    end - begin,
                    libc::MADV_DONTNEED,
                );
            }
        }
    }
    LAST
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    /// KiB of the program's own pages that are mapped, of those that nobody writes to.
    fn code_kib() -> u64 {
        let program = std::fs::read_link("/proc/self/exe").unwrap();
        let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let mut is_code = false;
        let mut sum = 0;
        for line in smaps.lines() {
            if let Some(rss) = line.strip_prefix("Rss:") {
                if is_code {
                    sum += rss.trim().trim_end_matches(" kB").parse::<u64>().unwrap();
                }
            } else if !line
                .split(' ')
                .next()
                .is_some_and(|word| word.ends_with(':'))
            {
                // The first line of a mapping.
                is_code = line.contains(" r-xp ") && line.ends_with(program.to_str().unwrap());
            }
        }
        sum
    }

    #[test]
    fn code_that_is_not_executed_is_let_go_and_comes_back() {
        // Touch it all, as a long start would.
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let program = std::fs::read_link("/proc/self/exe").unwrap();
        let (range, _) = maps
            .lines()
            .find(|line| line.contains(" r-xp ") && line.ends_with(program.to_str().unwrap()))
            .and_then(|line| line.split_once(' '))
            .unwrap();
        let (begin, end) = range.split_once('-').unwrap();
        let begin = usize::from_str_radix(begin, 16).unwrap();
        let end = usize::from_str_radix(end, 16).unwrap();
        let sum = || -> u64 {
            (begin..end)
                .step_by(4096)
                // SAFETY: the range is mapped readable for the life of the program.
                .map(|at| u64::from(unsafe { *std::ptr::with_exposed_provenance::<u8>(at) }))
                .sum()
        };
        let bytes = sum();
        let before = code_kib();
        super::trim();
        let after = code_kib();
        // What counted them is mapped again.
        assert!(after < before, "{after} KiB of {before} are still mapped");
        assert_eq!(sum(), bytes);
    }

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
