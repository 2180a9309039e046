//! Generated specs, run by real runc and crun on a busybox root: what the process finds is what was asked for.
//!
//! Needs root and runc, crun and busybox; everything happens in namespaces, directories and cgroups of the test's own.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use rstest::rstest;
use spec::model::{Mount, Resources, RunAs, SecurityProfile};
use spec::rlimit::{Rlimit, RlimitKind};
use spec::{Capability, CgroupVersion, DeviceKind, HostDevice};
use tempfile::TempDir;

use crate::request::Request;

const APPLETS: &[&str] = &[
    "cat", "grep", "head", "hostname", "id", "ls", "mkdir", "mount", "sh", "stat", "touch", "true",
    "unshare",
];

/// A pod's namespaces, held by a sleeping process.
struct Holder(Child);

impl Holder {
    fn new(hostname: &str) -> Self {
        let script = format!("hostname {hostname} && echo ready && exec sleep 120");
        let mut child = Command::new("unshare")
            .args(["--net", "--ipc", "--uts", "sh", "-c", &script])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut ready = [0; 6];
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut ready).unwrap();
        Self(child)
    }

    fn namespace(&self, kind: &str) -> PathBuf {
        format!("/proc/{}/ns/{kind}", self.0.id()).into()
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A cgroup in every hierarchy, removed in the end.
struct Cgroup(String);

impl Cgroup {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Self(format!("/pintle-spec-test-{}-{number}", std::process::id()))
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let below = self.0.trim_start_matches('/');
        let mut hierarchies = vec![PathBuf::from("/sys/fs/cgroup")];
        hierarchies.extend(
            fs::read_dir("/sys/fs/cgroup")
                .unwrap()
                .map(|entry| entry.unwrap().path()),
        );
        for hierarchy in hierarchies {
            let _ = fs::remove_dir(hierarchy.join(below).join("c"));
            let _ = fs::remove_dir(hierarchy.join(below));
        }
    }
}

/// This machine, found out as the engine does it.
fn describe_this_machine(request: &mut Request) {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let mask = status
        .lines()
        .find_map(|line| line.strip_prefix("CapBnd:"))
        .unwrap();
    let mask = u64::from_str_radix(mask.trim(), 16).unwrap();
    let facts = &mut request.facts;
    facts.capabilities = Capability::set_from_bits(mask);
    facts.architecture = spec::Architecture::of_this_build();
    facts.hugetlb = Path::new("/sys/fs/cgroup/hugetlb").exists();
    facts.swap_accounting = Path::new("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes").exists();
    facts.cgroup_version = if Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        CgroupVersion::V2
    } else {
        CgroupVersion::V1
    };
    if !facts.capabilities.contains(&Capability::SysResource) {
        let own = fs::read_to_string("/proc/self/oom_score_adj").unwrap();
        facts.oom_score_adj_min = own.trim().parse().unwrap();
        let limits = fs::read_to_string("/proc/self/limits").unwrap();
        let open_files = limits
            .lines()
            .find_map(|line| line.strip_prefix("Max open files"))
            .unwrap();
        let hard = open_files.split_whitespace().nth(1).unwrap();
        facts
            .hard_rlimits
            .insert(RlimitKind::Nofile, hard.parse().unwrap_or(u64::MAX));
    }
}

/// A bundle with a busybox root.
struct Stage {
    dir: TempDir,
    cgroup: Cgroup,
    _holder: Holder,
}

impl Stage {
    fn new(request: &mut Request) -> Self {
        let dir = TempDir::new().unwrap();
        let rootfs = dir.path().join("rootfs");
        fs::create_dir_all(rootfs.join("bin")).unwrap();
        fs::create_dir_all(rootfs.join("etc")).unwrap();
        fs::copy("/bin/busybox", rootfs.join("bin/busybox")).unwrap();
        for applet in APPLETS {
            symlink("busybox", rootfs.join("bin").join(applet)).unwrap();
        }
        let file = |name: &str, content: &str| {
            let path = dir.path().join(name);
            fs::write(&path, content).unwrap();
            path
        };
        let cgroup = Cgroup::new();
        let holder = Holder::new("web");
        describe_this_machine(request);
        request.namespaces.network = Some(holder.namespace("net"));
        request.namespaces.ipc = Some(holder.namespace("ipc"));
        request.namespaces.uts = Some(holder.namespace("uts"));
        request.rootfs = rootfs;
        request.cgroups_path = format!("{}/c", cgroup.0);
        request.files.resolv_conf = file("resolv.conf", "nameserver 192.0.2.1\n");
        request.files.hostname = file("hostname", "web\n");
        request.files.hosts = None;
        request.files.shm = Some(dir.path().join("shm"));
        fs::create_dir(dir.path().join("shm")).unwrap();
        request.mounts = vec![Mount {
            container_path: "/etc/hosts".to_owned(),
            host_path: file("hosts", "192.0.2.2 web\n")
                .to_str()
                .unwrap()
                .to_owned(),
            ..Mount::default()
        }];
        Self {
            dir,
            cgroup,
            _holder: holder,
        }
    }

    /// Runs the spec to its end and gives what it printed.
    fn run(&self, runtime: &str, spec: &oci_spec::runtime::Spec) -> String {
        spec.save(self.dir.path().join("config.json")).unwrap();
        let state = self.dir.path().join("state");
        let id = self.cgroup.0.trim_start_matches('/');
        // crun refuses the hybrid cgroup layout: in a mount namespace of its own there is none.
        let script = "umount /sys/fs/cgroup/unified 2>/dev/null; exec \"$@\"";
        let output = Command::new("unshare")
            .args(["--mount", "sh", "-c", script, "sh", runtime, "--root"])
            .arg(&state)
            .args(["run", "--bundle"])
            .arg(self.dir.path())
            .arg(id)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{runtime}: {stdout}{stderr}");
        stdout
    }
}

fn is_root() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    line(&status, "Uid:").split_whitespace().nth(1) == Some("0")
}

/// Runs `script` in a container made of the request, after `change` has had its way with it.
fn run(runtime: &str, script: &str, change: impl FnOnce(&mut Request, &Path)) -> Option<String> {
    if !is_root() {
        eprintln!("not root: nothing was run");
        return None;
    }
    let mut request = Request::busybox();
    let stage = Stage::new(&mut request);
    request.container.command = ["sh", "-c", script].map(str::to_owned).to_vec();
    request.container.security.seccomp = SecurityProfile::RuntimeDefault;
    change(&mut request, stage.dir.path());
    let made = request.container().unwrap();
    Some(stage.run(runtime, &made.spec))
}

fn line<'a>(output: &'a str, start: &str) -> &'a str {
    output
        .lines()
        .find_map(|line| line.strip_prefix(start))
        .unwrap_or_else(|| panic!("no line {start:?} in:\n{output}"))
        .trim()
}

#[rstest]
fn an_ordinary_container(#[values("runc", "crun")] runtime: &str) {
    let script = "echo host $(hostname); cat /etc/hosts /etc/resolv.conf; echo user $(id); \
        echo env $HOSTNAME $PATH; echo oom $(cat /proc/self/oom_score_adj); grep Cap /proc/self/status; \
        grep NoNewPrivs /proc/self/status; grep Seccomp: /proc/self/status; \
        echo shm > /dev/shm/x; echo net $(ls /sys/class/net); \
        mount | grep ' /sys ' ; touch /root-is-writable && echo writable; \
        echo pid $$; echo masked $(cat /proc/kcore | head -c 1); touch /proc/sys/x || echo proc-sys-fixed; \
        unshare -m true || echo no-new-namespaces; ls /dev/null /dev/pts/ptmx";
    let Some(output) = run(runtime, script, |_, _| ()) else {
        return;
    };
    assert_eq!(line(&output, "host "), "web");
    assert!(output.contains("192.0.2.1") && output.contains("192.0.2.2"));
    assert_eq!(line(&output, "user "), "uid=0 gid=0 groups=0,10");
    assert_eq!(line(&output, "env "), "web /bin:/usr/bin");
    assert_eq!(line(&output, "oom "), "1000");
    assert_eq!(line(&output, "CapBnd:"), "00000000a80425fb");
    assert_eq!(line(&output, "CapEff:"), "00000000a80425fb");
    assert_eq!(line(&output, "CapAmb:"), "0000000000000000");
    assert_eq!(line(&output, "CapInh:"), "0000000000000000");
    assert_eq!(line(&output, "NoNewPrivs:"), "0");
    assert_eq!(line(&output, "Seccomp:"), "2");
    assert_eq!(line(&output, "net "), "lo");
    assert!(line(&output, "sysfs on /sys type sysfs ").contains("ro,"));
    assert_eq!(line(&output, "pid "), "1");
    assert_eq!(line(&output, "masked"), "");
    for word in [
        "writable",
        "proc-sys-fixed",
        "no-new-namespaces",
        "/dev/pts/ptmx",
    ] {
        assert!(output.contains(word), "{word} in {output}");
    }
}

#[rstest]
fn a_privileged_container(#[values("runc", "crun")] runtime: &str) {
    let script = "grep CapEff /proc/self/status; grep Seccomp: /proc/self/status; \
        mount | grep ' /sys ' ; unshare -m true && echo new-namespaces; stat -c 'fuse %t:%T' /dev/my-fuse; \
        echo oom $(cat /proc/self/oom_score_adj)";
    let Some(output) = run(runtime, script, |request, _| {
        request.make_privileged();
        request.container.resources.as_mut().unwrap().oom_score_adj = -998;
        request.host_devices = vec![HostDevice {
            container_path: "/dev/my-fuse".to_owned(),
            kind: DeviceKind::Character,
            major: 10,
            minor: 229,
            mode: 0o666,
            uid: 0,
            gid: 0,
            access: "rwm".to_owned(),
        }];
    }) else {
        return;
    };
    let status = fs::read_to_string("/proc/self/status").unwrap();
    assert_eq!(line(&output, "CapEff:"), line(&status, "CapBnd:"));
    assert_eq!(line(&output, "Seccomp:"), "0");
    assert!(line(&output, "sysfs on /sys type sysfs ").contains("rw,"));
    assert!(output.contains("new-namespaces"));
    assert_eq!(line(&output, "fuse "), "a:e5");
    let oom: i64 = line(&output, "oom ").parse().unwrap();
    assert!(oom == -998 || oom >= 0, "{oom}");
}

#[rstest]
fn a_hardened_container(#[values("runc", "crun")] runtime: &str) {
    let script = "echo user $(id); grep Cap /proc/self/status; grep NoNewPrivs /proc/self/status; \
        touch /x || echo readonly; echo files $(ulimit -n) $(ulimit -Hn); touch /etc/hostname || echo hostname-fixed";
    let Some(output) = run(runtime, script, |request, _| {
        let security = &mut request.container.security;
        security.readonly_rootfs = true;
        security.no_new_privs = true;
        security.capabilities.drop = vec!["ALL".to_owned()];
        security.capabilities.add_ambient = vec!["NET_BIND_SERVICE".to_owned()];
        security.run_as = RunAs {
            user: Some(1000),
            group: Some(2000),
            supplemental_groups: vec![3000],
            ..RunAs::default()
        };
        request.defaults.rlimits = vec![Rlimit {
            kind: RlimitKind::Nofile,
            soft: 512,
            hard: u64::MAX >> 1,
        }];
        request.facts.hard_rlimits.insert(RlimitKind::Nofile, 1024);
    }) else {
        return;
    };
    assert_eq!(line(&output, "user "), "uid=1000 gid=2000 groups=2000,3000");
    for set in ["CapBnd:", "CapEff:", "CapPrm:", "CapInh:", "CapAmb:"] {
        assert_eq!(line(&output, set), "0000000000000400", "{set}");
    }
    assert_eq!(line(&output, "NoNewPrivs:"), "1");
    assert_eq!(line(&output, "files "), "512 1024");
    assert!(output.contains("readonly") && output.contains("hostname-fixed"));
}

#[rstest]
fn limits_and_volumes(#[values("runc", "crun")] runtime: &str) {
    let script = "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null; \
        echo deep $(cat /data/deep/file); touch /data/x && echo wrote; touch /data/deep/x || echo deep-fixed; \
        for dir in /sys/fs/cgroup /sys/fs/cgroup/memory; do \
        [ ! -e $dir/cgroup.procs ] || mkdir $dir/x || echo cgroup-fixed; done";
    let Some(output) = run(runtime, script, |request, dir| {
        request.container.resources = Some(Resources {
            memory_limit_bytes: 64 << 20,
            cpu_quota_us: 50_000,
            cpu_period_us: 100_000,
            cpu_shares: 512,
            cpuset_cpus: "0".to_owned(),
            hugepage_limits: vec![("2MB".to_owned(), 0)],
            oom_score_adj: 500,
            ..Resources::default()
        });
        let volume = |container_path: &str, readonly| {
            let host_path = dir.join(container_path.replace('/', "_"));
            fs::create_dir_all(&host_path).unwrap();
            fs::write(host_path.join("file"), container_path).unwrap();
            Mount {
                container_path: container_path.to_owned(),
                host_path: host_path.to_str().unwrap().to_owned(),
                readonly,
                ..Mount::default()
            }
        };
        // The deeper one comes first in the request, and must still be mounted last.
        request
            .mounts
            .extend([volume("/data/deep", true), volume("/data", false)]);
    }) else {
        return;
    };
    assert!(output.contains("67108864"), "{output}");
    assert_eq!(line(&output, "deep "), "/data/deep");
    assert!(output.contains("wrote") && output.contains("deep-fixed"));
    assert!(output.contains("cgroup-fixed"), "{output}");
}

#[rstest]
fn a_pause_container(#[values("runc", "crun")] runtime: &str) {
    if !is_root() {
        return;
    }
    let mut request = Request::busybox();
    let stage = Stage::new(&mut request);
    request.pod.sysctls = [("net/core/somaxconn".to_owned(), "321".to_owned())].into();
    let mut spec = request.pause(true).unwrap();
    // In place of a process that would never end.
    let script = "grep Cap /proc/self/status; echo host $(hostname); echo conn $(cat /proc/sys/net/core/somaxconn); \
        cat /etc/resolv.conf; echo pid $$; touch /x || echo readonly";
    let args = ["/bin/sh", "-c", script].map(str::to_owned).to_vec();
    let mut process = spec.process().clone().unwrap();
    process.set_args(Some(args));
    process.set_env(Some(vec!["PATH=/bin".to_owned()]));
    spec.set_process(Some(process));
    let output = stage.run(runtime, &spec);
    for set in ["CapBnd:", "CapEff:", "CapPrm:"] {
        assert_eq!(line(&output, set), "0000000000000000", "{set}");
    }
    assert_eq!(line(&output, "host "), "web");
    assert_eq!(line(&output, "conn "), "321");
    assert_eq!(line(&output, "pid "), "1");
    assert!(output.contains("192.0.2.1") && output.contains("readonly"));
}
