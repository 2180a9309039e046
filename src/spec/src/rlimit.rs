//! Resource limits of processes: names, and clamping to what the node may give.

use std::fmt;
use std::str::FromStr;

use oci_spec::runtime::{PosixRlimit, PosixRlimitBuilder, PosixRlimitType};

use crate::error::SpecError;
use crate::input::NodeFacts;

macro_rules! kinds {
    ($($kind:ident $name:literal $oci:ident,)*) => {
        /// A process limit (`getrlimit(2)`).
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[expect(missing_docs, reason = "the kernel's own words")]
        pub enum RlimitKind { $($kind,)* }

        impl RlimitKind {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$kind,)*];

            /// The name in lower case without `RLIMIT_`, such as `nofile`.
            pub fn name(self) -> &'static str {
                match self { $(Self::$kind => $name,)* }
            }

            fn oci(self) -> PosixRlimitType {
                match self { $(Self::$kind => PosixRlimitType::$oci,)* }
            }
        }
    };
}

kinds! {
    Cpu "cpu" RlimitCpu,
    Fsize "fsize" RlimitFsize,
    Data "data" RlimitData,
    Stack "stack" RlimitStack,
    Core "core" RlimitCore,
    Rss "rss" RlimitRss,
    Nproc "nproc" RlimitNproc,
    Nofile "nofile" RlimitNofile,
    Memlock "memlock" RlimitMemlock,
    As "as" RlimitAs,
    Locks "locks" RlimitLocks,
    Sigpending "sigpending" RlimitSigpending,
    Msgqueue "msgqueue" RlimitMsgqueue,
    Nice "nice" RlimitNice,
    Rtprio "rtprio" RlimitRtprio,
    Rttime "rttime" RlimitRttime,
}

impl fmt::Display for RlimitKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A word that names no process limit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a process limit (such as nofile or memlock)")]
pub struct UnknownRlimit(pub String);

impl FromStr for RlimitKind {
    type Err = UnknownRlimit;

    /// Understands `nofile`, `NOFILE` and `RLIMIT_NOFILE`.
    fn from_str(word: &str) -> Result<Self, Self::Err> {
        let lower = word.to_ascii_lowercase();
        let name = lower.strip_prefix("rlimit_").unwrap_or(&lower);
        Self::ALL
            .iter()
            .copied()
            .find(|kind| kind.name() == name)
            .ok_or_else(|| UnknownRlimit(word.to_owned()))
    }
}

/// One limit. [`u64::MAX`] means unlimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rlimit {
    /// What is limited.
    pub kind: RlimitKind,
    /// What the process starts with.
    pub soft: u64,
    /// What it may raise that to.
    pub hard: u64,
}

/// The limits of a process, no higher than the node may give; says which ones had to be lowered.
pub(crate) fn rlimits(
    wanted: &[Rlimit],
    facts: &NodeFacts,
    warnings: &mut Vec<String>,
) -> Result<Vec<PosixRlimit>, SpecError> {
    wanted
        .iter()
        .map(|limit| {
            let ceiling = facts
                .hard_rlimits
                .get(&limit.kind)
                .copied()
                .unwrap_or(u64::MAX);
            let hard = limit.hard.min(ceiling);
            if hard < limit.hard {
                warnings.push(format!(
                    "process limit {}: {hard} instead of {}, for the server lacks CAP_SYS_RESOURCE",
                    limit.kind, limit.hard
                ));
            }
            Ok(PosixRlimitBuilder::default()
                .typ(limit.kind.oci())
                .hard(hard)
                .soft(limit.soft.min(hard))
                .build()?)
        })
        .collect()
}

#[cfg(test)]
mod test {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;
    use crate::container::sample;

    #[test]
    fn names_lead_back() {
        for kind in RlimitKind::ALL {
            let word = format!("RLIMIT_{}", kind.name().to_ascii_uppercase());
            assert_eq!(word.parse(), Ok(*kind));
            assert_eq!(kind.name().parse(), Ok(*kind));
            // The OCI name is the same word.
            assert_eq!(serde_json::to_value(kind.oci()).unwrap(), word.as_str());
        }
        assert!("files".parse::<RlimitKind>().is_err());
    }

    #[test]
    fn a_limit_past_the_servers_own_is_lowered() {
        let mut facts = sample::facts();
        facts.hard_rlimits.insert(RlimitKind::Nofile, 1024);
        let wanted = |kind, soft, hard| Rlimit { kind, soft, hard };
        let mut warnings = Vec::new();
        let given = rlimits(
            &[
                wanted(RlimitKind::Nofile, 4096, u64::MAX),
                wanted(RlimitKind::Core, 0, u64::MAX),
            ],
            &facts,
            &mut warnings,
        )
        .unwrap();
        assert_eq!((given[0].soft(), given[0].hard()), (1024, 1024));
        assert_eq!((given[1].soft(), given[1].hard()), (0, u64::MAX));
        assert_eq!(warnings.len(), 1);
    }
}
