//! Facts about the kernel and about this process's rights.

use std::{fmt, time::Duration};

use rustix::time::ClockId;

use crate::SysError;

/// A kernel version; compares by its numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// The 6 of 6.18.
    pub major: u32,
    /// The 18 of 6.18.
    pub minor: u32,
}

impl fmt::Display for Version {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}.{}", self.major, self.minor)
    }
}

/// The version of the running kernel.
pub fn version() -> Version {
    parse_version(&release())
}

/// The running kernel's release, as `uname -r` prints it.
pub fn release() -> String {
    rustix::system::uname()
        .release()
        .to_string_lossy()
        .into_owned()
}

/// Takes the two leading numbers; what is missing counts as 0.
fn parse_version(release: &str) -> Version {
    let mut numbers = release
        .split(|letter: char| !letter.is_ascii_digit())
        .map(|digits| digits.parse().unwrap_or(0));
    Version {
        major: numbers.next().unwrap_or(0),
        minor: numbers.next().unwrap_or(0),
    }
}

/// Which of a process's capability sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CapabilitySet {
    /// What it may do now.
    Effective,
    /// What it may take up.
    Permitted,
    /// What its children can get at most.
    Bounding,
}

/// A capability set of this process: bit n stands for the capability of number n.
pub fn capabilities(set: CapabilitySet) -> Result<u64, SysError> {
    const STATUS: &str = "/proc/self/status";
    let key = match set {
        CapabilitySet::Effective => "CapEff:",
        CapabilitySet::Permitted => "CapPrm:",
        CapabilitySet::Bounding => "CapBnd:",
    };
    let status = std::fs::read_to_string(STATUS).map_err(SysError::path("read", STATUS))?;
    status
        .lines()
        .find_map(|line| line.strip_prefix(key))
        .and_then(|digits| u64::from_str_radix(digits.trim(), 16).ok())
        .ok_or_else(|| SysError::Content {
            path: STATUS.into(),
            expected: "the capability sets",
        })
}

/// Whether this process has the capability of this number (such as 24 for CAP_SYS_RESOURCE) in effect.
pub fn has_capability(number: u32) -> Result<bool, SysError> {
    Ok(number < u64::BITS && capabilities(CapabilitySet::Effective)? & (1 << number) != 0)
}

/// CAP_SYS_RESOURCE, without which oom_score_adj and limits can only be made stricter.
pub const CAP_SYS_RESOURCE: u32 = 24;

/// CAP_SYS_ADMIN.
pub const CAP_SYS_ADMIN: u32 = 21;

/// A text that is another one after each boot.
pub fn boot_id() -> Result<String, SysError> {
    const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
    let text = std::fs::read_to_string(BOOT_ID).map_err(SysError::path("read", BOOT_ID))?;
    Ok(text.trim().to_owned())
}

/// Time that only ever goes forward, and stands still while the machine is suspended.
pub fn monotonic() -> Duration {
    clock(ClockId::Monotonic)
}

/// Time since the boot, including what the machine was suspended.
pub fn boottime() -> Duration {
    clock(ClockId::Boottime)
}

fn clock(id: ClockId) -> Duration {
    let time = rustix::time::clock_gettime(id);
    // Neither part of these clocks is ever negative.
    Duration::new(
        time.tv_sec.try_into().unwrap_or(0),
        time.tv_nsec.try_into().unwrap_or(0),
    )
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;

    #[test]
    fn versions() {
        let version = |major, minor| Version { major, minor };
        assert_eq!(parse_version("6.18.44-fc-v595"), version(6, 18));
        assert_eq!(parse_version("5.10"), version(5, 10));
        assert_eq!(parse_version("6-rc1"), version(6, 0));
        assert_eq!(parse_version(""), version(0, 0));
        assert!(version(6, 8) < version(6, 18));
        assert!(super::version() > version(4, 0));
    }

    #[test]
    fn facts_of_this_process() {
        assert_eq!(boot_id().unwrap().len(), 36);
        let effective = capabilities(CapabilitySet::Effective).unwrap();
        assert_eq!(
            has_capability(CAP_SYS_ADMIN).unwrap(),
            effective & (1 << 21) != 0
        );
        assert!(!has_capability(64).unwrap());
        let before = monotonic();
        assert!(monotonic() >= before && before > Duration::ZERO);
        assert!(boottime() >= before);
    }
}
