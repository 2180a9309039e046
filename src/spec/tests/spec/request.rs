//! A request to build variations of: an ordinary pod as kubelet sends it, with a busybox container.

use std::collections::BTreeMap;
use std::path::PathBuf;

use spec::model::{
    ContainerConfig, ContainerMetadata, ContainerSecurity, ImageSpec, Mount, NamespaceMode,
    Namespaces, PodConfig, PodMetadata, Resources, SecurityProfile,
};
use spec::{
    Architecture, Capability, CgroupVersion, ContainerInput, ContainerSpec, HostDevice,
    ImageProcess, NamespacePaths, NodeFacts, PauseInput, PodFiles, RuntimeFeatures, SpecDefaults,
    SpecError,
};

const POD: &str = "1111111111111111111111111111111111111111111111111111111111111111";

/// All that an input borrows, owned and open to changes.
pub(crate) struct Request {
    pub(crate) pod: PodConfig,
    pub(crate) container: ContainerConfig,
    pub(crate) image: ImageProcess,
    pub(crate) passwd: Option<Vec<u8>>,
    pub(crate) group: Option<Vec<u8>>,
    pub(crate) facts: NodeFacts,
    pub(crate) features: RuntimeFeatures,
    pub(crate) defaults: SpecDefaults,
    pub(crate) namespaces: NamespacePaths,
    pub(crate) cgroups_path: String,
    pub(crate) rootfs: PathBuf,
    pub(crate) files: PodFiles,
    pub(crate) mounts: Vec<Mount>,
    pub(crate) host_devices: Vec<HostDevice>,
    pub(crate) cdi: spec::cdi::Edits,
    pub(crate) seccomp_file: Option<Vec<u8>>,
    pub(crate) selinux: Option<spec::selinux::SelinuxContext>,
}

fn owned(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

pub(crate) fn facts() -> NodeFacts {
    NodeFacts {
        hostname: "node-1".to_owned(),
        cgroup_version: CgroupVersion::V2,
        systemd_cgroup: false,
        hugetlb: true,
        swap_accounting: true,
        capabilities: Capability::ALL.iter().copied().collect(),
        apparmor: false,
        selinux: false,
        oom_score_adj_min: -1000,
        hard_rlimits: BTreeMap::new(),
        architecture: Some(Architecture::X86_64),
        kernel: (6, 1),
    }
}

impl Request {
    /// What kubelet sends for `image: busybox` and nothing else.
    pub(crate) fn busybox() -> Self {
        let namespaces = Namespaces {
            pid: NamespaceMode::Container,
            ..Namespaces::default()
        };
        let mut pod = PodConfig {
            metadata: PodMetadata {
                name: "web".to_owned(),
                uid: "a-b-c".to_owned(),
                namespace: "default".to_owned(),
                attempt: 0,
            },
            hostname: "web".to_owned(),
            cgroup_parent: "/kubepods/besteffort/poda-b-c".to_owned(),
            ..PodConfig::default()
        };
        pod.security.namespaces = namespaces.clone();
        let container = ContainerConfig {
            metadata: ContainerMetadata {
                name: "main".to_owned(),
                attempt: 0,
            },
            image: ImageSpec {
                image: "sha256:abc".to_owned(),
                user_specified_image: "busybox".to_owned(),
                ..ImageSpec::default()
            },
            resources: Some(Resources {
                cpu_period_us: 100_000,
                cpu_shares: 2,
                oom_score_adj: 1000,
                ..Resources::default()
            }),
            security: ContainerSecurity {
                namespaces,
                masked_paths: owned(spec::paths::DEFAULT_MASKED),
                readonly_paths: owned(spec::paths::DEFAULT_READONLY),
                seccomp: SecurityProfile::Unconfined,
                ..ContainerSecurity::default()
            },
            ..ContainerConfig::default()
        };
        Self {
            pod,
            container,
            image: ImageProcess {
                env: owned(&["PATH=/bin:/usr/bin"]),
                cmd: owned(&["sh"]),
                ..ImageProcess::default()
            },
            passwd: Some(b"root:x:0:0:root:/root:/bin/sh\n".to_vec()),
            group: Some(b"root:x:0:\nwheel:x:10:root\n".to_vec()),
            facts: facts(),
            features: RuntimeFeatures::default(),
            defaults: SpecDefaults::default(),
            namespaces: NamespacePaths {
                network: Some(format!("/run/netns/{POD}").into()),
                ipc: Some(format!("/run/pintle/ns/{POD}/ipc").into()),
                uts: Some(format!("/run/pintle/ns/{POD}/uts").into()),
                ..NamespacePaths::default()
            },
            cgroups_path: "/kubepods/besteffort/poda-b-c/c1".to_owned(),
            rootfs: "rootfs".into(),
            files: PodFiles {
                resolv_conf: format!("/run/pintle/pods/{POD}/resolv.conf").into(),
                hostname: format!("/run/pintle/pods/{POD}/hostname").into(),
                hosts: None,
                shm: Some(format!("/run/pintle/pods/{POD}/shm").into()),
            },
            mounts: vec![Mount {
                container_path: "/etc/hosts".to_owned(),
                host_path: "/var/lib/kubelet/pods/a-b-c/etc-hosts".to_owned(),
                ..Mount::default()
            }],
            host_devices: Vec::new(),
            cdi: spec::cdi::Edits::default(),
            seccomp_file: None,
            selinux: None,
        }
    }

    /// The same namespace choices for pod and container, as kubelet sends them.
    pub(crate) fn set_namespaces(&mut self, namespaces: &Namespaces) {
        self.pod.security.namespaces = namespaces.clone();
        self.container.security.namespaces = namespaces.clone();
    }

    pub(crate) fn make_privileged(&mut self) {
        self.pod.security.privileged = true;
        self.container.security.privileged = true;
    }

    pub(crate) fn container(&self) -> Result<ContainerSpec, SpecError> {
        spec::container(&ContainerInput {
            pod_id: POD,
            pod: &self.pod,
            container: &self.container,
            image: &self.image,
            passwd: self.passwd.as_deref(),
            group: self.group.as_deref(),
            facts: &self.facts,
            features: &self.features,
            defaults: &self.defaults,
            namespaces: self.namespaces.clone(),
            cgroups_path: self.cgroups_path.clone(),
            rootfs: self.rootfs.clone(),
            files: self.files.clone(),
            mounts: self.mounts.clone(),
            host_devices: self.host_devices.clone(),
            classes: spec::ResourceClasses::default(),
            cdi: self.cdi.clone(),
            seccomp_file: self.seccomp_file.as_deref(),
            selinux: self.selinux.clone(),
        })
    }

    pub(crate) fn pause(&self, files: bool) -> Result<oci_spec::runtime::Spec, SpecError> {
        spec::pause(&PauseInput {
            pod_id: POD,
            pod: &self.pod,
            facts: &self.facts,
            features: &self.features,
            defaults: &self.defaults,
            namespaces: self.namespaces.clone(),
            cgroups_path: self.cgroups_path.clone(),
            rootfs: self.rootfs.clone(),
            args: owned(&["/pause"]),
            files: files.then(|| self.files.clone()),
            seccomp_file: None,
            selinux: self.selinux.clone(),
        })
    }
}
