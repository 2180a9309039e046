//! Handles of files: names that the file system itself gives, which last while a file is renamed and moved.

use std::{
    io,
    os::fd::{AsFd, AsRawFd as _, FromRawFd as _, OwnedFd, RawFd},
};

/// The longest handle, in bytes (`MAX_HANDLE_SZ`).
const MAX_BYTES: u32 = 128;

/// `struct file_handle` of the kernel, with as much room as there may be need for.
#[repr(C)]
#[derive(Clone)]
struct Raw {
    bytes: libc::c_uint,
    kind: libc::c_int,
    handle: [u8; MAX_BYTES as usize],
}

/// Finds a file again that is not kept open, wherever it was moved to in its file system.
#[derive(Clone)]
pub struct FileHandle(Box<Raw>);

impl std::fmt::Debug for FileHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FileHandle").finish_non_exhaustive()
    }
}

impl FileHandle {
    /// The handle of an open file.
    ///
    /// # Errors
    /// Its file system has no handles.
    pub fn of(file: impl AsFd) -> io::Result<Self> {
        let mut raw = Box::new(Raw {
            bytes: MAX_BYTES,
            kind: 0,
            handle: [0; MAX_BYTES as usize],
        });
        let mut mount: libc::c_int = 0;
        // SAFETY: `raw` is laid out as the kernel's structure and has room for the `bytes` that it says; both pointers are
        // to values that outlive the call.
        let result = unsafe {
            libc::syscall(
                libc::SYS_name_to_handle_at,
                file.as_fd().as_raw_fd(),
                c"".as_ptr(),
                &raw mut *raw,
                &raw mut mount,
                libc::AT_EMPTY_PATH,
            )
        };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self(raw))
    }

    /// Opens the directory for reading, without going through any path. `beside` is anything open of the same file system.
    ///
    /// # Errors
    /// It is gone (`ESTALE`) or no directory, or this process lacks `CAP_DAC_READ_SEARCH`.
    pub fn open_directory(&self, beside: impl AsFd) -> io::Result<OwnedFd> {
        let flags = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_CLOEXEC;
        let raw: *const Raw = &raw const *self.0;
        // SAFETY: `raw` is a handle that the kernel filled in, and outlives the call, which only reads it.
        let result = unsafe {
            libc::syscall(
                libc::SYS_open_by_handle_at,
                beside.as_fd().as_raw_fd(),
                raw,
                flags,
            )
        };
        match RawFd::try_from(result) {
            // SAFETY: the kernel just opened it for this call, and nobody else knows it.
            Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use std::{fs, os::unix::fs::MetadataExt as _};

    use super::*;

    #[test]
    fn a_directory_is_found_again_wherever_it_was_moved() {
        let root = tempfile::tempdir().unwrap();
        let (one, two) = (root.path().join("one"), root.path().join("two"));
        fs::create_dir_all(one.join("deep")).unwrap();
        fs::create_dir(&two).unwrap();
        let top = fs::File::open(root.path()).unwrap();
        let handle = match FileHandle::of(fs::File::open(one.join("deep")).unwrap()) {
            Ok(handle) => handle,
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => return,
            Err(error) => panic!("{error}"),
        };
        fs::rename(one.join("deep"), two.join("moved")).unwrap();
        let found = match handle.open_directory(&top) {
            Ok(found) => fs::File::from(found),
            Err(error) if !rustix::process::geteuid().is_root() => {
                assert_eq!(error.raw_os_error(), Some(libc::EPERM));
                return;
            }
            Err(error) => panic!("{error}"),
        };
        let wanted = fs::metadata(two.join("moved")).unwrap();
        assert_eq!(found.metadata().unwrap().ino(), wanted.ino());
        drop(found);
        fs::remove_dir(two.join("moved")).unwrap();
        let error = handle.open_directory(&top).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ESTALE));
    }
}
