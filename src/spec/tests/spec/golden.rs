//! Whole specs as JSON, to be read: `plain` in full, the others as far as they differ.

use insta::assert_json_snapshot;
use oci_spec::runtime::Spec;
use serde_json::Value;
use spec::model::{
    IdMapping, Mount, NamespaceMode, Namespaces, Propagation, Resources, RunAs, SecurityProfile,
    UserNamespace,
};
use spec::{CgroupVersion, DeviceKind, HostDevice, RuntimeFeatures, SpecError};

use crate::request::Request;

/// The spec with sets in order.
fn json(spec: &Spec) -> Value {
    let mut json = serde_json::to_value(spec).unwrap();
    if let Some(sets) = json["process"]["capabilities"].as_object_mut() {
        for set in sets.values_mut() {
            let names = set.as_array_mut().unwrap();
            names.sort_by_key(ToString::to_string);
        }
    }
    json
}

fn made(request: &Request) -> Value {
    let made = request.container().unwrap();
    assert_eq!(made.warnings, Vec::<String>::new());
    json(&made.spec)
}

/// Mounts by destination, so that a difference names those that differ. Their order is `plain`'s and `volumes`' to show.
fn by_destination(json: &Value) -> Value {
    let mut json = json.clone();
    let mounts = json["mounts"].as_array().unwrap().clone();
    let order: Vec<Value> = mounts
        .iter()
        .map(|mount| mount["destination"].clone())
        .collect();
    json["mounts"] = mounts
        .into_iter()
        .map(|mount| (mount["destination"].as_str().unwrap().to_owned(), mount))
        .collect();
    json["order of mounts"] = order.into();
    json
}

/// What is in `changed` and not in `plain`, by path; what is gone is null.
fn difference(plain: &Value, changed: &Value) -> Value {
    fn walk(path: &str, plain: &Value, changed: &Value, out: &mut serde_json::Map<String, Value>) {
        if plain == changed {
            return;
        }
        match (plain.as_object(), changed.as_object()) {
            (Some(before), Some(after)) => {
                let names: std::collections::BTreeSet<_> =
                    before.keys().chain(after.keys()).collect();
                for name in names {
                    walk(&format!("{path}/{name}"), &plain[name], &changed[name], out);
                }
            }
            _ => {
                out.insert(path.to_owned(), changed.clone());
            }
        }
    }
    let mut out = serde_json::Map::new();
    walk(
        "",
        &by_destination(plain),
        &by_destination(changed),
        &mut out,
    );
    Value::Object(out)
}

fn against_plain(request: &Request) -> Value {
    difference(&made(&Request::busybox()), &made(request))
}

#[test]
fn plain() {
    assert_json_snapshot!(made(&Request::busybox()));
}

#[test]
fn pause_container() {
    let mut request = Request::busybox();
    request.pod.sysctls = [("net/core/somaxconn".to_owned(), "1024".to_owned())].into();
    assert_json_snapshot!(json(&request.pause(false).unwrap()));
}

#[test]
fn sandbox_container_of_a_vm() {
    let request = Request::busybox();
    let bare = json(&request.pause(false).unwrap());
    let full = json(&request.pause(true).unwrap());
    assert_json_snapshot!(difference(&bare, &full));
}

#[test]
fn privileged() {
    let mut request = Request::busybox();
    request.make_privileged();
    request.container.security.seccomp = SecurityProfile::RuntimeDefault;
    let device = |container_path: &str, kind, major, minor| HostDevice {
        container_path: container_path.to_owned(),
        kind,
        major,
        minor,
        mode: 0o660,
        uid: 0,
        gid: 6,
        access: "rwm".to_owned(),
    };
    request.host_devices = vec![
        device("/dev/null", DeviceKind::Character, 1, 3),
        device("/dev/sda", DeviceKind::Block, 8, 0),
    ];
    assert_json_snapshot!(against_plain(&request));
}

#[test]
fn privileged_on_a_poor_node() {
    let mut request = Request::busybox();
    request.make_privileged();
    request
        .facts
        .capabilities
        .remove(&spec::Capability::SysResource);
    request.facts.oom_score_adj_min = 0;
    request.container.resources.as_mut().unwrap().oom_score_adj = -998;
    let made = request.container().unwrap();
    assert_json_snapshot!(made.warnings);
    assert_eq!(json(&made.spec)["process"]["oomScoreAdj"], 0);
}

#[test]
fn node_network_and_ipc() {
    let mut request = Request::busybox();
    request.pod.hostname = String::new();
    request.set_namespaces(&Namespaces {
        network: NamespaceMode::Node,
        ipc: NamespaceMode::Node,
        pid: NamespaceMode::Node,
        user: None,
    });
    request.namespaces = spec::NamespacePaths::default();
    request.files.shm = None;
    assert_json_snapshot!(against_plain(&request));
    // No name for a UTS namespace that is the node's.
    assert_eq!(request.pause(false).unwrap().hostname(), &None);
}

#[test]
fn pid_namespace_of_the_pod() {
    let mut request = Request::busybox();
    request.set_namespaces(&Namespaces::default());
    assert!(matches!(
        request.container(),
        Err(SpecError::Namespace { .. })
    ));
    request.namespaces.pid = Some("/run/pintle/ns/p/pid".into());
    assert_json_snapshot!(against_plain(&request));
}

#[test]
fn user_namespace_of_the_pod() {
    let mut request = Request::busybox();
    let range = vec![IdMapping {
        host_id: 1_000_000,
        container_id: 0,
        length: 65_536,
    }];
    request.set_namespaces(&Namespaces {
        network: NamespaceMode::Node,
        pid: NamespaceMode::Container,
        ipc: NamespaceMode::Pod,
        user: Some(UserNamespace {
            uids: range.clone(),
            gids: range.clone(),
        }),
    });
    request.namespaces.network = None;
    request.features = RuntimeFeatures {
        idmapped_mounts: true,
        ..RuntimeFeatures::default()
    };
    request.mounts[0].uid_mappings.clone_from(&range);
    request.mounts[0].gid_mappings = range;
    assert_json_snapshot!(against_plain(&request));
}

fn limits() -> Resources {
    Resources {
        cpu_period_us: 100_000,
        cpu_quota_us: 50_000,
        cpu_shares: 512,
        memory_limit_bytes: 64 << 20,
        oom_score_adj: 900,
        cpuset_cpus: "0-1".to_owned(),
        cpuset_mems: "0".to_owned(),
        hugepage_limits: vec![("2MB".to_owned(), 0)],
        ..Resources::default()
    }
}

#[test]
fn resources_v1() {
    let mut request = Request::busybox();
    request.facts.cgroup_version = CgroupVersion::V1;
    request.container.resources = Some(limits());
    assert_json_snapshot!(against_plain(&request));
}

#[test]
fn resources_v2() {
    let mut request = Request::busybox();
    request.container.resources = Some(Resources {
        memory_swap_limit_bytes: 96 << 20,
        unified: [("memory.high".to_owned(), "60000000".to_owned())].into(),
        ..limits()
    });
    assert_json_snapshot!(against_plain(&request));
}

#[test]
fn terminal() {
    let mut request = Request::busybox();
    request.container.tty = true;
    request.container.stdin = true;
    assert_json_snapshot!(against_plain(&request));
}

#[test]
fn users() {
    let mut request = Request::busybox();
    request.passwd = Some(b"root:x:0:0::/:/bin/sh\napp:x:1000:2000::/app:/bin/sh\n".to_vec());
    request.group = Some(b"root:x:0:\napp:x:2000:\nextra:x:3000:app\n".to_vec());
    request.image.user = "root".to_owned();
    request.container.security.run_as = RunAs {
        username: "app".to_owned(),
        supplemental_groups: vec![4000],
        ..RunAs::default()
    };
    assert_json_snapshot!(against_plain(&request));
    assert_eq!(request.container().unwrap().user.groups, [2000, 3000, 4000]);
}

#[test]
fn hardened() {
    let mut request = Request::busybox();
    let security = &mut request.container.security;
    security.readonly_rootfs = true;
    security.no_new_privs = true;
    security.capabilities.drop = vec!["ALL".to_owned()];
    security.capabilities.add = vec!["NET_BIND_SERVICE".to_owned()];
    security.masked_paths.clear();
    assert_json_snapshot!(against_plain(&request));
}

#[test]
fn volumes() {
    let mut request = Request::busybox();
    request.features.recursive_readonly_mounts = true;
    let volume = |container_path: &str| Mount {
        container_path: container_path.to_owned(),
        host_path: format!("/srv{container_path}"),
        ..Mount::default()
    };
    request.mounts.extend([
        Mount {
            readonly: true,
            recursive_readonly: true,
            ..volume("/data/deep/er")
        },
        Mount {
            propagation: Propagation::Bidirectional,
            ..volume("/data")
        },
        Mount {
            options: vec!["noexec".to_owned()],
            ..volume("/dev/shm")
        },
    ]);
    assert_json_snapshot!(against_plain(&request));
}

#[test]
fn default_seccomp_for_default_capabilities() {
    let mut request = Request::busybox();
    request.container.security.seccomp = SecurityProfile::RuntimeDefault;
    assert_json_snapshot!(made(&request)["linux"]["seccomp"]);
}

#[test]
fn default_seccomp_for_sys_admin() {
    let mut request = Request::busybox();
    request.container.security.seccomp = SecurityProfile::RuntimeDefault;
    let ordinary = made(&request)["linux"]["seccomp"].clone();
    request.container.security.capabilities.add = vec!["SYS_ADMIN".to_owned()];
    let strong = made(&request)["linux"]["seccomp"].clone();
    let allowed = |seccomp: &Value| -> Vec<String> {
        serde_json::from_value(seccomp["syscalls"][0]["names"].clone()).unwrap()
    };
    let (before, mut more) = (allowed(&ordinary), allowed(&strong));
    more.retain(|name| !before.contains(name));
    assert_json_snapshot!(more);
    assert_json_snapshot!(strong["syscalls"].as_array().unwrap()[1..]);
}

#[test]
fn privileged_needs_a_privileged_pod() {
    let mut request = Request::busybox();
    request.container.security.privileged = true;
    assert!(matches!(
        request.container(),
        Err(SpecError::PrivilegedInOrdinaryPod)
    ));
}

#[test]
fn a_localhost_profile_that_was_not_read_is_named() {
    let mut request = Request::busybox();
    request.container.security.seccomp =
        SecurityProfile::Localhost("/var/lib/kubelet/seccomp/x.json".to_owned());
    let error = request.container().unwrap_err();
    assert_eq!(
        error.to_string(),
        "config.linux.security_context.seccomp: seccomp profile /var/lib/kubelet/seccomp/x.json: \
         the file does not exist or was not read"
    );
}

/// Everything that CDI can change, as far as it differs from a plain container.
#[test]
fn cdi_devices() {
    let file = r#"
cdiVersion: "1.0.0"
kind: vendor.com/gpu
devices:
  - name: "0"
    containerEdits:
      env: [GPU=0, PATH=/gpu]
      deviceNodes:
        - {path: /dev/gpu0, type: c, major: 240, minor: 0, fileMode: 0660, permissions: rw}
        - {path: /dev/gpu-disk, type: b, major: 8, minor: 3, uid: 0, gid: 6}
        - {path: /run/gpu-fifo, type: p}
      mounts:
        - {hostPath: /usr/lib/gpu.so, containerPath: /usr/lib/gpu.so, options: [ro, nosuid]}
        - {hostPath: tmpfs, containerPath: /etc/hosts, type: tmpfs, options: [size=1m]}
      hooks:
        - {hookName: createContainer, path: /usr/bin/gpu-hook, args: [gpu-hook, ldcache], env: [A=b], timeout: 5}
        - {hookName: prestart, path: /usr/bin/gpu-old}
      additionalGids: [44, 0, 44]
      intelRdt: {closID: gpu, l3CacheSchema: "L3:0=f", enableCMT: true}
containerEdits:
  env: [GPUS=1]
"#;
    let file = spec::cdi::file::parse("/etc/cdi/gpu.yaml".as_ref(), file.as_bytes());
    let name = spec::cdi::DeviceName::parse("vendor.com/gpu=0").unwrap();
    let mut request = Request::busybox();
    request.container.security.run_as.user = Some(1000);
    request.container.security.run_as.group = Some(1001);
    let plain = made(&request);
    request.cdi = spec::cdi::Registry::new([(0, file)])
        .resolve(&[name])
        .unwrap();
    let changed = request.container().unwrap();
    assert_eq!(changed.user.groups, [1001, 44]);
    assert_json_snapshot!(difference(&plain, &json(&changed.spec)));
}

/// A request on a node with SELinux, with the labels that its own wishes lead to.
fn labelled(mut request: Request) -> Request {
    request.facts.selinux = true;
    let policy = spec::selinux::PolicyLabels::default();
    let security = &request.pod.security;
    let guest = spec::selinux::Guest::Processes;
    let pods = spec::selinux::pod(security, &policy, "s0:c12,c900", guest);
    request.selinux = Some(spec::selinux::container(
        &request.container.security,
        security,
        &pods,
    ));
    request
}

#[test]
fn selinux_labels() {
    let plain = json(&Request::busybox().pause(false).unwrap());
    let pause = json(&labelled(Request::busybox()).pause(false).unwrap());
    let mut privileged = Request::busybox();
    privileged.make_privileged();
    assert_json_snapshot!(serde_json::json!({
        "container": against_plain(&labelled(Request::busybox())),
        "pause": difference(&plain, &pause),
        "privileged": difference(&made(&privileged), &made(&labelled(privileged))),
    }));
}

#[test]
fn labels_mean_nothing_where_selinux_is_not_active() {
    let mut request = labelled(Request::busybox());
    request.facts.selinux = false;
    assert_eq!(against_plain(&request), serde_json::json!({}));
}
