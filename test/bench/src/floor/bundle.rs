//! The floor's `config.json`: what Pintle writes for the pod and container of [`crate::requests`], by the same crate.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use oci_spec::runtime::{Process, Spec};
use pintle_test::images::{GROUP, PASSWD, PATH_ENV};
use spec::{
    Architecture, Capability, CgroupVersion, ContainerInput, ImageProcess, NamespacePaths,
    NodeFacts, PodFiles, RuntimeFeatures, SpecDefaults,
    model::{
        ContainerConfig, ContainerMetadata, ContainerSecurity, NamespaceMode,
        Namespaces as PodNamespaces, PodConfig, PodMetadata, PodSecurity, Resources,
        SecurityProfile,
    },
};
use sys::kernel::CapabilitySet;

use super::namespaces::Namespaces;
use crate::requests;

/// What specs are made of.
#[derive(Debug)]
pub(super) struct Specs {
    facts: NodeFacts,
    defaults: SpecDefaults,
    pod: PodConfig,
    container: ContainerConfig,
    image: ImageProcess,
}

impl Specs {
    /// Looks at the node.
    pub(super) fn new() -> Result<Self> {
        Ok(Self {
            facts: facts()?,
            defaults: SpecDefaults::default(),
            pod: pod(),
            container: container(),
            image: ImageProcess {
                env: vec![PATH_ENV.to_owned()],
                cmd: vec!["sh".to_owned()],
                ..ImageProcess::default()
            },
        })
    }

    /// Writes a container's `config.json` into the pod's directory, which is its bundle too.
    pub(super) fn write(
        &self,
        id: &str,
        dir: &Path,
        namespaces: &Namespaces,
        rootfs: &Path,
    ) -> Result<()> {
        let spec = self.spec(id, dir, namespaces, rootfs)?;
        let path = dir.join("config.json");
        fs::write(&path, serde_json::to_vec(&spec)?)
            .with_context(|| format!("writing {}", path.display()))
    }

    /// Writes the process of an exec.
    pub(super) fn write_process(&self, path: &Path) -> Result<()> {
        // The process of every container is the same.
        let nowhere = Namespaces::at("none", Path::new("/"));
        let spec = self.spec("none", Path::new("/"), &nowhere, Path::new("/"))?;
        let own: &Process = spec
            .process()
            .as_ref()
            .context("a spec without a process")?;
        let command: Vec<_> = requests::PROBE
            .iter()
            .map(|&word| word.to_owned())
            .collect();
        let process = spec::exec_process(own, &command, false);
        fs::write(path, serde_json::to_vec(&process)?)
            .with_context(|| format!("writing {}", path.display()))
    }

    fn spec(&self, id: &str, dir: &Path, namespaces: &Namespaces, rootfs: &Path) -> Result<Spec> {
        let path = |path: &Path| Some(path.to_owned());
        let made = spec::container(&ContainerInput {
            pod_id: id,
            pod: &self.pod,
            container: &self.container,
            image: &self.image,
            passwd: Some(PASSWD.as_bytes()),
            group: Some(GROUP.as_bytes()),
            facts: &self.facts,
            features: &RuntimeFeatures::default(),
            defaults: &self.defaults,
            namespaces: NamespacePaths {
                network: path(namespaces.network()),
                ipc: path(namespaces.ipc()),
                uts: path(namespaces.uts()),
                pid: None,
                user: None,
            },
            cgroups_path: format!("{}/{id}", requests::CGROUP_PARENT),
            rootfs: PathBuf::from(rootfs),
            files: PodFiles {
                resolv_conf: dir.join("resolv.conf"),
                hostname: dir.join("hostname"),
                hosts: None,
                shm: Some(dir.join("shm")),
            },
            mounts: Vec::new(),
            classes: spec::ResourceClasses::default(),
            cdi: spec::cdi::Edits::default(),
            host_devices: Vec::new(),
            seccomp_file: None,
            selinux: None,
        })?;
        Ok(made.spec)
    }
}

fn owned(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}

fn namespaces() -> PodNamespaces {
    PodNamespaces {
        pid: NamespaceMode::Container,
        ..PodNamespaces::default()
    }
}

fn pod() -> PodConfig {
    PodConfig {
        metadata: PodMetadata {
            name: "bench".to_owned(),
            uid: "bench".to_owned(),
            namespace: "bench".to_owned(),
            attempt: 0,
        },
        hostname: "bench".to_owned(),
        cgroup_parent: requests::CGROUP_PARENT.to_owned(),
        security: PodSecurity {
            namespaces: namespaces(),
            seccomp: SecurityProfile::RuntimeDefault,
            ..PodSecurity::default()
        },
        ..PodConfig::default()
    }
}

fn container() -> ContainerConfig {
    ContainerConfig {
        metadata: ContainerMetadata {
            name: "c".to_owned(),
            attempt: 0,
        },
        command: owned(requests::COMMAND),
        resources: Some(Resources {
            cpu_shares: requests::CPU_SHARES,
            oom_score_adj: requests::OOM_SCORE_ADJ,
            ..Resources::default()
        }),
        security: ContainerSecurity {
            namespaces: namespaces(),
            seccomp: SecurityProfile::RuntimeDefault,
            masked_paths: owned(requests::MASKED_PATHS),
            readonly_paths: owned(requests::READONLY_PATHS),
            ..ContainerSecurity::default()
        },
        ..ContainerConfig::default()
    }
}

fn facts() -> Result<NodeFacts> {
    let layout = sys::cgroup::Layout::detect()?;
    let kernel = sys::kernel::version();
    Ok(NodeFacts {
        hostname: "bench".to_owned(),
        cgroup_version: if layout.is_v2() {
            CgroupVersion::V2
        } else {
            CgroupVersion::V1
        },
        systemd_cgroup: false,
        hugetlb: layout.controllers()?.contains("hugetlb"),
        swap_accounting: false,
        capabilities: Capability::set_from_bits(sys::kernel::capabilities(
            CapabilitySet::Bounding,
        )?),
        apparmor: false,
        selinux: false,
        // The container's score is above every own one.
        oom_score_adj_min: 0,
        hard_rlimits: BTreeMap::new(),
        architecture: Architecture::of_this_build(),
        kernel: (kernel.major, kernel.minor),
    })
}
