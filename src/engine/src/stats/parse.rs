//! The words of the kernel's statistics files. Pure; lines and words that are not known are passed over.

use super::reading::{DeviceUse, Direction, Interface, Pressure, PressureLine};

/// From here on a limit is none: version 1 writes the largest number of whole pages.
const NO_LIMIT: u64 = 1 << 62;

/// A file that holds one number.
pub(super) fn number(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

/// What a file of a limit says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Limit {
    /// There is none.
    Unlimited,
    /// There is one.
    At(u64),
}

impl Limit {
    /// The limit, if there is one.
    pub(super) fn value(self) -> Option<u64> {
        match self {
            Self::Unlimited => None,
            Self::At(value) => Some(value),
        }
    }
}

/// A file that holds a limit; `None` if the text is something else.
pub(super) fn limit(text: &str) -> Option<Limit> {
    match text.trim() {
        // -1 is how version 1 writes a quota that is none.
        "max" | "-1" => Some(Limit::Unlimited),
        text => Some(match text.parse().ok()? {
            NO_LIMIT.. => Limit::Unlimited,
            value => Limit::At(value),
        }),
    }
}

/// A file of lines that are each a name and a number.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flat<'a>(pub(super) &'a str);

impl Flat<'_> {
    /// The number of a name.
    pub(super) fn get(self, name: &str) -> Option<u64> {
        self.0.lines().find_map(|line| {
            let value = line.strip_prefix(name)?.strip_prefix(' ')?;
            value.trim().parse().ok()
        })
    }

    /// The number of a name as it is with what stands below the cgroup. Version 1 has a name of its own for that.
    pub(super) fn total(self, name: &str) -> Option<u64> {
        let mut alone = None;
        for line in self.0.lines() {
            let total = line.strip_prefix("total_");
            let value = total.unwrap_or(line).strip_prefix(name);
            let Some(value) = value.and_then(|rest| rest.strip_prefix(' ')) else {
                continue;
            };
            let value = value.trim().parse().ok();
            if total.is_some() {
                return value;
            }
            alone = alone.or(value);
        }
        alone
    }
}

/// A pressure file.
pub(super) fn pressure(text: &str) -> Option<Pressure> {
    let line = |kind: &str| {
        let words = text.lines().find_map(|line| line.strip_prefix(kind))?;
        let mut found = PressureLine::default();
        for (name, value) in words.split_whitespace().filter_map(|w| w.split_once('=')) {
            match name {
                "avg10" => found.avg10 = value.parse().ok()?,
                "avg60" => found.avg60 = value.parse().ok()?,
                "avg300" => found.avg300 = value.parse().ok()?,
                "total" => found.total_us = value.parse().ok()?,
                _ => {}
            }
        }
        Some(found)
    };
    Some(Pressure {
        some: line("some ")?,
        full: line("full "),
    })
}

/// `cpu.max`: the quota, `None` without a limit, and the period.
pub(super) fn cpu_max(text: &str) -> Option<(Option<u64>, u64)> {
    let mut words = text.split_whitespace();
    Some((limit(words.next()?)?.value(), words.next()?.parse().ok()?))
}

/// The shares that have this weight as their equivalent, which version 2 knows alone.
pub(super) fn shares_of_weight(weight: u64) -> u64 {
    2 + (weight.clamp(1, 10_000) - 1) * 262_142 / 9_999
}

/// `8:0`.
fn device(word: &str) -> Option<(u32, u32)> {
    let (major, minor) = word.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

fn entry(devices: &mut Vec<DeviceUse>, (major, minor): (u32, u32)) -> Option<&mut DeviceUse> {
    let known = devices
        .iter()
        .position(|known| (known.major, known.minor) == (major, minor));
    let at = known.unwrap_or_else(|| {
        devices.push(DeviceUse {
            major,
            minor,
            ..DeviceUse::default()
        });
        devices.len() - 1
    });
    devices.get_mut(at)
}

/// Version 2's `io.stat`: `8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6`.
pub(super) fn io_stat(text: &str) -> Vec<DeviceUse> {
    let mut devices = Vec::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let Some(entry) = words
            .next()
            .and_then(device)
            .and_then(|device| entry(&mut devices, device))
        else {
            continue;
        };
        for (name, value) in words.filter_map(|word| word.split_once('=')) {
            let Ok(value) = value.parse() else { continue };
            let (operation, bytes) = match name {
                "rbytes" => ("Read", true),
                "wbytes" => ("Write", true),
                "dbytes" => ("Discard", true),
                "rios" => ("Read", false),
                "wios" => ("Write", false),
                "dios" => ("Discard", false),
                _ => continue,
            };
            let list = if bytes {
                &mut entry.bytes
            } else {
                &mut entry.operations
            };
            list.push((operation.to_owned(), value));
        }
    }
    // A line without numbers is a device that was looked at only.
    devices.retain(|device| !device.bytes.is_empty() || !device.operations.is_empty());
    devices
}

/// Version 1's two files of lines such as `8:0 Read 4096`: bytes and operations.
pub(super) fn blkio(bytes: &str, operations: &str) -> Vec<DeviceUse> {
    let mut devices = Vec::new();
    for (text, is_bytes) in [(bytes, true), (operations, false)] {
        for line in text.lines() {
            let mut words = line.split_whitespace();
            let (Some(number), Some(operation), Some(value)) = (
                words.next().and_then(device),
                words.next(),
                words.next().and_then(number),
            ) else {
                continue;
            };
            // The sum is for whoever adds up to do.
            if operation == "Total" {
                continue;
            }
            let Some(entry) = entry(&mut devices, number) else {
                continue;
            };
            let list = if is_bytes {
                &mut entry.bytes
            } else {
                &mut entry.operations
            };
            list.push((operation.to_owned(), value));
        }
    }
    devices
}

/// `/proc/net/dev`.
pub(super) fn net_dev(text: &str) -> Vec<Interface> {
    let interface = |line: &str| {
        // A name may have a colon in it; the numbers have none.
        let (name, numbers) = line.rsplit_once(':')?;
        let numbers: Vec<u64> = numbers
            .split_whitespace()
            .map_while(|word| word.parse().ok())
            .collect();
        let direction = |first: usize| {
            Some(Direction {
                bytes: *numbers.get(first)?,
                packets: *numbers.get(first + 1)?,
                errors: *numbers.get(first + 2)?,
                dropped: *numbers.get(first + 3)?,
            })
        };
        Some(Interface {
            name: name.trim().to_owned(),
            receive: direction(0)?,
            transmit: direction(8)?,
        })
    };
    text.lines().filter_map(interface).collect()
}

/// The soft limits of `/proc/<pid>/limits` that are limits, by names such as `max_open_files`.
pub(super) fn soft_limits(text: &str) -> Vec<(String, u64)> {
    let row = |line: &str| {
        // Names have single spaces in them, columns have more between them.
        let (name, rest) = line.split_once("  ")?;
        let value = rest.split_whitespace().next()?.parse().ok()?;
        Some((name.to_lowercase().replace(' ', "_"), value))
    };
    text.lines().skip(1).filter_map(row).collect()
}

/// Text of a unit of `hugepages-2048kB`, as cgroup files are named by it: `2MB`.
pub(super) fn huge_page_size(directory: &str) -> Option<String> {
    let kib: u64 = directory
        .strip_prefix("hugepages-")?
        .strip_suffix("kB")?
        .parse()
        .ok()?;
    Some(match kib {
        0 => return None,
        _ if kib.is_multiple_of(1 << 20) => format!("{}GB", kib >> 20),
        _ if kib.is_multiple_of(1 << 10) => format!("{}MB", kib >> 10),
        _ => format!("{kib}KB"),
    })
}

#[cfg(test)]
#[path = "parse_tests.rs"]
mod tests;
