//! A world of its own for every test: namespaces, cgroups and mounts that nobody else sees.
//!
//! The program starts itself again under `unshare`: outside it only waits, inside it does the work. Everything inside is
//! in one PID namespace that ends with the test, however the test ends, and that takes along every process, mount,
//! interface and rule. The cgroup namespace is rooted at one directory per hierarchy, which the outside removes.
//!
//! A world has the machine's filesystem but a `/run` and a `/var/lib` of its own on tmpfs; a loopback device and nothing
//! else for a network; `/sys/fs/cgroup` laid out like the machine's, except that the empty cgroup2 tree beside v1
//! controllers is left away, which crun does not accept. On a machine with cgroup v2 all processes of a world begin in `/init`,
//! since its root, unlike a machine's, could not share out controllers with processes in it.

use std::{
    env,
    ffi::{OsStr, OsString},
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitStatus},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind, mount_change, unmount,
};

use crate::driver;

/// Set inside a world.
const MARK: &str = "PINTLE_WORLD";

/// Prefix of the cgroup directories of worlds; the PID of the one who waits outside follows.
const CGROUP_PREFIX: &str = "pintle-test-";

/// On cgroup v2, where the processes of a world are, below its root.
const LEAF: &str = "init";

/// No test lives so long.
const LEFT_OVER: Duration = Duration::from_hours(1);

/// Whether this process is inside a world.
pub fn inside() -> bool {
    env::var_os(MARK).is_some()
}

/// Starts this program again with `arguments` inside a new world and waits for its end.
pub fn again(arguments: impl IntoIterator<Item = OsString>) -> Result<ExitStatus> {
    sweep();
    let home = if driver::is_systemd() {
        CgroupHome::default()
    } else {
        CgroupHome::make()?
    };
    // One process enters the cgroups, makes them the roots of its namespace, goes on to the leaf where there has to be one, and
    // becomes the unshare that waits outside; the shell inside is the PID 1 that reaps what others leave.
    let script = r#"
        for procs in $PINTLE_WORLD_CGROUPS; do echo $$ > "$procs" || exit 97; done
        exec $PINTLE_WORLD_ROOTS sh -c "$PINTLE_WORLD_ENTER" enter "$@"
    "#;
    let enter = r#"
        for procs in $PINTLE_WORLD_LEAVES; do echo $$ > "$procs" || exit 97; done
        exec unshare --net --mount $PINTLE_WORLD_PIDS --ipc --uts --propagation private --fork --kill-child \
            -- sh -c '"$@" & wait $!' world "$@"
    "#;
    let program = env::current_exe().context("finding the running program")?;
    // systemd knows cgroups and processes by their own names only.
    let (roots, pids) = if driver::is_systemd() {
        ("", "")
    } else {
        ("unshare --cgroup --", "--pid --mount-proc")
    };
    let status = Command::new("sh")
        .args(["-c", script, "enter"])
        .arg(program)
        .args(arguments)
        .env(MARK, "1")
        .env("PINTLE_WORLD_ENTER", enter)
        .env("PINTLE_WORLD_CGROUPS", procs_files(&home.roots))
        .env("PINTLE_WORLD_LEAVES", procs_files(&home.leaves))
        .env("PINTLE_WORLD_ROOTS", roots)
        .env("PINTLE_WORLD_PIDS", pids)
        .status()
        .context("running unshare");
    driver::clear();
    status
}

/// Makes the world that this process was started in fit to live in.
pub fn furnish() -> Result<()> {
    let hierarchies = Hierarchy::of_mounts()?;
    // What was mounted below /sys goes with it.
    unmount("/sys", UnmountFlags::DETACH).context("taking away /sys")?;
    mount_fs("sysfs", "/sys", "")?;
    if Path::new("/sys/kernel/security").is_dir() {
        mount_fs("securityfs", "/sys/kernel/security", "")?;
    }
    let v1 = hierarchies.iter().any(|hierarchy| hierarchy.v1.is_some());
    if v1 {
        mount_fs("tmpfs", "/sys/fs/cgroup", "mode=755")?;
    }
    for hierarchy in &hierarchies {
        match &hierarchy.v1 {
            Some(options) => {
                make_dirs(&hierarchy.mount)?;
                mount_fs("cgroup", &hierarchy.mount, options)?;
            }
            None if v1 => {}
            None => {
                mount_fs("cgroup2", &hierarchy.mount, "")?;
                if !driver::is_systemd() {
                    share_controllers(&hierarchy.mount)?;
                }
            }
        }
    }
    let machines_run = fs::File::open("/run").context("opening the machine's /run")?;
    for place in ["/run", "/var/lib"] {
        mount_fs("tmpfs", place, "mode=755")?;
    }
    if driver::is_systemd() {
        // Where systemd and its bus are reached, by us and by OCI runtimes.
        for place in ["dbus", "systemd"] {
            let fd = std::os::fd::AsRawFd::as_raw_fd(&machines_run);
            let from = format!("/proc/self/fd/{fd}/{place}");
            let to = Path::new("/run").join(place);
            make_dirs(&to)?;
            mount_bind(&from, &to).with_context(|| format!("keeping {}", to.display()))?;
        }
    }
    // A kubelet's mounts have to reach containers that ask for propagation.
    mount_change(
        "/",
        MountPropagationFlags::SHARED | MountPropagationFlags::REC,
    )
    .context("sharing /")?;
    run("hostname", ["pintle-node"])?;
    run("ip", ["link", "set", "lo", "up"])?;
    for (knob, value) in [
        ("net/ipv4/ip_forward", "1"),
        ("net/ipv6/conf/all/forwarding", "1"),
        // What a host port on 127.0.0.1 needs.
        ("net/ipv4/conf/all/route_localnet", "1"),
        ("net/ipv4/conf/all/rp_filter", "0"),
    ] {
        write(Path::new("/proc/sys").join(knob), value)?;
    }
    Ok(())
}

/// Runs a program to its end; its output is part of the error when it fails.
pub fn run<S: AsRef<OsStr>>(
    program: &str,
    arguments: impl IntoIterator<Item = S>,
) -> Result<Vec<u8>> {
    let mut command = Command::new(program);
    command.args(arguments);
    let output = command
        .output()
        .with_context(|| format!("running {program}"))?;
    ensure!(
        output.status.success(),
        "{command:?}: {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(output.stdout)
}

/// Makes a directory and those above it.
pub fn make_dirs(path: impl AsRef<Path>) -> Result<()> {
    let path = path.as_ref();
    fs::create_dir_all(path).with_context(|| format!("making {}", path.display()))
}

/// Writes a file whole.
pub fn write(path: impl AsRef<Path>, text: impl AsRef<[u8]>) -> Result<()> {
    let path = path.as_ref();
    fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}

/// Mounts a filesystem that has no device.
pub fn mount_fs(kind: &str, target: impl AsRef<Path>, options: &str) -> Result<()> {
    let target = target.as_ref();
    let options = std::ffi::CString::new(options)?;
    mount(kind, target, kind, MountFlags::empty(), options.as_c_str())
        .with_context(|| format!("mounting {kind} at {}", target.display()))
}

/// One mounted cgroup hierarchy.
struct Hierarchy {
    mount: PathBuf,
    /// Mount options that select it among the v1 hierarchies; none for cgroup2.
    v1: Option<String>,
}

impl Hierarchy {
    fn of_mounts() -> Result<Vec<Self>> {
        let text =
            fs::read_to_string("/proc/self/mountinfo").context("reading /proc/self/mountinfo")?;
        let mut found: Vec<Self> = Vec::new();
        for line in text.lines() {
            let Some((before, after)) = line.split_once(" - ") else {
                continue;
            };
            let Some(mount) = before.split(' ').nth(4) else {
                continue;
            };
            let mut after = after.split(' ');
            let (kind, options) = (after.next(), after.nth(1));
            let v1 = match kind {
                Some("cgroup") => Some(selecting(options.unwrap_or_default())),
                Some("cgroup2") => None,
                _ => continue,
            };
            let mount = PathBuf::from(mount);
            // The same one may be mounted over and over.
            if !found.iter().any(|known| known.mount == mount) {
                found.push(Self { mount, v1 });
            }
        }
        ensure!(!found.is_empty(), "no cgroups are mounted");
        Ok(found)
    }
}

/// Of the options of a mounted v1 hierarchy those that say which one it is.
fn selecting(options: &str) -> String {
    let ours: Vec<_> = options
        .split(',')
        .filter(|option| !matches!(*option, "rw" | "ro" | "xattr" | "clone_children"))
        .filter(|option| !option.starts_with("release_agent="))
        .collect();
    if ours.iter().any(|option| option.starts_with("name=")) {
        format!("none,{}", ours.join(","))
    } else {
        ours.join(",")
    }
}

/// The directories that a world's cgroup namespace is rooted at. Dropping it removes them.
#[derive(Default)]
struct CgroupHome {
    roots: Vec<PathBuf>,
    /// Of those of version 2 the child that the processes are in.
    leaves: Vec<PathBuf>,
}

impl CgroupHome {
    fn make() -> Result<Self> {
        let name = format!("{CGROUP_PREFIX}{}", std::process::id());
        let mut home = Self::default();
        let hierarchies = Hierarchy::of_mounts()?;
        let v1 = hierarchies.iter().any(|hierarchy| hierarchy.v1.is_some());
        for hierarchy in hierarchies {
            let parent = hierarchy.mount;
            let dir = parent.join(&name);
            match fs::create_dir(&dir) {
                Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                    return Err(error).with_context(|| format!("making {}", dir.display()));
                }
                _ => home.roots.push(dir.clone()),
            }
            if hierarchy.v1.is_none() && !v1 {
                share_controllers(&parent)?;
                let leaf = dir.join(LEAF);
                make_dirs(&leaf)?;
                home.leaves.push(leaf);
            }
            // A v1 cpuset takes no process before it has CPUs and memory.
            for file in ["cpuset.cpus", "cpuset.mems"] {
                if let Ok(value) = fs::read_to_string(parent.join(file)) {
                    // On cgroup v2 an empty value means the parent's.
                    if hierarchy.v1.is_some() {
                        write(dir.join(file), value)?;
                    }
                }
            }
        }
        Ok(home)
    }
}

fn procs_files(dirs: &[PathBuf]) -> OsString {
    let files: Vec<_> = dirs
        .iter()
        .map(|dir| dir.join("cgroup.procs").into_os_string())
        .collect();
    files.join(OsStr::new(" "))
}

/// Lets the children of a cgroup of version 2 have all controllers that it has itself.
fn share_controllers(dir: &Path) -> Result<()> {
    let path = dir.join("cgroup.controllers");
    let controllers =
        fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    for controller in controllers.split_whitespace() {
        write(dir.join("cgroup.subtree_control"), format!("+{controller}"))?;
    }
    Ok(())
}

impl Drop for CgroupHome {
    fn drop(&mut self) {
        // The kernel takes a moment to let go of the processes that were in there.
        for _ in 0..200 {
            self.roots.retain(|dir| !remove_cgroup(dir));
            if self.roots.is_empty() {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        eprintln!("cgroups left over: {:?}", self.roots);
    }
}

/// Removes a cgroup with all below it; whether it is gone.
fn remove_cgroup(dir: &Path) -> bool {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_cgroup(&entry.path());
        }
    }
    fs::remove_dir(dir).is_ok() || !dir.exists()
}

/// Removes what worlds left whose waiter was killed. A waiter in another PID namespace looks dead from here: what is
/// young is left alone.
fn sweep() {
    for hierarchy in Hierarchy::of_mounts().unwrap_or_default() {
        for entry in fs::read_dir(hierarchy.mount)
            .into_iter()
            .flatten()
            .flatten()
        {
            let name = entry.file_name();
            let owner = name
                .to_str()
                .and_then(|name| name.strip_prefix(CGROUP_PREFIX));
            let old = entry
                .metadata()
                .and_then(|metadata| metadata.modified())
                .is_ok_and(|made| made.elapsed().is_ok_and(|age| age > LEFT_OVER));
            if old && owner.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
                remove_cgroup(&entry.path());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_v1_hierarchy_is_selected_by_its_controllers_or_its_name() {
        assert_eq!(selecting("rw,cpu,cpuacct"), "cpu,cpuacct");
        assert_eq!(selecting("rw,memory"), "memory");
        assert_eq!(
            selecting("rw,xattr,release_agent=/x,name=systemd"),
            "none,name=systemd"
        );
    }
}
