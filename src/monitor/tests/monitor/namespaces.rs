//! Pinned namespaces.

use std::{fs, os::unix::fs::MetadataExt as _};

use runtime::{NamespaceRequest, Refusal, RuntimeError};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::{
    pod::{Pod, Wanted},
    with_each_runtime,
};

with_each_runtime!(
    made_and_pinned,
    made_in_a_user_namespace,
    undone_on_failure,
    used_by_a_container
);

fn request(pod: &Pod) -> NamespaceRequest {
    NamespaceRequest {
        network: Some(pod.path("netns/pod")),
        ipc: Some(pod.path("ns/ipc")),
        uts: Some(pod.path("ns/uts")),
        hostname: Some("pod-host".to_owned()),
        sysctls: vec![
            (
                "net.ipv4.ip_unprivileged_port_start".to_owned(),
                "1".to_owned(),
            ),
            ("kernel.shm_rmid_forced".to_owned(), "1".to_owned()),
            ("kernel.sem".to_owned(), "100 2000 10 20".to_owned()),
            ("fs.mqueue.msg_max".to_owned(), "7".to_owned()),
        ],
        user: None,
    }
}

/// Looks at something from within a namespace, on a thread of its own.
fn within<T: Send + 'static>(
    pin: std::path::PathBuf,
    look: impl FnOnce() -> T + Send + 'static,
) -> T {
    std::thread::spawn(move || {
        let file = fs::File::open(pin).unwrap();
        move_into_link_name_space(std::os::fd::AsFd::as_fd(&file), None::<LinkNameSpaceType>)
            .unwrap();
        look()
    })
    .join()
    .unwrap()
}

fn read(file: &str) -> String {
    fs::read_to_string(file).unwrap().trim().to_owned()
}

/// A node's settings that the test would change if it failed.
fn node() -> Vec<String> {
    let files = [
        "/proc/sys/kernel/hostname",
        "/proc/sys/kernel/sem",
        "/proc/sys/net/ipv4/ip_unprivileged_port_start",
    ];
    files.map(read).to_vec()
}

/// The user namespace that another namespace belongs to, by device and inode.
fn owner(pin: std::path::PathBuf) -> (u64, u64) {
    let file = fs::File::open(pin).unwrap();
    // NS_GET_USERNS of ioctl_ns(2).
    // SAFETY: the descriptor is open, and the call reads no memory.
    let fd = unsafe { libc::ioctl(std::os::fd::AsRawFd::as_raw_fd(&file), 0xb701) };
    assert!(fd >= 0);
    // SAFETY: the call made the descriptor for us.
    let owner: fs::File = unsafe { std::os::fd::FromRawFd::from_raw_fd(fd) };
    let found = owner.metadata().unwrap();
    (found.dev(), found.ino())
}

async fn made_in_a_user_namespace(pod: &Pod) {
    let before = node();
    let user = runtime::UserNamespaceRequest {
        pin: pod.path("ns/user"),
        uids: vec![(0, 300_000, 65_536)],
        gids: vec![(0, 400_000, 65_536)],
    };
    let asked = NamespaceRequest {
        user: Some(user.clone()),
        ..request(pod)
    };
    pod.monitor.open_namespaces(&asked).await.unwrap();
    assert_eq!(node(), before);
    let pinned = fs::metadata(pod.path("ns/user")).unwrap();
    for pin in ["netns/pod", "ns/ipc", "ns/uts"] {
        let owner = owner(pod.path(pin));
        assert_eq!(owner, (pinned.dev(), pinned.ino()), "{pin}");
    }
    assert_eq!(
        within(pod.path("ns/uts"), || read("/proc/sys/kernel/hostname")),
        "pod-host"
    );
    let port = within(pod.path("netns/pod"), || {
        assert!(std::net::TcpListener::bind("127.0.0.1:1").is_ok());
        read("/proc/sys/net/ipv4/ip_unprivileged_port_start")
    });
    assert_eq!(port, "1");
    // No child is left, and the monitor still answers.
    assert!(pod.monitor.state().await.unwrap().is_empty());

    // Maps that the kernel does not take leave nothing.
    let impossible = NamespaceRequest {
        network: Some(pod.path("netns/other")),
        user: Some(runtime::UserNamespaceRequest {
            pin: pod.path("ns/other"),
            uids: vec![(0, u32::MAX, 2)],
            ..user
        }),
        ..NamespaceRequest::default()
    };
    let error = pod.monitor.open_namespaces(&impossible).await.unwrap_err();
    assert!(error.to_string().contains("uid_map"), "{error}");
    assert!(!pod.path("ns/other").exists() && !pod.path("netns/other").exists());
}

async fn made_and_pinned(pod: &Pod) {
    let before = node();
    pod.monitor.open_namespaces(&request(pod)).await.unwrap();
    assert_eq!(node(), before);
    let flags = within(pod.path("netns/pod"), || {
        read("/sys/class/net/lo/operstate")
    });
    // /sys shows the namespace in which it was mounted; the address is what counts.
    let _ = flags;
    let bound = within(pod.path("netns/pod"), || {
        std::net::TcpListener::bind("127.0.0.1:1").is_ok()
    });
    assert!(bound, "lo is up and ports are free");
    let connected = within(pod.path("netns/pod"), || {
        let listener = std::net::TcpListener::bind("[::1]:0").unwrap();
        std::net::TcpStream::connect(listener.local_addr().unwrap()).is_ok()
    });
    assert!(connected, "IPv6 too");
    let port = within(pod.path("netns/pod"), || {
        read("/proc/sys/net/ipv4/ip_unprivileged_port_start")
    });
    assert_eq!(port, "1");
    assert_eq!(
        within(pod.path("ns/uts"), || read("/proc/sys/kernel/hostname")),
        "pod-host"
    );
    assert_eq!(
        within(pod.path("ns/ipc"), || read("/proc/sys/kernel/sem")),
        "100\t2000\t10\t20"
    );
    assert_eq!(
        within(pod.path("ns/ipc"), || read("/proc/sys/fs/mqueue/msg_max")),
        "7"
    );

    let error = pod
        .monitor
        .open_namespaces(&request(pod))
        .await
        .unwrap_err();
    assert!(
        matches!(
            error,
            RuntimeError::Refused {
                kind: Refusal::Exists,
                ..
            }
        ),
        "{error}"
    );
    let own = |name: &str| fs::metadata(format!("/proc/self/ns/{name}")).unwrap().ino();
    assert_ne!(fs::metadata(pod.path("ns/ipc")).unwrap().ino(), own("ipc"));
}

async fn undone_on_failure(pod: &Pod) {
    let before = node();
    let mut bad = request(pod);
    bad.sysctls
        .push(("net.ipv4.no_such_thing".to_owned(), "1".to_owned()));
    let error = pod.monitor.open_namespaces(&bad).await.unwrap_err();
    assert!(error.to_string().contains("no_such_thing"), "{error}");
    assert!(!pod.path("netns/pod").exists() && !pod.path("ns/ipc").exists());

    // The second pin fails: the first is taken back.
    let mut bad = request(pod);
    fs::create_dir_all(pod.path("ns")).unwrap();
    fs::create_dir(pod.path("ns/uts")).unwrap();
    bad.sysctls.clear();
    pod.monitor.open_namespaces(&bad).await.unwrap_err();
    assert!(!pod.path("netns/pod").exists() && !pod.path("ns/ipc").exists());
    fs::remove_dir(pod.path("ns/uts")).unwrap();

    for (name, value) in [("kernel.panic", "0"), ("vm.swappiness", "1")] {
        let mut bad = request(pod);
        bad.sysctls = vec![(name.to_owned(), value.to_owned())];
        let error = pod.monitor.open_namespaces(&bad).await.unwrap_err();
        assert!(
            matches!(
                error,
                RuntimeError::Refused {
                    kind: Refusal::Invalid,
                    ..
                }
            ),
            "{error}"
        );
    }
    let shared = NamespaceRequest {
        network: None,
        ..request(pod)
    };
    let error = pod.monitor.open_namespaces(&shared).await.unwrap_err();
    assert!(error.to_string().contains("shares"), "{error}");
    assert_eq!(node(), before);
    // After all that it still works.
    pod.monitor.open_namespaces(&request(pod)).await.unwrap();
}

async fn used_by_a_container(pod: &Pod) {
    pod.monitor.open_namespaces(&request(pod)).await.unwrap();
    let wanted = Wanted {
        args: &["/bin/sh", "-c", "busybox hostname; busybox ip addr show lo"],
        ..Wanted::default()
    };
    let create = pod.request("c", &wanted);
    let config = create.bundle.join("config.json");
    let mut json: serde_json::Value = serde_json::from_slice(&fs::read(&config).unwrap()).unwrap();
    json["linux"]["namespaces"] = serde_json::json!([
        {"type": "mount"}, {"type": "pid"},
        {"type": "network", "path": pod.path("netns/pod")},
        {"type": "ipc", "path": pod.path("ns/ipc")},
        {"type": "uts", "path": pod.path("ns/uts")},
    ]);
    fs::write(&config, json.to_string()).unwrap();
    pod.monitor.create(&create).await.unwrap();
    pod.start("c").await;
    assert_eq!(pod.exit("c").await.code, 0);
    let text: String = pod
        .log("c", "stdout")
        .into_iter()
        .map(|(_, text)| text + "\n")
        .collect();
    assert!(
        text.starts_with("pod-host\n")
            && text.contains("LOOPBACK,UP")
            && text.contains("127.0.0.1/8"),
        "{text}"
    );
}
