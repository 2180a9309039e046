//! The versions of the CNI specification that are spoken here, and what sets them apart.

use std::fmt;

/// A version of the CNI specification. Older ones have another result format and no chaining.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Version {
    /// 0.3.0, which differs from 0.3.1 in words only.
    V0_3_0,
    /// 0.3.1
    V0_3_1,
    /// 0.4.0: CHECK, and `prevResult` on DEL.
    V0_4_0,
    /// 1.0.0: no `version` in `ips`.
    V1_0_0,
    /// 1.1.0: STATUS and GC.
    V1_1_0,
}

impl Version {
    /// Every version, newest first.
    pub(super) const ALL: [Self; 5] = [
        Self::V1_1_0,
        Self::V1_0_0,
        Self::V0_4_0,
        Self::V0_3_1,
        Self::V0_3_0,
    ];

    /// The version written like `1.0.0`, if it is spoken here.
    pub(super) fn parse(text: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|version| version.as_str() == text)
    }

    /// As written in `cniVersion`.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::V0_3_0 => "0.3.0",
            Self::V0_3_1 => "0.3.1",
            Self::V0_4_0 => "0.4.0",
            Self::V1_0_0 => "1.0.0",
            Self::V1_1_0 => "1.1.0",
        }
    }

    /// Whether plugins know CHECK, and want the attachment's result on DEL.
    pub(super) fn has_check(self) -> bool {
        self >= Self::V0_4_0
    }

    /// Whether plugins know STATUS.
    pub(super) fn has_status(self) -> bool {
        self >= Self::V1_1_0
    }

    /// Whether an address in a result carries its IP version beside it.
    pub(super) fn has_ip_version(self) -> bool {
        self < Self::V1_0_0
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
