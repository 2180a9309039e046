//! What a runtime says it can do (`RUNTIME features`).

use serde::Deserialize;

/// Optional abilities of a runtime. One without the `features` subcommand has none of them but what `quirks` knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuntimeFeatures {
    /// Whether the runtime answered `features` at all.
    pub reported: bool,
    /// Mount options `rro` and its kin: read-only for every mount below.
    pub recursive_readonly: bool,
    /// Idmapped mounts.
    pub idmap_mounts: bool,
    /// seccomp is compiled in. Runtimes without `features` are taken to have it.
    pub seccomp: FeatureSupport,
    /// Known seccomp actions (`SCMP_ACT_NOTIFY`…).
    pub seccomp_actions: Vec<String>,
    /// AppArmor is compiled in.
    pub apparmor: FeatureSupport,
    /// SELinux is compiled in.
    pub selinux: FeatureSupport,
    /// cgroup v1.
    pub cgroup_v1: FeatureSupport,
    /// cgroup v2.
    pub cgroup_v2: FeatureSupport,
    /// systemd cgroup driver.
    pub systemd_cgroup: FeatureSupport,
    /// Known mount options.
    pub mount_options: Vec<String>,
    /// Hooks known.
    pub hooks: Vec<String>,
    /// Namespaces known.
    pub namespaces: Vec<String>,
    /// Annotations that runtimes attach to the answer (versions of libraries, whether checkpointing works).
    pub annotations: Vec<(String, String)>,
}

/// Three answers to "can you?".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FeatureSupport {
    /// The runtime did not say.
    #[default]
    Unknown,
    /// It can.
    Yes,
    /// It cannot.
    No,
}

/// The answer's shape, as the runtime specification defines it (`features.md`); everything may be absent.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Answer {
    hooks: Vec<String>,
    mount_options: Vec<String>,
    linux: Linux,
    annotations: std::collections::BTreeMap<String, String>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Linux {
    namespaces: Vec<String>,
    cgroup: Cgroup,
    seccomp: Seccomp,
    apparmor: Enabled,
    selinux: Enabled,
    mount_extensions: MountExtensions,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Cgroup {
    v1: Option<bool>,
    v2: Option<bool>,
    systemd: Option<bool>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Seccomp {
    enabled: Option<bool>,
    actions: Vec<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Enabled {
    enabled: Option<bool>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct MountExtensions {
    idmap: Enabled,
}

impl From<Option<bool>> for FeatureSupport {
    fn from(answer: Option<bool>) -> Self {
        match answer {
            None => Self::Unknown,
            Some(true) => Self::Yes,
            Some(false) => Self::No,
        }
    }
}

impl RuntimeFeatures {
    /// Reads what `RUNTIME features` printed.
    pub(crate) fn parse(json: &[u8]) -> Result<Self, serde_json::Error> {
        let Answer {
            hooks,
            mount_options,
            linux,
            annotations,
        } = serde_json::from_slice(json)?;
        Ok(Self {
            reported: true,
            recursive_readonly: mount_options.iter().any(|option| option == "rro"),
            idmap_mounts: linux.mount_extensions.idmap.enabled == Some(true),
            seccomp: linux.seccomp.enabled.into(),
            seccomp_actions: linux.seccomp.actions,
            apparmor: linux.apparmor.enabled.into(),
            selinux: linux.selinux.enabled.into(),
            cgroup_v1: linux.cgroup.v1.into(),
            cgroup_v2: linux.cgroup.v2.into(),
            systemd_cgroup: linux.cgroup.systemd.into(),
            mount_options,
            hooks,
            namespaces: linux.namespaces,
            annotations: annotations.into_iter().collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::{FeatureSupport, RuntimeFeatures};

    #[test]
    fn an_answer_is_read() {
        let features = RuntimeFeatures::parse(
            br#"{"ociVersionMin":"1.0.0","hooks":["prestart"],"mountOptions":["ro","rro"],
                "linux":{"namespaces":["cgroup"],"cgroup":{"v1":true,"v2":false},
                "seccomp":{"enabled":true,"actions":["SCMP_ACT_NOTIFY"]},"apparmor":{"enabled":false},
                "mountExtensions":{"idmap":{"enabled":true}}},"annotations":{"a":"b"},"unknown":[1]}"#,
        )
        .unwrap();
        assert!(features.reported && features.recursive_readonly && features.idmap_mounts);
        assert_eq!(features.seccomp, FeatureSupport::Yes);
        assert_eq!(features.seccomp_actions, ["SCMP_ACT_NOTIFY"]);
        assert_eq!(features.apparmor, FeatureSupport::No);
        assert_eq!(features.selinux, FeatureSupport::Unknown);
        assert_eq!(
            (features.cgroup_v1, features.cgroup_v2),
            (FeatureSupport::Yes, FeatureSupport::No)
        );
        assert_eq!(features.annotations, [("a".to_owned(), "b".to_owned())]);
    }

    #[test]
    fn an_empty_answer_is_no_features() {
        let features = RuntimeFeatures::parse(b"{}").unwrap();
        assert_eq!(
            features,
            RuntimeFeatures {
                reported: true,
                ..RuntimeFeatures::default()
            }
        );
        assert!(RuntimeFeatures::parse(b"unknown command").is_err());
    }
}
