//! Whether a path is a pod's network namespace: the check that keeps plugins out of the node's own and out of plain files.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// `NSFS_MAGIC` of linux/magic.h.
const NSFS_MAGIC: u64 = 0x6e73_6673;
/// The server's own namespace, which is the node's.
const OWN: &str = "/proc/self/ns/net";

/// Says why `path` cannot be used as a pod's network namespace.
pub(super) fn verify(path: &Path) -> Result<(), String> {
    let filesystem = rustix::fs::statfs(path).map_err(|error| error.to_string())?;
    if u64::try_from(filesystem.f_type) != Ok(NSFS_MAGIC) {
        return Err("no namespace is pinned there".to_owned());
    }
    let identity = |path: &Path| fs::metadata(path).map(|meta| (meta.dev(), meta.ino()));
    let pods = identity(path).map_err(|error| error.to_string())?;
    let own = identity(Path::new(OWN)).map_err(|error| format!("{OWN}: {error}"))?;
    if pods == own {
        return Err("it is the node's own".to_owned());
    }
    Ok(())
}
