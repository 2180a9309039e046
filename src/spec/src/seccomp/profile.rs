//! Our own form of a system call filter: an allow-list in groups, each with its purpose.
//!
//! ```json
//! { "errno": 1,
//!   "architectures": { "x86_64": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"] },
//!   "groups": [ { "purpose": "…", "calls": ["read", "write"] },
//!               { "purpose": "…", "calls": ["chroot"], "with_any": ["CAP_SYS_CHROOT"] },
//!               { "purpose": "…", "calls": ["clone3"], "without": ["CAP_SYS_ADMIN"], "errno": 38 },
//!               { "purpose": "…", "calls": ["socket"], "when_any": [{ "argument": 0, "not_equal_to": 40 }] } ] }
//! ```
//!
//! A group counts when the container holds one of `with_any` (or it has none), holds none of `without`, and runs on one of
//! `only_on` (or it has none) and none of `not_on`. Its calls are allowed, or answered with its `errno`; under `when_any`
//! only calls that meet one of the conditions. Every other call is answered with the profile's `errno`. `architectures`
//! says which instruction sets a node of an architecture runs: calls of any other are killed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, LazyLock};

use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompArgBuilder,
    LinuxSeccompBuilder, LinuxSeccompOperator, LinuxSyscall, LinuxSyscallBuilder,
};
use serde::Deserialize;

use super::ProfileError;
use crate::capability::Capability;
use crate::input::Architecture;

const BUILT_IN: &str = include_str!("../../profiles/default.json");

/// More than any profile has use for: there are fewer than 500 system calls.
const MAX_NAMES: usize = 4_096;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(rename = "description", default)]
    _description: String,
    errno: u32,
    architectures: BTreeMap<String, Vec<Arch>>,
    groups: Vec<FileGroup>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileGroup {
    #[serde(rename = "purpose")]
    _purpose: String,
    calls: Vec<String>,
    #[serde(default)]
    with_any: Vec<String>,
    #[serde(default)]
    without: Vec<String>,
    #[serde(default)]
    only_on: Vec<String>,
    #[serde(default)]
    not_on: Vec<String>,
    #[serde(default)]
    when_any: Vec<FileCondition>,
    errno: Option<u32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileCondition {
    argument: usize,
    masked_by: Option<u64>,
    equal_to: Option<u64>,
    not_equal_to: Option<u64>,
}

#[derive(Debug)]
struct Group {
    calls: Vec<String>,
    with_any: BTreeSet<Capability>,
    without: BTreeSet<Capability>,
    only_on: Vec<Architecture>,
    not_on: Vec<Architecture>,
    when_any: Vec<LinuxSeccompArg>,
    errno: Option<u32>,
}

#[derive(Debug)]
struct Rules {
    errno: u32,
    architectures: BTreeMap<Architecture, Vec<Arch>>,
    groups: Vec<Group>,
}

/// A profile in our own form, checked. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Profile(Arc<Rules>);

fn architectures(names: &[String]) -> Result<Vec<Architecture>, ProfileError> {
    names
        .iter()
        .map(|name| {
            Architecture::from_name(name).ok_or_else(|| ProfileError::Architecture(name.clone()))
        })
        .collect()
}

fn capabilities(names: &[String]) -> Result<BTreeSet<Capability>, ProfileError> {
    names
        .iter()
        .map(|name| {
            name.parse()
                .map_err(|_| ProfileError::Capability(name.clone()))
        })
        .collect()
}

impl FileCondition {
    fn check(&self) -> Result<LinuxSeccompArg, ProfileError> {
        if self.argument > 5 {
            return Err(ProfileError::Argument(self.argument));
        }
        let builder = LinuxSeccompArgBuilder::default().index(self.argument);
        let builder = match (self.masked_by, self.equal_to, self.not_equal_to) {
            (None, Some(value), None) => builder.value(value).op(LinuxSeccompOperator::ScmpCmpEq),
            (None, None, Some(value)) => builder.value(value).op(LinuxSeccompOperator::ScmpCmpNe),
            // The OCI names put the mask first and what is left under it second.
            (Some(mask), Some(value), None) => builder
                .value(mask)
                .value_two(value)
                .op(LinuxSeccompOperator::ScmpCmpMaskedEq),
            _ => return Err(ProfileError::Condition),
        };
        Ok(builder.build()?)
    }
}

impl Profile {
    /// The profile that comes with the program.
    pub fn built_in() -> Self {
        static PROFILE: LazyLock<Profile> = LazyLock::new(|| {
            Profile::parse(BUILT_IN.as_bytes()).expect("the built-in seccomp profile is tested")
        });
        PROFILE.clone()
    }

    /// From JSON in our own form.
    pub fn parse(json: &[u8]) -> Result<Self, ProfileError> {
        if json.len() > super::MAX_FILE_BYTES {
            return Err(ProfileError::TooLarge(json.len()));
        }
        let file: File = serde_json::from_slice(json)?;
        let names = file.groups.iter().map(|group| group.calls.len()).sum();
        if names > MAX_NAMES {
            return Err(ProfileError::TooManyRules(names, MAX_NAMES));
        }
        let groups = file
            .groups
            .into_iter()
            .map(|group| {
                for call in &group.calls {
                    super::localhost::check_call(call)?;
                }
                Ok(Group {
                    with_any: capabilities(&group.with_any)?,
                    without: capabilities(&group.without)?,
                    only_on: architectures(&group.only_on)?,
                    not_on: architectures(&group.not_on)?,
                    when_any: group
                        .when_any
                        .iter()
                        .map(FileCondition::check)
                        .collect::<Result<_, _>>()?,
                    errno: group.errno,
                    calls: group.calls,
                })
            })
            .collect::<Result<_, ProfileError>>()?;
        let architectures = file
            .architectures
            .into_iter()
            .map(|(name, sets)| match Architecture::from_name(&name) {
                Some(architecture) => Ok((architecture, sets)),
                None => Err(ProfileError::Architecture(name)),
            })
            .collect::<Result<_, _>>()?;
        Ok(Self(Arc::new(Rules {
            errno: file.errno,
            architectures,
            groups,
        })))
    }

    /// The filter for a process on this architecture that holds these capabilities.
    pub fn resolve(
        &self,
        architecture: Option<Architecture>,
        held: &BTreeSet<Capability>,
    ) -> Result<LinuxSeccomp, ProfileError> {
        let architecture = architecture.ok_or(ProfileError::NoArchitecture)?;
        let sets = self
            .0
            .architectures
            .get(&architecture)
            .ok_or(ProfileError::NoArchitecture)?;
        // One rule for all that is simply allowed: each rule costs the runtime time when it builds the filter.
        let mut allowed: BTreeSet<&str> = BTreeSet::new();
        let mut rules: Vec<LinuxSyscall> = Vec::new();
        for group in &self.0.groups {
            let counts = (group.with_any.is_empty() || !group.with_any.is_disjoint(held))
                && group.without.is_disjoint(held)
                && (group.only_on.is_empty() || group.only_on.contains(&architecture))
                && !group.not_on.contains(&architecture);
            if !counts {
                continue;
            }
            if group.when_any.is_empty() && group.errno.is_none() {
                allowed.extend(group.calls.iter().map(String::as_str));
                continue;
            }
            let rule = |args: Option<LinuxSeccompArg>| {
                let mut builder = LinuxSyscallBuilder::default()
                    .names(group.calls.clone())
                    .action(LinuxSeccompAction::ScmpActAllow);
                if let Some(errno) = group.errno {
                    builder = builder
                        .action(LinuxSeccompAction::ScmpActErrno)
                        .errno_ret(errno);
                }
                if let Some(arg) = args {
                    builder = builder.args(vec![arg]);
                }
                builder.build()
            };
            if group.when_any.is_empty() {
                rules.push(rule(None)?);
            }
            for condition in &group.when_any {
                rules.push(rule(Some(*condition))?);
            }
        }
        let allowed: Vec<String> = allowed.into_iter().map(str::to_owned).collect();
        rules.insert(
            0,
            LinuxSyscallBuilder::default()
                .names(allowed)
                .action(LinuxSeccompAction::ScmpActAllow)
                .build()?,
        );
        Ok(LinuxSeccompBuilder::default()
            .default_action(LinuxSeccompAction::ScmpActErrno)
            .default_errno_ret(self.0.errno)
            .architectures(sets.clone())
            .syscalls(rules)
            .build()?)
    }
}

#[cfg(test)]
mod test {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use rstest::rstest;

    use super::*;

    fn names(seccomp: &LinuxSeccomp) -> BTreeSet<String> {
        let rules = seccomp.syscalls().clone().unwrap();
        let allowed = rules
            .iter()
            .filter(|rule| rule.action() == LinuxSeccompAction::ScmpActAllow);
        allowed.flat_map(|rule| rule.names().clone()).collect()
    }

    fn resolved(held: &[Capability]) -> LinuxSeccomp {
        Profile::built_in()
            .resolve(Some(Architecture::X86_64), &held.iter().copied().collect())
            .unwrap()
    }

    #[test]
    fn the_built_in_profile_resolves_everywhere() {
        for architecture in [
            Architecture::X86_64,
            Architecture::Aarch64,
            Architecture::Arm,
            Architecture::Riscv64,
            Architecture::S390x,
            Architecture::Ppc64le,
            Architecture::Loongarch64,
        ] {
            let resolved = Profile::built_in()
                .resolve(Some(architecture), &BTreeSet::new())
                .unwrap();
            assert!(names(&resolved).len() > 300);
        }
        assert!(Profile::built_in().resolve(None, &BTreeSet::new()).is_err());
    }

    #[test]
    fn no_call_is_listed_twice_for_the_same_container() {
        for held in [&[][..], Capability::CONTAINER_DEFAULT, Capability::ALL] {
            let resolved = resolved(held);
            let mut seen = BTreeSet::new();
            for rule in resolved.syscalls().as_ref().unwrap() {
                for name in rule.names() {
                    // Alternatives of one group share a name; any other second rule would undo a condition.
                    let conditional = rule.args().is_some();
                    assert!(seen.insert(name.clone()) || conditional, "{name}");
                }
            }
        }
    }

    #[test]
    fn what_reaches_the_node_is_never_allowed_by_default() {
        let allowed = names(&resolved(Capability::CONTAINER_DEFAULT));
        for call in [
            "add_key",
            "bpf",
            "clone3",
            "finit_module",
            "io_uring_setup",
            "kexec_load",
            "keyctl",
            "mount",
            "open_by_handle_at",
            "perf_event_open",
            "pivot_root",
            "reboot",
            "request_key",
            "setns",
            "swapon",
            "syslog",
            "umount2",
            "unshare",
            "userfaultfd",
        ] {
            assert!(!allowed.contains(call), "{call}");
        }
        for call in ["chroot", "execve", "openat", "read", "socket", "clone"] {
            assert!(allowed.contains(call), "{call}");
        }
    }

    #[test]
    fn capabilities_open_their_calls() {
        let allowed = names(&resolved(&[Capability::SysAdmin]));
        assert!(allowed.contains("mount") && allowed.contains("clone3"));
        assert!(!allowed.contains("chroot"));
        let allowed = names(&resolved(&[Capability::Bpf]));
        assert!(allowed.contains("bpf") && !allowed.contains("mount"));
    }

    #[rstest]
    #[case(r#"{"errno":1,"architectures":{},"groups":[],"more":1}"#)]
    #[case(r#"{"errno":1,"architectures":{"vax":[]},"groups":[]}"#)]
    #[case(r#"{"errno":1,"architectures":{},"groups":[{"purpose":"","calls":[""]}]}"#)]
    #[case(r#"{"errno":1,"architectures":{},"groups":[{"purpose":"","calls":["read"],"with_any":["X"]}]}"#)]
    #[case(r#"{"errno":1,"architectures":{},"groups":[{"purpose":"","calls":["read"],"when_any":[{"argument":6,"equal_to":1}]}]}"#)]
    #[case(r#"{"errno":1,"architectures":{},"groups":[{"purpose":"","calls":["read"],"when_any":[{"argument":0}]}]}"#)]
    fn profiles_with_mistakes_are_refused(#[case] json: &str) {
        assert!(Profile::parse(json.as_bytes()).is_err());
    }
}
