//! The mounts that every container has without asking.

use std::path::{Path, PathBuf};

use oci_spec::runtime::{Mount, MountBuilder};

use crate::error::SpecError;
use crate::input::PodFiles;

/// What of the container decides about its own mounts.
pub(crate) struct Surroundings {
    /// `/sys` and the cgroups are writable.
    pub(crate) privileged: bool,
    /// The pod's files are read-only too.
    pub(crate) readonly_rootfs: bool,
    /// The kernel refuses a new sysfs to a user namespace that does not own the network namespace.
    pub(crate) node_network_in_user_namespace: bool,
    /// The IPC namespace is the node's.
    pub(crate) node_ipc: bool,
    /// The runtime can make what is mounted below a mount read-only too.
    pub(crate) recursive_readonly: bool,
    /// Group 5 (tty) exists in the container's user namespace.
    pub(crate) tty_group: bool,
}

fn mount(
    destination: &str,
    kind: &str,
    source: &Path,
    options: &[&str],
) -> Result<Mount, SpecError> {
    let options: Vec<String> = options.iter().map(|option| (*option).to_owned()).collect();
    Ok(MountBuilder::default()
        .destination(destination)
        .typ(kind)
        .source(source)
        .options(options)
        .build()?)
}

pub(super) fn mounts(
    files: Option<&PodFiles>,
    around: &Surroundings,
) -> Result<Vec<Mount>, SpecError> {
    let access = if around.privileged { "rw" } else { "ro" };
    let pseudo = ["nosuid", "noexec", "nodev"];
    let mut pts = vec![
        "nosuid",
        "noexec",
        "newinstance",
        "ptmxmode=0666",
        "mode=0620",
    ];
    if around.tty_group {
        pts.push("gid=5");
    }
    let mut mounts = vec![
        mount("/proc", "proc", Path::new("proc"), &pseudo)?,
        mount(
            "/dev",
            "tmpfs",
            Path::new("tmpfs"),
            &["nosuid", "strictatime", "mode=755", "size=65536k"],
        )?,
        mount("/dev/pts", "devpts", Path::new("devpts"), &pts)?,
        mount("/dev/mqueue", "mqueue", Path::new("mqueue"), &pseudo)?,
    ];
    // The node's own comes with all that is mounted below it.
    let access_below = if around.recursive_readonly && !around.privileged {
        "rro"
    } else {
        access
    };
    mounts.push(if around.node_network_in_user_namespace {
        mount(
            "/sys",
            "bind",
            Path::new("/sys"),
            &[
                "rbind",
                "rprivate",
                "nosuid",
                "noexec",
                "nodev",
                access_below,
            ],
        )?
    } else {
        mount(
            "/sys",
            "sysfs",
            Path::new("sysfs"),
            &["nosuid", "noexec", "nodev", access],
        )?
    });
    // Every runtime takes this type for both versions and does the right thing for the one there is.
    mounts.push(mount(
        "/sys/fs/cgroup",
        "cgroup",
        Path::new("cgroup"),
        &["nosuid", "noexec", "nodev", "relatime", access],
    )?);

    let given = files.and_then(|files| files.shm.clone());
    let node = around.node_ipc.then(|| PathBuf::from("/dev/shm"));
    mounts.push(match given.or(node) {
        Some(source) => mount(
            "/dev/shm",
            "bind",
            &source,
            &["rbind", "rprivate", "nosuid", "noexec", "nodev", "rw"],
        )?,
        None => mount(
            "/dev/shm",
            "tmpfs",
            Path::new("shm"),
            &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"],
        )?,
    });

    if let Some(files) = files {
        let access = if around.readonly_rootfs { "ro" } else { "rw" };
        let options = ["rbind", "rprivate", "nosuid", "noexec", "nodev", access];
        let hosts = files.hosts.iter().map(|hosts| ("/etc/hosts", hosts));
        for (destination, source) in [
            ("/etc/resolv.conf", &files.resolv_conf),
            ("/etc/hostname", &files.hostname),
        ]
        .into_iter()
        .chain(hosts)
        {
            mounts.push(mount(destination, "bind", source, &options)?);
        }
    }
    Ok(mounts)
}
