//! SELinux, as far as a container runtime needs it: whether it is active, whether the policy knows a context, labels of files.

use std::{
    ffi::{CStr, CString},
    fs, io,
    io::{Read as _, Write as _},
    path::Path,
};

use rustix::{fs::XattrFlags, io::Errno};

use crate::SysError;

/// Where the kernel's face of it is mounted.
const MOUNTED: &str = "/sys/fs/selinux";

/// The kind of file system that is there.
const MAGIC: u64 = 0xf97c_ff8c;

/// The attribute that holds a file's label.
pub(crate) const ATTRIBUTE: &CStr = c"security.selinux";

/// Longest context that is read back.
const CONTEXT_MAX_BYTES: usize = 4 << 10;

/// What an active SELinux does with what the policy forbids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// It fails.
    Enforcing,
    /// It is noted in the audit log.
    Permissive,
}

/// Whether SELinux is active: the kernel has it, its file system is mounted and a policy was loaded.
pub fn mode() -> Option<Mode> {
    if crate::fs::magic_of(Path::new(MOUNTED)).ok()? != MAGIC {
        return None;
    }
    // Before a policy is loaded everything has the context of the kernel, without the parts that policies define.
    let own = fs::read("/proc/thread-self/attr/current").ok()?;
    if !own.contains(&b':') {
        return None;
    }
    let enforce = fs::read(Path::new(MOUNTED).join("enforce")).ok()?;
    Some(if enforce.first() == Some(&b'1') {
        Mode::Enforcing
    } else {
        Mode::Permissive
    })
}

/// The context as the kernel would write it, if the loaded policy has all that is in it; `None` if not.
pub fn canonical(context: &str) -> Result<Option<String>, SysError> {
    let path = Path::new(MOUNTED).join("context");
    let failed = |source: io::Error| SysError::path("ask for a context by", &path)(source);
    let value = value(context).map_err(failed)?;
    let mut file = fs::File::options()
        .read(true)
        .write(true)
        .open(&path)
        .map_err(failed)?;
    match file.write(value.to_bytes_with_nul()) {
        Ok(_) => {}
        Err(error) if error.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => return Ok(None),
        Err(error) => return Err(failed(error)),
    }
    let mut bytes = [0; CONTEXT_MAX_BYTES];
    let length = file.read(&mut bytes).map_err(failed)?;
    let text = bytes.get(..length).unwrap_or_default();
    let text = text.strip_suffix(b"\0").unwrap_or(text);
    Ok(Some(String::from_utf8_lossy(text).into_owned()))
}

/// Labels a file or directory of our own; a symbolic link itself. A file system that keeps no labels is no error. Not for
/// paths that a user controls: this may hang there.
pub fn set_label(path: &Path, label: &str) -> Result<(), SysError> {
    let failed = |source: io::Error| SysError::path("label", path)(source);
    let value = value(label).map_err(failed)?;
    let flags = XattrFlags::empty();
    match rustix::fs::lsetxattr(path, ATTRIBUTE, value.to_bytes_with_nul(), flags) {
        Ok(()) | Err(Errno::OPNOTSUPP) => Ok(()),
        Err(error) => Err(failed(error.into())),
    }
}

/// The label of a file or directory, or of the link itself; `None` if it has none.
pub fn label(path: &Path) -> Result<Option<String>, SysError> {
    let mut value = [0; CONTEXT_MAX_BYTES];
    match rustix::fs::lgetxattr(path, ATTRIBUTE, &mut value) {
        Ok(length) => {
            let text = value.get(..length).unwrap_or_default();
            let text = text.strip_suffix(b"\0").unwrap_or(text);
            Ok(Some(String::from_utf8_lossy(text).into_owned()))
        }
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(None),
        Err(error) => Err(SysError::path("read the label of", path)(error)),
    }
}

/// A label as the attribute's value, which ends with a NUL.
pub(crate) fn value(label: &str) -> io::Result<CString> {
    Ok(CString::new(label)?)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;

    const LABEL: &str = "system_u:object_r:container_file_t:s0:c1,c2";

    #[test]
    fn a_file_has_the_label_that_it_was_given() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        std::os::unix::fs::symlink("/", dir.path().join("link")).unwrap();
        set_label(&file, LABEL).unwrap();
        assert_eq!(label(&file).unwrap().as_deref(), Some(LABEL));
        set_label(&dir.path().join("link"), LABEL).unwrap();
        assert_ne!(label(Path::new("/")).unwrap().as_deref(), Some(LABEL));
        assert!(set_label(&file, "a\0b").is_err());
        assert!(set_label(&dir.path().join("none"), LABEL).is_err());
    }

    #[test]
    fn contexts_are_asked_for_only_where_the_kernel_can_answer() {
        match mode() {
            None => assert!(canonical(LABEL).is_err()),
            Some(_) => assert_eq!(canonical("no:such:context:at:all").unwrap(), None),
        }
    }
}
