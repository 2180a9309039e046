//! Filesystems to measure on: ext4 with a journal, brand-new, in a file.
//!
//! The root filesystem of a test machine may have no journal, and then creating many files after removing many is up to
//! eight times slower; and whoever comes second finds a disk that the first has worn. See docs/performance.md.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use pintle_test::{
    places,
    world::{make_dirs, run},
};

/// A mounted filesystem. Dropping it takes it away.
#[derive(Debug)]
pub(crate) struct Disk {
    file: PathBuf,
    target: PathBuf,
}

impl Disk {
    /// Makes one and mounts it. The file is sparse: it takes what is written.
    pub(crate) fn mount(name: &str, bytes: u64, target: &Path) -> Result<Self> {
        let file = places::cache()?.join(format!("disk-{}-{name}.ext4", std::process::id()));
        // A run that was killed may have left one under this name; it is as good as any other.
        let sparse = File::create(&file).with_context(|| format!("making {}", file.display()))?;
        sparse
            .set_len(bytes)
            .with_context(|| format!("sizing {}", file.display()))?;
        let disk = Self {
            file,
            target: target.to_owned(),
        };
        let file = disk.file.to_str().context("a path that is no text")?;
        run(
            "mkfs.ext4",
            ["-q", "-F", "-E", "lazy_itable_init=1,nodiscard", file],
        )?;
        make_dirs(target)?;
        let target = target.to_str().context("a path that is no text")?;
        run("mount", ["-o", "loop,noinit_itable", file, target])?;
        Ok(disk)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // The world's end would unmount it too, and the loop device goes with the last mount.
        if let Err(error) = sys::mount::unmount(&self.target) {
            eprintln!("bench: {error}");
        }
        if let Err(error) = fs::remove_file(&self.file) {
            eprintln!("bench: removing {}: {error}", self.file.display());
        }
    }
}
