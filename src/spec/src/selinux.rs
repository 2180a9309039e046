//! SELinux labels of a container's process and of its files.
//!
//! A pod gets one label, which its containers inherit part by part unless they give parts of their own. What tells pods from
//! each other is the level: two categories that no other pod of the node has. Processes and files of another level are out
//! of reach, whatever their user.
//!
//! A privileged container gets no label for its process, nor does one with the node's PID or IPC namespace that asks for no
//! type: the policy then decides, which makes it `spc_t` where containers are unconfined. Its files are labelled as usual,
//! for the pod's other containers use them too.

mod context;
mod level;
mod policy;

use serde::{Deserialize, Serialize};

pub use self::{
    context::{BadContext, Context, is_name},
    level::{Categories, is_level},
    policy::{MAX_FILE_BYTES, PolicyLabels},
};
use crate::model::{ContainerSecurity, NamespaceMode, PodSecurity, SelinuxLabel};

/// The type of containers that nothing confines.
const UNCONFINED: &str = "spc_t";

/// The role of all files.
const FILE_ROLE: &str = "object_r";

/// The labels of a pod or container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SelinuxContext {
    /// What its processes run under if they are confined, and what inherits from it begins with.
    pub label: Context,
    /// Label of its root filesystem and of volumes that are relabelled for it.
    pub files: Context,
    /// Whether its processes get [`Self::label`]. If not, the policy chooses for them.
    pub confined: bool,
}

impl SelinuxContext {
    /// The label that the OCI runtime is to give the process.
    pub fn process(&self) -> Option<String> {
        self.confined.then(|| self.label.to_string())
    }

    /// The label that mounts and files are given.
    pub fn mount(&self) -> String {
        self.files.to_string()
    }

    /// Label of files that are used beside containers of other levels: without categories, so that all of them may.
    pub fn shared(&self) -> Context {
        Context {
            level: level::without_categories(&self.files.level).to_owned(),
            ..self.files.clone()
        }
    }

    /// Whether volumes are relabelled for it: a process that may do everything needs none of that, and is often given what
    /// belongs to others.
    pub fn relabels(&self) -> bool {
        self.label.kind != UNCONFINED
    }
}

/// What an OCI runtime makes of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guest {
    /// Processes of the node.
    Processes,
    /// A virtual machine: what runs on the node is its monitor, which has a type of its own.
    Machine,
}

/// The labels of a pod. `level` stands in for one that is not asked for; it is empty where the policy has no levels.
pub fn pod(
    security: &PodSecurity,
    policy: &PolicyLabels,
    level: &str,
    guest: Guest,
) -> SelinuxContext {
    let asked = &security.selinux;
    let mut base = match (guest, &policy.machine) {
        (Guest::Machine, Some(machine)) => machine.clone(),
        _ => policy.process.clone(),
    };
    level.clone_into(&mut base.level);
    let label = with(asked, &base);
    let namespaces = &security.namespaces;
    let sees_node = namespaces.pid == NamespaceMode::Node || namespaces.ipc == NamespaceMode::Node;
    SelinuxContext {
        files: files(&policy.file, &label),
        confined: !security.privileged && (!sees_node || !asked.kind.is_empty()),
        label,
    }
}

/// The labels of a container of `pod`. `base` are those that it inherits: the pod's, or those of the container whose PID
/// namespace it joins.
pub fn container(
    security: &ContainerSecurity,
    pod: &PodSecurity,
    base: &SelinuxContext,
) -> SelinuxContext {
    let label = with(&security.selinux, &base.label);
    let sees_node =
        security.namespaces.pid == NamespaceMode::Node || pod.namespaces.ipc == NamespaceMode::Node;
    let type_is_asked_for = !security.selinux.kind.is_empty() || !pod.selinux.kind.is_empty();
    SelinuxContext {
        files: files(&base.files, &label),
        confined: !security.privileged && (!sees_node || type_is_asked_for),
        label,
    }
}

/// `base` with the parts that are asked for.
fn with(asked: &SelinuxLabel, base: &Context) -> Context {
    let or = |part: &str, base: &str| if part.is_empty() { base } else { part }.to_owned();
    Context {
        user: or(&asked.user, &base.user),
        role: or(&asked.role, &base.role),
        kind: or(&asked.kind, &base.kind),
        level: or(&asked.level, &base.level),
    }
}

/// The label of files of a process: they never carry its role or type, for the policy says what containers may write by the
/// type of files.
fn files(file: &Context, process: &Context) -> Context {
    Context {
        user: process.user.clone(),
        role: FILE_ROLE.to_owned(),
        kind: file.kind.clone(),
        level: process.level.clone(),
    }
}

#[cfg(test)]
mod test {
    use rstest::rstest;

    use super::*;
    use crate::model::Namespaces;

    const LEVEL: &str = "s0:c1,c2";

    fn label(user: &str, role: &str, kind: &str, level: &str) -> SelinuxLabel {
        SelinuxLabel {
            user: user.to_owned(),
            role: role.to_owned(),
            kind: kind.to_owned(),
            level: level.to_owned(),
        }
    }

    fn pod_security(selinux: SelinuxLabel) -> PodSecurity {
        PodSecurity {
            selinux,
            ..PodSecurity::default()
        }
    }

    fn pod_labels(security: &PodSecurity) -> SelinuxContext {
        pod(security, &PolicyLabels::default(), LEVEL, Guest::Processes)
    }

    /// Process and files.
    fn texts(labels: &SelinuxContext) -> (String, String) {
        (labels.label.to_string(), labels.mount())
    }

    #[rstest]
    #[case::nothing_asked(
        label("", "", "", ""),
        "system_u:system_r:container_t:s0:c1,c2",
        "system_u:object_r:container_file_t:s0:c1,c2"
    )]
    #[case::level(
        label("", "", "", "s0:c7,c8"),
        "system_u:system_r:container_t:s0:c7,c8",
        "system_u:object_r:container_file_t:s0:c7,c8"
    )]
    #[case::kind(
        label("", "", "web_t", ""),
        "system_u:system_r:web_t:s0:c1,c2",
        "system_u:object_r:container_file_t:s0:c1,c2"
    )]
    #[case::all(
        label("u", "r", "t", "s1"),
        "u:r:t:s1",
        "u:object_r:container_file_t:s1"
    )]
    fn a_pods_parts_are_those_asked_for_or_the_defaults(
        #[case] asked: SelinuxLabel,
        #[case] process: &str,
        #[case] mount: &str,
    ) {
        let labels = pod_labels(&pod_security(asked));
        assert_eq!(texts(&labels), (process.to_owned(), mount.to_owned()));
        assert_eq!(labels.process().as_deref(), Some(process));
    }

    #[rstest]
    #[case::inherits_all(
        label("", "", "web_t", ""),
        label("", "", "", ""),
        "system_u:system_r:web_t:s0:c1,c2"
    )]
    #[case::own_level(
        label("", "", "web_t", ""),
        label("", "", "", "s0:c5,c6"),
        "system_u:system_r:web_t:s0:c5,c6"
    )]
    #[case::own_type(
        label("", "", "web_t", "s0:c5,c6"),
        label("", "", "db_t", ""),
        "system_u:system_r:db_t:s0:c5,c6"
    )]
    fn a_container_inherits_part_by_part(
        #[case] pods: SelinuxLabel,
        #[case] own: SelinuxLabel,
        #[case] expected: &str,
    ) {
        let pods = pod_security(pods);
        let base = pod_labels(&pods);
        let security = ContainerSecurity {
            selinux: own,
            ..ContainerSecurity::default()
        };
        let labels = container(&security, &pods, &base);
        assert_eq!(labels.process().as_deref(), Some(expected));
        assert_eq!(labels.files.level, labels.label.level);
        assert_eq!(labels.files.kind, "container_file_t");
    }

    #[test]
    fn containers_of_a_pod_without_wishes_have_one_label() {
        let pods = pod_security(SelinuxLabel::default());
        let base = pod_labels(&pods);
        let one = container(&ContainerSecurity::default(), &pods, &base);
        let of_target = container(&ContainerSecurity::default(), &pods, &one);
        assert_eq!(one, base);
        assert_eq!(of_target, base);
    }

    #[test]
    fn a_privileged_container_has_labelled_files_and_a_process_of_the_policys_choice() {
        let pods = PodSecurity {
            privileged: true,
            ..pod_security(label("", "", "web_t", ""))
        };
        let base = pod_labels(&pods);
        assert_eq!(base.process(), None);
        let security = ContainerSecurity {
            privileged: true,
            ..ContainerSecurity::default()
        };
        let privileged = container(&security, &pods, &base);
        assert_eq!(privileged.process(), None);
        assert_eq!(
            privileged.mount(),
            "system_u:object_r:container_file_t:s0:c1,c2"
        );
        // Volumes are asked to be relabelled once for all containers of a pod.
        assert!(privileged.relabels());
        let ordinary = container(&ContainerSecurity::default(), &pods, &base);
        assert_eq!(
            ordinary.process().as_deref(),
            Some("system_u:system_r:web_t:s0:c1,c2")
        );
    }

    #[rstest]
    #[case::pid(NamespaceMode::Node, NamespaceMode::Pod, "", false)]
    #[case::ipc(NamespaceMode::Container, NamespaceMode::Node, "", false)]
    #[case::pid_with_type(NamespaceMode::Node, NamespaceMode::Pod, "web_t", true)]
    #[case::ipc_with_type(NamespaceMode::Pod, NamespaceMode::Node, "web_t", true)]
    #[case::neither(NamespaceMode::Pod, NamespaceMode::Pod, "", true)]
    fn the_nodes_namespaces_need_an_unconfined_process_unless_a_type_is_given(
        #[case] pid: NamespaceMode,
        #[case] ipc: NamespaceMode,
        #[case] kind: &str,
        #[case] confined: bool,
    ) {
        let namespaces = Namespaces {
            pid,
            ipc,
            ..Namespaces::default()
        };
        // A level alone, which admission may give to every pod of a namespace, is no wish to be confined.
        let pods = PodSecurity {
            namespaces: namespaces.clone(),
            ..pod_security(label("", "", kind, "s0:c3,c4"))
        };
        let base = pod_labels(&pods);
        assert_eq!(base.confined, confined);
        let security = ContainerSecurity {
            namespaces,
            ..ContainerSecurity::default()
        };
        assert_eq!(container(&security, &pods, &base).confined, confined);
    }

    #[test]
    fn a_virtual_machine_has_a_type_of_its_own_unless_one_is_given() {
        let policy = PolicyLabels::parse("kvm_process = \"system_u:system_r:container_kvm_t:s0\"");
        let security = pod_security(SelinuxLabel::default());
        let labels = pod(&security, &policy, LEVEL, Guest::Machine);
        assert_eq!(
            labels.process().as_deref(),
            Some("system_u:system_r:container_kvm_t:s0:c1,c2")
        );
        let security = pod_security(label("", "", "web_t", ""));
        let labels = pod(&security, &policy, LEVEL, Guest::Machine);
        assert_eq!(labels.label.kind, "web_t");
    }

    #[test]
    fn volumes_of_super_privileged_containers_keep_their_labels() {
        let pods = pod_security(label("", "", "spc_t", ""));
        let base = pod_labels(&pods);
        assert!(!base.relabels());
        let security = ContainerSecurity {
            selinux: label("", "", "container_t", ""),
            ..ContainerSecurity::default()
        };
        assert!(container(&security, &pods, &base).relabels());
    }

    #[test]
    fn shared_files_have_no_categories() {
        let labels = pod_labels(&pod_security(SelinuxLabel::default()));
        assert_eq!(
            labels.shared().to_string(),
            "system_u:object_r:container_file_t:s0"
        );
    }

    #[test]
    fn records_keep_labels_as_text() {
        let labels = pod_labels(&pod_security(SelinuxLabel::default()));
        let json = serde_json::to_value(&labels).unwrap_or_default();
        assert_eq!(json["label"], "system_u:system_r:container_t:s0:c1,c2");
        let back: Option<SelinuxContext> = serde_json::from_value(json).ok();
        assert_eq!(back, Some(labels));
    }
}
