//! The directories: overlays, space, and that the run directory vanishes with a reboot.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use sys::{
    fs::{FilesystemUsage, filesystem_usage, is_tmpfs},
    mount::{OverlayMount, UpperDirs},
};

use super::finding::Finding;
use crate::config::Config;
use crate::exit::in_full;

/// Below this share of a filesystem, the kubelet begins to collect images.
const FREE_PERCENT_WANTED: u64 = 10;
/// Room for one image.
const FREE_BYTES_NEEDED: u64 = 1 << 30;

/// All of it.
pub(super) fn check(config: &Config) -> Vec<Finding> {
    let mut findings = Vec::new();
    match existing(&config.root).map(filesystem_usage) {
        Some(Ok(usage)) => findings.push(space(&config.root, &usage)),
        Some(Err(error)) => findings.push(Finding::fail(
            "disk",
            in_full(&error),
            "set `root` to a directory on a local disk",
        )),
        None => {}
    }
    findings.push(overlay(&config.root));
    match existing(&config.run).map(is_tmpfs) {
        Some(Ok(true)) | None => {
            findings.push(Finding::ok(
                "run",
                format!("{} is on a tmpfs", config.run.display()),
            ));
        }
        Some(Ok(false)) => findings.push(Finding::warn(
            "run",
            format!(
                "{} is not on a tmpfs: after a reboot the server would look for pods that are gone",
                config.run.display()
            ),
            "set `run` to a directory below /run",
        )),
        Some(Err(error)) => findings.push(Finding::fail(
            "run",
            in_full(&error),
            "set `run` to a directory below /run",
        )),
    }
    findings
}

/// The directory itself or the nearest one above it that is there.
fn existing(path: &Path) -> Option<&Path> {
    path.ancestors().find(|path| path.exists())
}

fn space(root: &Path, usage: &FilesystemUsage) -> Finding {
    let text = format!(
        "{} has {} MiB of {} MiB left",
        root.display(),
        usage.available_bytes >> 20,
        usage.total_bytes >> 20
    );
    let low = |part: u64, whole: u64| {
        u128::from(part) * 100 < u128::from(whole) * u128::from(FREE_PERCENT_WANTED)
    };
    if usage.available_bytes < FREE_BYTES_NEEDED {
        Finding::fail(
            "disk",
            text,
            "make room, or set `root` to a larger filesystem",
        )
    } else if low(usage.available_bytes, usage.total_bytes) {
        Finding::warn(
            "disk",
            text,
            "make room, or set `root` to a larger filesystem",
        )
    } else if usage.total_inodes > 0 && low(usage.free_inodes, usage.total_inodes) {
        Finding::warn(
            "disk",
            format!(
                "{} has {} of {} inodes left",
                root.display(),
                usage.free_inodes,
                usage.total_inodes
            ),
            "remove many small files, or set `root` to a filesystem with more inodes",
        )
    } else {
        Finding::ok("disk", text)
    }
}

/// Mounts an overlay as containers get it and takes it away again.
fn overlay(root: &Path) -> Finding {
    let fail = |found: String| {
        Finding::fail(
            "overlay",
            found,
            "set `root` to ext4, xfs with ftype=1 or btrfs, not to an overlay or a network filesystem",
        )
    };
    let scratch = match Scratch::make(root) {
        Ok(scratch) => scratch,
        Err(error) => {
            return Finding::fail(
                "overlay",
                format!("cannot write below {}: {error}", root.display()),
                "run the check as root, and make the directory writable",
            );
        }
    };
    match scratch.mount(true) {
        Ok(()) => Finding::ok("overlay", "volatile overlays can be mounted"),
        Err(volatile) => match scratch.mount(false) {
            Ok(()) => Finding::warn(
                "overlay",
                "overlays can be mounted, but not volatile ones: stopping a container syncs the whole disk",
                "install Linux 5.10 or later",
            ),
            Err(_) => fail(in_full(&volatile)),
        },
    }
}

/// Directories for the attempt; they are gone with this value.
struct Scratch {
    top: PathBuf,
    lower: PathBuf,
    upper: PathBuf,
    work: PathBuf,
    target: PathBuf,
}

impl Scratch {
    /// In `root`, or, to leave no trace, in the directory in which the server would make it.
    fn make(root: &Path) -> io::Result<Self> {
        let place = existing(root).unwrap_or(root);
        let top = place.join(format!(".pintle-check-{}", std::process::id()));
        let scratch = Self {
            lower: top.join("lower"),
            upper: top.join("upper"),
            work: top.join("work"),
            target: top.join("target"),
            top,
        };
        for directory in [
            &scratch.lower,
            &scratch.upper,
            &scratch.work,
            &scratch.target,
        ] {
            fs::create_dir_all(directory)?;
        }
        Ok(scratch)
    }

    fn mount(&self, volatile: bool) -> Result<(), sys::SysError> {
        sys::mount::overlay(&OverlayMount {
            lower: std::slice::from_ref(&self.lower),
            upper: Some(UpperDirs {
                upper: &self.upper,
                work: &self.work,
            }),
            target: &self.target,
            volatile,
            readonly: false,
            label: None,
        })?;
        sys::mount::unmount(&self.target)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Whatever stays behind is small, and named after what it was for.
        let _ = fs::remove_dir_all(&self.top);
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use rstest::rstest;
    use sys::fs::FilesystemUsage;

    use super::space;
    use crate::check::finding::Level;

    #[rstest]
    #[case::plenty(100, 50, 1000, 500, Level::Ok)]
    #[case::few_percent(100, 9, 1000, 500, Level::Warn)]
    #[case::no_room(100, 0, 1000, 500, Level::Fail)]
    #[case::few_inodes(100, 50, 1000, 50, Level::Warn)]
    #[case::inodes_as_needed(100, 50, 0, 0, Level::Ok)]
    fn spaces(
        #[case] total_gib: u64,
        #[case] available_gib: u64,
        #[case] total_inodes: u64,
        #[case] free_inodes: u64,
        #[case] expected: Level,
    ) {
        let usage = FilesystemUsage {
            total_bytes: total_gib << 30,
            used_bytes: (total_gib - available_gib) << 30,
            available_bytes: available_gib << 30,
            total_inodes,
            free_inodes,
        };
        let finding = space(Path::new("/x"), &usage);
        assert_eq!(finding.level, expected, "{finding:?}");
        assert_eq!(finding.mend.is_some(), expected != Level::Ok);
    }
}
