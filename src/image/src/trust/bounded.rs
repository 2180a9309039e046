//! Reading files that somebody else may have made: regular ones only, never more than a given length.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// What a file holds. The error names it.
pub(super) fn read_bounded(path: &Path, limit: u64) -> Result<Vec<u8>, String> {
    match read_if_there(path, limit)? {
        Some(bytes) => Ok(bytes),
        None => Err(format!("{}: no such file", path.display())),
    }
}

/// What a file holds; `None` if there is none.
pub(super) fn read_if_there(path: &Path, limit: u64) -> Result<Option<Vec<u8>>, String> {
    let words = |error: std::io::Error| format!("{}: {error}", path.display());
    // Opening a pipe must not wait for anyone to write.
    let nonblocking = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or_default();
    let file = File::options()
        .read(true)
        .custom_flags(nonblocking)
        .open(path);
    let file = match file {
        Ok(file) => file,
        Err(error)
            if matches!(
                error.kind(),
                std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory
            ) =>
        {
            return Ok(None);
        }
        Err(error) => return Err(words(error)),
    };
    if !file.metadata().map_err(words)?.is_file() {
        return Err(format!("{}: it is not a regular file", path.display()));
    }
    let mut bytes = Vec::new();
    file.take(limit + 1)
        .read_to_end(&mut bytes)
        .map_err(words)?;
    if bytes.len() as u64 > limit {
        return Err(format!(
            "{}: it has more than {limit} bytes",
            path.display()
        ));
    }
    Ok(Some(bytes))
}
