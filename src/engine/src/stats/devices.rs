//! Names of block devices, and the sizes of huge pages: what /sys says of the machine.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use sys::small_file::SmallFile;

use super::parse;

/// Names of block devices, each looked up once.
#[derive(Debug, Default)]
pub(super) struct DeviceNames(HashMap<(u32, u32), String>);

impl DeviceNames {
    /// The device node of these numbers, such as `/dev/sda`; empty if the kernel names none.
    pub(super) fn get(&mut self, major: u32, minor: u32, buffer: &mut SmallFile) -> &str {
        self.0
            .entry((major, minor))
            .or_insert_with(|| block_device(major, minor, buffer).unwrap_or_default())
    }
}

fn block_device(major: u32, minor: u32, buffer: &mut SmallFile) -> Option<String> {
    let path = PathBuf::from(format!("/sys/dev/block/{major}:{minor}/uevent"));
    let name = buffer
        .read(&path)?
        .lines()
        .find_map(|line| line.strip_prefix("DEVNAME="))?;
    Some(format!("/dev/{name}"))
}

/// What the file system of a directory stands on: a device, or whatever is said to be mounted there.
pub(super) fn of_directory(dir: &Path) -> Option<String> {
    let number = sys::fs::device_of(dir).ok()?;
    let (major, minor) = (rustix::fs::major(number), rustix::fs::minor(number));
    if let Some(name) = block_device(major, minor, &mut SmallFile::default()) {
        return Some(name);
    }
    // File systems without a device of their own, such as tmpfs, btrfs and overlay, have a source.
    let table = sys::mount::table().ok()?;
    table
        .into_iter()
        .filter(|mount| dir.starts_with(&mount.target))
        .max_by_key(|mount| mount.target.components().count())
        .map(|mount| mount.source)
}

/// The sizes of huge pages that this machine has, as the files of cgroups are named by them.
pub(super) fn huge_page_sizes() -> Vec<String> {
    let Ok(entries) = std::fs::read_dir("/sys/kernel/mm/hugepages") else {
        return Vec::new();
    };
    let mut sizes: Vec<String> = entries
        .flatten()
        .filter_map(|entry| parse::huge_page_size(entry.file_name().to_str()?))
        .collect();
    sizes.sort();
    sizes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_device_has_no_name() {
        let mut names = DeviceNames::default();
        assert_eq!(names.get(0, 4_000, &mut SmallFile::default()), "");
        assert!(of_directory(Path::new("/proc")).is_some_and(|source| !source.is_empty()));
        assert_eq!(of_directory(Path::new("/no/such")), None);
    }
}
