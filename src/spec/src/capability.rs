//! Linux capabilities by name and number.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use oci_spec::runtime::Capability as OciCapability;

macro_rules! capabilities {
    ($($number:literal $variant:ident $name:literal,)*) => {
        /// A capability; its order is that of the kernel's numbers.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[expect(missing_docs, reason = "capabilities(7) tells what each is")]
        #[repr(u8)]
        pub enum Capability { $($variant = $number,)* }

        impl Capability {
            /// All that this program knows, in the kernel's order.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The kernel's name, such as `CAP_CHOWN`.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            pub(crate) fn oci(self) -> OciCapability {
                match self { $(Self::$variant => OciCapability::$variant,)* }
            }
        }
    };
}

capabilities! {
    0 Chown "CAP_CHOWN",
    1 DacOverride "CAP_DAC_OVERRIDE",
    2 DacReadSearch "CAP_DAC_READ_SEARCH",
    3 Fowner "CAP_FOWNER",
    4 Fsetid "CAP_FSETID",
    5 Kill "CAP_KILL",
    6 Setgid "CAP_SETGID",
    7 Setuid "CAP_SETUID",
    8 Setpcap "CAP_SETPCAP",
    9 LinuxImmutable "CAP_LINUX_IMMUTABLE",
    10 NetBindService "CAP_NET_BIND_SERVICE",
    11 NetBroadcast "CAP_NET_BROADCAST",
    12 NetAdmin "CAP_NET_ADMIN",
    13 NetRaw "CAP_NET_RAW",
    14 IpcLock "CAP_IPC_LOCK",
    15 IpcOwner "CAP_IPC_OWNER",
    16 SysModule "CAP_SYS_MODULE",
    17 SysRawio "CAP_SYS_RAWIO",
    18 SysChroot "CAP_SYS_CHROOT",
    19 SysPtrace "CAP_SYS_PTRACE",
    20 SysPacct "CAP_SYS_PACCT",
    21 SysAdmin "CAP_SYS_ADMIN",
    22 SysBoot "CAP_SYS_BOOT",
    23 SysNice "CAP_SYS_NICE",
    24 SysResource "CAP_SYS_RESOURCE",
    25 SysTime "CAP_SYS_TIME",
    26 SysTtyConfig "CAP_SYS_TTY_CONFIG",
    27 Mknod "CAP_MKNOD",
    28 Lease "CAP_LEASE",
    29 AuditWrite "CAP_AUDIT_WRITE",
    30 AuditControl "CAP_AUDIT_CONTROL",
    31 Setfcap "CAP_SETFCAP",
    32 MacOverride "CAP_MAC_OVERRIDE",
    33 MacAdmin "CAP_MAC_ADMIN",
    34 Syslog "CAP_SYSLOG",
    35 WakeAlarm "CAP_WAKE_ALARM",
    36 BlockSuspend "CAP_BLOCK_SUSPEND",
    37 AuditRead "CAP_AUDIT_READ",
    38 Perfmon "CAP_PERFMON",
    39 Bpf "CAP_BPF",
    40 CheckpointRestore "CAP_CHECKPOINT_RESTORE",
}

impl Capability {
    /// What a container holds that asks for no changes: the set that images have been written for since Docker's days.
    pub const CONTAINER_DEFAULT: &[Self] = &[
        Self::Chown,
        Self::DacOverride,
        Self::Fowner,
        Self::Fsetid,
        Self::Kill,
        Self::Setgid,
        Self::Setuid,
        Self::Setpcap,
        Self::NetBindService,
        Self::NetRaw,
        Self::SysChroot,
        Self::Mknod,
        Self::AuditWrite,
        Self::Setfcap,
    ];

    /// The kernel's number.
    pub fn number(self) -> u8 {
        self as u8
    }

    /// The set that a mask such as `CapBnd` of `/proc/self/status` stands for; unknown bits are left out.
    pub fn set_from_bits(mask: u64) -> BTreeSet<Self> {
        Self::ALL
            .iter()
            .copied()
            .filter(|capability| mask & (1 << capability.number()) != 0)
            .collect()
    }
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A word that names no capability.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a capability")]
pub struct UnknownCapability(pub String);

impl FromStr for Capability {
    type Err = UnknownCapability;

    /// With or without `CAP_`, in any case.
    fn from_str(word: &str) -> Result<Self, Self::Err> {
        let upper = word.to_ascii_uppercase();
        let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
        Self::ALL
            .iter()
            .copied()
            .find(|capability| capability.name().strip_prefix("CAP_") == Some(bare))
            .ok_or_else(|| UnknownCapability(word.to_owned()))
    }
}

#[cfg(test)]
mod test {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("NET_ADMIN")]
    #[case("net_admin")]
    #[case("CAP_NET_ADMIN")]
    #[case("Cap_Net_Admin")]
    fn names_are_understood_in_any_dress(#[case] word: &str) {
        assert_eq!(word.parse::<Capability>().unwrap(), Capability::NetAdmin);
    }

    #[rstest]
    #[case("")]
    #[case("CAP_")]
    #[case("CAP_CAP_CHOWN")]
    #[case("ALL")]
    #[case("NET ADMIN")]
    fn other_words_are_refused(#[case] word: &str) {
        assert!(word.parse::<Capability>().is_err());
    }

    #[test]
    fn numbers_are_dense_and_names_are_those_of_the_oci_types() {
        for (number, capability) in Capability::ALL.iter().enumerate() {
            assert_eq!(usize::from(capability.number()), number);
            let json = serde_json::to_value(capability.oci()).unwrap();
            assert_eq!(json, capability.name());
        }
    }

    #[test]
    fn a_mask_is_a_set() {
        assert_eq!(
            Capability::set_from_bits(0b101)
                .into_iter()
                .collect::<Vec<_>>(),
            [Capability::Chown, Capability::DacReadSearch]
        );
        assert_eq!(
            Capability::set_from_bits(u64::MAX).len(),
            Capability::ALL.len()
        );
        assert!(Capability::set_from_bits(0).is_empty());
    }
}
