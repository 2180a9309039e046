//! Profiles of the node: files in the form that Docker made usual, of which the OCI runtime spec's own is a part.
//!
//! Beyond OCI's there are `archMap` in place of `architectures`, a single `name`, and `includes` and `excludes` with
//! capabilities, architectures and a least kernel version. Fields that are not known are passed over, as others do.

use std::collections::BTreeSet;

use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompBuilder,
    LinuxSeccompFilterFlag, LinuxSyscallBuilder,
};
use serde::Deserialize;

use super::{MAX_FILE_BYTES, ProfileError};
use crate::capability::Capability;
use crate::input::{Architecture, NodeFacts};

/// More than any real profile has, and little enough to build a filter from.
const MAX_RULES: usize = 4_096;
const MAX_NAMES: usize = 16_384;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct File {
    default_action: LinuxSeccompAction,
    default_errno_ret: Option<u32>,
    #[serde(default)]
    architectures: Option<Vec<Arch>>,
    #[serde(default)]
    arch_map: Option<Vec<ArchMap>>,
    #[serde(default)]
    flags: Option<Vec<LinuxSeccompFilterFlag>>,
    listener_path: Option<String>,
    listener_metadata: Option<String>,
    #[serde(default)]
    syscalls: Option<Vec<Rule>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ArchMap {
    architecture: Arch,
    #[serde(default)]
    sub_architectures: Option<Vec<Arch>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rule {
    #[serde(default)]
    names: Option<Vec<String>>,
    name: Option<String>,
    action: LinuxSeccompAction,
    errno_ret: Option<u32>,
    #[serde(default)]
    args: Option<Vec<LinuxSeccompArg>>,
    #[serde(default)]
    includes: Option<Filter>,
    #[serde(default)]
    excludes: Option<Filter>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Filter {
    #[serde(default)]
    caps: Option<Vec<String>>,
    #[serde(default)]
    arches: Option<Vec<String>>,
    min_kernel: Option<String>,
}

/// Whether a word can be the name of a system call. Which ones there are is for the runtime's libseccomp to know.
pub(super) fn check_call(name: &str) -> Result<(), ProfileError> {
    let fine = (1..=64).contains(&name.len())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    if fine {
        Ok(())
    } else {
        Err(ProfileError::CallName)
    }
}

/// What decides which rules count.
struct Here<'a> {
    capabilities: &'a BTreeSet<Capability>,
    architecture: Architecture,
    kernel: (u32, u32),
}

fn native(architecture: Architecture) -> Arch {
    match architecture {
        Architecture::X86_64 => Arch::ScmpArchX86_64,
        Architecture::Aarch64 => Arch::ScmpArchAarch64,
        Architecture::Arm => Arch::ScmpArchArm,
        Architecture::Riscv64 => Arch::ScmpArchRiscv64,
        Architecture::S390x => Arch::ScmpArchS390x,
        Architecture::Ppc64le => Arch::ScmpArchPpc64le,
        Architecture::Loongarch64 => Arch::ScmpArchLoongarch64,
    }
}

/// Go's names, which these files use; `x86` and `x32` are no node's own.
fn goarch(architecture: Architecture) -> &'static str {
    match architecture {
        Architecture::X86_64 => "amd64",
        Architecture::Aarch64 => "arm64",
        Architecture::Arm => "arm",
        Architecture::Riscv64 => "riscv64",
        Architecture::S390x => "s390x",
        Architecture::Ppc64le => "ppc64le",
        Architecture::Loongarch64 => "loong64",
    }
}

fn kernel_version(word: &str) -> Result<(u32, u32), ProfileError> {
    word.split_once('.')
        .and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)))
        .ok_or_else(|| ProfileError::KernelVersion(word.to_owned()))
}

fn holds(here: &Here<'_>, name: &str) -> Result<bool, ProfileError> {
    // A capability that is newer than this program is one that nobody here holds.
    if name.len() > 64 {
        return Err(ProfileError::Capability(name.chars().take(64).collect()));
    }
    Ok(name
        .parse()
        .is_ok_and(|capability| here.capabilities.contains(&capability)))
}

impl Filter {
    /// All conditions of an `includes` are met; of several capabilities each is needed.
    fn includes(&self, here: &Here<'_>) -> Result<bool, ProfileError> {
        for name in self.caps.iter().flatten() {
            if !holds(here, name)? {
                return Ok(false);
            }
        }
        if let Some(arches) = self.arches.as_ref().filter(|arches| !arches.is_empty())
            && !arches.iter().any(|arch| arch == goarch(here.architecture))
        {
            return Ok(false);
        }
        match &self.min_kernel {
            Some(version) => Ok(here.kernel >= kernel_version(version)?),
            None => Ok(true),
        }
    }

    /// Any condition of an `excludes` is met.
    fn excludes(&self, here: &Here<'_>) -> Result<bool, ProfileError> {
        for name in self.caps.iter().flatten() {
            if holds(here, name)? {
                return Ok(true);
            }
        }
        if self
            .arches
            .iter()
            .flatten()
            .any(|arch| arch == goarch(here.architecture))
        {
            return Ok(true);
        }
        match &self.min_kernel {
            Some(version) => Ok(here.kernel >= kernel_version(version)?),
            None => Ok(false),
        }
    }
}

impl Rule {
    fn names(&self) -> impl Iterator<Item = &String> {
        self.name.iter().chain(self.names.iter().flatten())
    }
}

/// Reads a profile and keeps the rules that count here.
pub(super) fn parse(
    file: &[u8],
    capabilities: &BTreeSet<Capability>,
    facts: &NodeFacts,
) -> Result<LinuxSeccomp, ProfileError> {
    if file.len() > MAX_FILE_BYTES {
        return Err(ProfileError::TooLarge(file.len()));
    }
    let file: File = serde_json::from_slice(file)?;
    let here = Here {
        capabilities,
        architecture: facts.architecture.ok_or(ProfileError::NoArchitecture)?,
        kernel: facts.kernel,
    };
    let rules = file.syscalls.unwrap_or_default();
    let names: usize = rules.iter().map(|rule| rule.names().count()).sum();
    if rules.len() > MAX_RULES {
        return Err(ProfileError::TooManyRules(rules.len(), MAX_RULES));
    }
    if names > MAX_NAMES {
        return Err(ProfileError::TooManyRules(names, MAX_NAMES));
    }
    let mut syscalls = Vec::with_capacity(rules.len());
    for rule in &rules {
        for name in rule.names() {
            check_call(name)?;
        }
        for arg in rule.args.iter().flatten() {
            if arg.index() > 5 {
                return Err(ProfileError::Argument(arg.index()));
            }
        }
        let included = rule
            .includes
            .as_ref()
            .map_or(Ok(true), |f| f.includes(&here))?;
        let excluded = rule
            .excludes
            .as_ref()
            .map_or(Ok(false), |f| f.excludes(&here))?;
        let names: Vec<String> = rule.names().cloned().collect();
        if !included || excluded || names.is_empty() {
            continue;
        }
        let mut builder = LinuxSyscallBuilder::default()
            .names(names)
            .action(rule.action);
        if let Some(errno) = rule.errno_ret {
            builder = builder.errno_ret(errno);
        }
        if let Some(args) = rule.args.as_ref().filter(|args| !args.is_empty()) {
            builder = builder.args(args.clone());
        }
        syscalls.push(builder.build()?);
    }
    let mut architectures = file.architectures.unwrap_or_default();
    if let Some(map) = file.arch_map {
        let native = native(here.architecture);
        for entry in map {
            if entry.architecture == native {
                architectures.push(native);
                architectures.extend(entry.sub_architectures.unwrap_or_default());
            }
        }
    }
    let mut builder = LinuxSeccompBuilder::default()
        .default_action(file.default_action)
        .syscalls(syscalls);
    if !architectures.is_empty() {
        builder = builder.architectures(architectures);
    }
    if let Some(errno) = file.default_errno_ret {
        builder = builder.default_errno_ret(errno);
    }
    if let Some(flags) = file.flags.filter(|flags| !flags.is_empty()) {
        builder = builder.flags(flags);
    }
    if let Some(path) = file.listener_path.filter(|path| !path.is_empty()) {
        builder = builder.listener_path(path);
    }
    if let Some(metadata) = file.listener_metadata.filter(|data| !data.is_empty()) {
        builder = builder.listener_metadata(metadata);
    }
    Ok(builder.build()?)
}

#[cfg(test)]
mod test {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use proptest::prelude::*;
    use rstest::rstest;
    use serde_json::json;

    use super::*;
    use crate::container::sample;

    fn parsed(file: &serde_json::Value, held: &[Capability]) -> Result<LinuxSeccomp, ProfileError> {
        parse(
            file.to_string().as_bytes(),
            &held.iter().copied().collect(),
            &sample::facts(),
        )
    }

    #[test]
    fn an_oci_profile_comes_out_as_it_went_in() {
        let file = json!({
            "defaultAction": "SCMP_ACT_ERRNO",
            "defaultErrnoRet": 38,
            "architectures": ["SCMP_ARCH_X86_64"],
            "flags": ["SECCOMP_FILTER_FLAG_LOG"],
            "syscalls": [
                {"names": ["read", "write"], "action": "SCMP_ACT_ALLOW"},
                {"names": ["socket"], "action": "SCMP_ACT_ALLOW",
                 "args": [{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}]},
                {"names": ["mkdir"], "action": "SCMP_ACT_ERRNO", "errnoRet": 5},
            ],
        });
        assert_eq!(
            serde_json::to_value(parsed(&file, &[]).unwrap()).unwrap(),
            file
        );
    }

    #[test]
    fn dockers_additions_are_resolved() {
        let rule = |name: &str, key: &str, filter: serde_json::Value| json!({"name": name, "action": "SCMP_ACT_ALLOW", key: filter});
        let file = json!({
            "defaultAction": "SCMP_ACT_ERRNO",
            "archMap": [
                {"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]},
                {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": ["SCMP_ARCH_ARM"]},
            ],
            "syscalls": [
                rule("a", "includes", json!({"caps": ["CAP_SYS_ADMIN"]})),
                rule("b", "excludes", json!({"caps": ["CAP_SYS_ADMIN"]})),
                rule("c", "includes", json!({"arches": ["amd64", "x32"]})),
                rule("d", "includes", json!({"arches": ["s390x"]})),
                rule("e", "excludes", json!({"arches": ["amd64"]})),
                rule("f", "includes", json!({"minKernel": "4.8"})),
                rule("g", "includes", json!({"minKernel": "99.0"})),
                rule("h", "includes", json!({"caps": ["CAP_FROM_THE_FUTURE"]})),
            ],
        });
        let names = |held: &[Capability]| -> String {
            let seccomp = parsed(&file, held).unwrap();
            let rules = seccomp.syscalls().clone().unwrap();
            rules.iter().flat_map(|rule| rule.names().clone()).collect()
        };
        assert_eq!(names(&[]), "bcf");
        assert_eq!(names(&[Capability::SysAdmin]), "acf");
        assert_eq!(
            parsed(&file, &[]).unwrap().architectures().as_deref(),
            Some(&[Arch::ScmpArchX86_64, Arch::ScmpArchX86][..])
        );
    }

    #[rstest]
    #[case(json!({}))]
    #[case(json!([]))]
    #[case(json!({"defaultAction": "ALLOW"}))]
    #[case(json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": [""], "action": "SCMP_ACT_ALLOW"}]}))]
    #[case(json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["a b"], "action": "SCMP_ACT_ALLOW"}]}))]
    #[case(json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["a"], "action": "SCMP_ACT_ALLOW",
        "args": [{"index": 6, "value": 0, "op": "SCMP_CMP_EQ"}]}]}))]
    #[case(json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["a"], "action": "SCMP_ACT_ALLOW",
        "includes": {"minKernel": "new"}}]}))]
    #[case(json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": vec!["a"; 20_000], "action": "SCMP_ACT_ALLOW"}]}))]
    #[case(json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": vec![json!({"names": ["a"], "action": "SCMP_ACT_ALLOW"}); 5_000]}))]
    fn files_with_mistakes_are_refused(#[case] file: serde_json::Value) {
        assert!(parsed(&file, &[]).is_err());
    }

    #[test]
    fn a_file_past_the_bound_is_refused() {
        let file = vec![b' '; MAX_FILE_BYTES + 1];
        let refused = parse(&file, &BTreeSet::new(), &sample::facts());
        assert!(matches!(refused, Err(ProfileError::TooLarge(_))));
    }

    proptest! {
        #[test]
        fn anything_is_survived(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
            prop_assert!(parse(&bytes, &BTreeSet::new(), &sample::facts()).is_err());
        }
    }
}
