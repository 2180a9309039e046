//! Requests that are taken, and what each refused one is told.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use api::cri;
use rstest::rstest;
use spec::model::{NamespaceMode, Propagation, SecurityProfile};

use super::*;

type P = cri::PodSandboxConfig;
type C = cri::ContainerConfig;

fn pod() -> cri::PodSandboxConfig {
    cri::PodSandboxConfig {
        metadata: Some(cri::PodSandboxMetadata {
            name: "web".to_owned(),
            uid: "1-2".to_owned(),
            namespace: "default".to_owned(),
            attempt: 3,
        }),
        hostname: "web".to_owned(),
        log_directory: "/var/log/pods/web".to_owned(),
        dns_config: Some(cri::DnsConfig {
            servers: vec!["10.0.0.10".to_owned()],
            searches: vec!["svc.local".to_owned()],
            options: vec!["ndots:5".to_owned()],
        }),
        port_mappings: vec![cri::PortMapping {
            protocol: cri::Protocol::Sctp.into(),
            container_port: 80,
            host_port: 8080,
            host_ip: "::1".to_owned(),
        }],
        labels: [("a".to_owned(), " ü\n".to_owned())].into(),
        annotations: [("b".to_owned(), "\0".to_owned())].into(),
        linux: Some(cri::LinuxPodSandboxConfig {
            cgroup_parent: "/kubepods/pod1".to_owned(),
            security_context: Some(cri::LinuxSandboxSecurityContext {
                namespace_options: Some(cri::NamespaceOption {
                    pid: cri::NamespaceMode::Container.into(),
                    ..cri::NamespaceOption::default()
                }),
                ..cri::LinuxSandboxSecurityContext::default()
            }),
            sysctls: [("net.core.somaxconn".to_owned(), "99".to_owned())].into(),
            ..cri::LinuxPodSandboxConfig::default()
        }),
        windows: None,
    }
}

fn linux(pod: &mut cri::PodSandboxConfig) -> &mut cri::LinuxPodSandboxConfig {
    pod.linux.as_mut().unwrap()
}

fn pod_context(pod: &mut cri::PodSandboxConfig) -> &mut cri::LinuxSandboxSecurityContext {
    linux(pod).security_context.as_mut().unwrap()
}

fn pod_options(pod: &mut cri::PodSandboxConfig) -> &mut cri::NamespaceOption {
    pod_context(pod).namespace_options.as_mut().unwrap()
}

fn range(container_id: u32) -> cri::IdMapping {
    cri::IdMapping {
        host_id: 65_536,
        container_id,
        length: 65_536,
    }
}

fn userns(mode: cri::NamespaceMode, uids: usize, first: u32) -> cri::UserNamespace {
    cri::UserNamespace {
        mode: mode.into(),
        uids: vec![range(first); uids],
        gids: vec![range(0)],
    }
}

#[test]
fn a_pod_is_converted() {
    let given = pod();
    let config = pod_config(Some(given.clone())).unwrap();
    assert_eq!(config.metadata.attempt, 3);
    assert_eq!(config.port_mappings[0].host_port, 8080);
    assert_eq!(
        config.port_mappings[0].protocol,
        spec::model::Protocol::Sctp
    );
    assert_eq!(config.security.namespaces.pid, NamespaceMode::Container);
    assert_eq!(config.security.seccomp, SecurityProfile::Unconfined);
    assert_eq!(config.security.apparmor, None);
    // Byte for byte, whatever is in them.
    assert_eq!(config.labels, given.labels);
    assert_eq!(config.annotations, given.annotations);
    // Kubelet says explicitly that the node's user namespace is wanted.
    let mut given = given;
    pod_options(&mut given).userns_options = Some(cri::UserNamespace {
        mode: cri::NamespaceMode::Node.into(),
        ..cri::UserNamespace::default()
    });
    assert_eq!(pod_config(Some(given)).unwrap(), config);
}

#[test]
fn a_pod_of_metadata_alone_is_enough() {
    let config = pod_config(Some(cri::PodSandboxConfig {
        metadata: pod().metadata,
        ..cri::PodSandboxConfig::default()
    }));
    assert_eq!(config.unwrap().dns, None);
}

#[rstest]
#[case::metadata("config.metadata: must be given", |p: &mut P| p.metadata = None)]
#[case::name("config.metadata.name: must not be empty", |p: &mut P| p.metadata.as_mut().unwrap().name.clear())]
#[case::uid("config.metadata.uid: must not be empty", |p: &mut P| p.metadata.as_mut().unwrap().uid.clear())]
#[case::namespace("config.metadata.namespace: must not be empty", |p: &mut P| p.metadata.as_mut().unwrap().namespace.clear())]
#[case::slash("config.metadata.name: \"a/b\"", |p: &mut P| p.metadata.as_mut().unwrap().name = "a/b".to_owned())]
#[case::long_name("config.metadata.name: 600 bytes", |p: &mut P| p.metadata.as_mut().unwrap().name = "a".repeat(600))]
#[case::hostname("config.hostname: ", |p: &mut P| p.hostname = "a".repeat(65))]
#[case::hostname_of_two_lines("config.hostname: ", |p: &mut P| p.hostname = "a\nb".to_owned())]
#[case::relative_log_directory("config.log_directory: \"logs\" is not an absolute path", |p: &mut P| p.log_directory = "logs".to_owned())]
#[case::climbing_log_directory("config.log_directory: ", |p: &mut P| p.log_directory = "/a/../b".to_owned())]
#[case::dns_server("config.dns_config.servers[0]: ", |p: &mut P| p.dns_config.as_mut().unwrap().servers[0] = "1.1.1.1\nnameserver 6.6.6.6".to_owned())]
#[case::dns_search("config.dns_config.searches[0]: must not be empty", |p: &mut P| p.dns_config.as_mut().unwrap().searches[0].clear())]
#[case::protocol("config.port_mappings[0].protocol: 3 is not a value of this enum", |p: &mut P| p.port_mappings[0].protocol = 3)]
#[case::container_port("config.port_mappings[0].container_port: 0 is not in 1..=65535", |p: &mut P| p.port_mappings[0].container_port = 0)]
#[case::host_port("config.port_mappings[0].host_port: 65536 is not in 0..=65535", |p: &mut P| p.port_mappings[0].host_port = 65_536)]
#[case::negative_port("config.port_mappings[0].host_port: -1", |p: &mut P| p.port_mappings[0].host_port = -1)]
#[case::host_ip("config.port_mappings[0].host_ip: \"nowhere\" is not an IP address", |p: &mut P| p.port_mappings[0].host_ip = "nowhere".to_owned())]
#[case::cgroup_parent("config.linux.cgroup_parent: ", |p: &mut P| linux(p).cgroup_parent = "/a/../../b".to_owned())]
#[case::sysctl("config.linux.sysctls: must not be empty", |p: &mut P| { linux(p).sysctls.insert(String::new(), String::new()); })]
#[case::network("config.linux.security_context.namespace_options.network: must be POD or NODE", |p: &mut P| pod_options(p).network = 1)]
#[case::ipc("config.linux.security_context.namespace_options.ipc: 9 is not", |p: &mut P| pod_options(p).ipc = 9)]
#[case::pid("config.linux.security_context.namespace_options.pid: TARGET is for", |p: &mut P| pod_options(p).pid = 3)]
#[case::two_ranges("config.linux.security_context.namespace_options.userns_options.uids: exactly one", |p: &mut P| pod_options(p).userns_options = Some(userns(cri::NamespaceMode::Pod, 2, 0)))]
#[case::no_range("config.linux.security_context.namespace_options.userns_options.uids: exactly one", |p: &mut P| pod_options(p).userns_options = Some(userns(cri::NamespaceMode::Pod, 0, 0)))]
#[case::no_root("config.linux.security_context.namespace_options.userns_options.uids: the mapping must begin", |p: &mut P| pod_options(p).userns_options = Some(userns(cri::NamespaceMode::Pod, 1, 1)))]
#[case::own_userns("config.linux.security_context.namespace_options.userns_options.mode: must be POD or NODE", |p: &mut P| pod_options(p).userns_options = Some(userns(cri::NamespaceMode::Container, 1, 0)))]
#[case::mapped_node("config.linux.security_context.namespace_options.userns_options: the node's", |p: &mut P| pod_options(p).userns_options = Some(userns(cri::NamespaceMode::Node, 1, 0)))]
#[case::group_alone("config.linux.security_context.run_as_group: is only valid together", |p: &mut P| pod_context(p).run_as_group = Some(cri::Int64Value { value: 5 }))]
#[case::user("config.linux.security_context.run_as_user: -1 is not in", |p: &mut P| pod_context(p).run_as_user = Some(cri::Int64Value { value: -1 }))]
#[case::groups("config.linux.security_context.supplemental_groups[1]: 4294967295", |p: &mut P| pod_context(p).supplemental_groups = vec![1, 4_294_967_295])]
#[case::policy("config.linux.security_context.supplemental_groups_policy: 2", |p: &mut P| pod_context(p).supplemental_groups_policy = 2)]
#[case::seccomp("config.linux.security_context.seccomp.profile_type: 7", |p: &mut P| pod_context(p).seccomp = Some(cri::SecurityProfile { profile_type: 7, localhost_ref: String::new() }))]
#[case::overhead("config.linux.overhead.cpu_shares: -1 is negative", |p: &mut P| linux(p).overhead = Some(cri::LinuxContainerResources { cpu_shares: -1, ..Default::default() }))]
#[case::oom_score("config.linux.resources.oom_score_adj: 1001 is not in", |p: &mut P| linux(p).resources = Some(cri::LinuxContainerResources { oom_score_adj: 1001, ..Default::default() }))]
fn a_pod_is_refused_by_the_name_of_the_field(#[case] wanted: &str, #[case] spoil: fn(&mut P)) {
    let mut given = pod();
    spoil(&mut given);
    let refusal = pod_config(Some(given)).unwrap_err();
    assert_eq!(refusal.code, Code::InvalidArgument);
    assert!(refusal.message.starts_with(wanted), "{}", refusal.message);
}

#[test]
fn a_user_namespace_is_converted() {
    let mut given = pod();
    pod_options(&mut given).userns_options = Some(userns(cri::NamespaceMode::Pod, 1, 0));
    let user = pod_config(Some(given)).unwrap().security.namespaces.user;
    let user = user.unwrap();
    assert_eq!((user.uids.len(), user.gids.len()), (1, 1));
    assert_eq!(user.uids[0].container_id, 0);
}

#[test]
fn devices_by_name_are_kept() {
    let named = |name: &str| {
        let mut given = container();
        given.cdi_devices.push(cri::CdiDevice {
            name: name.to_owned(),
        });
        container_config(Some(given))
    };
    let kept = named("vendor.example/gpu=0").unwrap();
    assert_eq!(kept.cdi_devices, ["vendor.example/gpu=0"]);
    let refusal = named("").unwrap_err();
    assert_eq!(refusal.code, Code::InvalidArgument);
    assert!(refusal.message.starts_with("config.CDI_devices[0].name: "));
}

fn container() -> cri::ContainerConfig {
    cri::ContainerConfig {
        metadata: Some(cri::ContainerMetadata {
            name: "app".to_owned(),
            attempt: 1,
        }),
        image: Some(cri::ImageSpec {
            image: "sha256:abc".to_owned(),
            user_specified_image: "busybox:latest".to_owned(),
            ..cri::ImageSpec::default()
        }),
        command: vec!["sh".to_owned()],
        envs: vec![cri::KeyValue {
            key: "BYTES".to_owned(),
            value: vec![0xff, 0xfe],
        }],
        mounts: vec![cri::Mount {
            container_path: "/data".to_owned(),
            host_path: "/srv".to_owned(),
            readonly: true,
            recursive_read_only: true,
            mount_options: vec!["nosuid".to_owned()],
            uid_mappings: vec![range(0)],
            ..cri::Mount::default()
        }],
        devices: vec![cri::Device {
            container_path: "/dev/x".to_owned(),
            host_path: "/dev/null".to_owned(),
            permissions: "mrw".to_owned(),
        }],
        log_path: "app/0.log".to_owned(),
        linux: Some(cri::LinuxContainerConfig {
            resources: Some(cri::LinuxContainerResources {
                cpu_quota: -1,
                memory_limit_in_bytes: -1,
                hugepage_limits: vec![cri::HugepageLimit {
                    page_size: "2MB".to_owned(),
                    limit: 1 << 21,
                }],
                ..cri::LinuxContainerResources::default()
            }),
            security_context: Some(cri::LinuxContainerSecurityContext {
                run_as_username: "www".to_owned(),
                run_as_group: Some(cri::Int64Value { value: 5 }),
                namespace_options: Some(cri::NamespaceOption {
                    pid: cri::NamespaceMode::Target.into(),
                    target_id: "abc".to_owned(),
                    ..cri::NamespaceOption::default()
                }),
                ..cri::LinuxContainerSecurityContext::default()
            }),
        }),
        stop_signal: 38,
        ..cri::ContainerConfig::default()
    }
}

fn context(container: &mut cri::ContainerConfig) -> &mut cri::LinuxContainerSecurityContext {
    container
        .linux
        .as_mut()
        .unwrap()
        .security_context
        .as_mut()
        .unwrap()
}

#[test]
fn a_container_is_converted() {
    let config = container_config(Some(container())).unwrap();
    assert_eq!(config.envs, [("BYTES".to_owned(), vec![0xff, 0xfe])]);
    assert_eq!(config.mounts[0].propagation, Propagation::Private);
    assert!(config.mounts[0].recursive_readonly);
    assert_eq!(config.mounts[0].uid_mappings.len(), 1);
    assert_eq!(
        config.security.namespaces.pid,
        NamespaceMode::Target("abc".to_owned())
    );
    assert_eq!(config.security.run_as.group, Some(5));
    assert_eq!(config.resources.unwrap().cpu_quota_us, -1);
    assert_eq!(config.stop_signal, 38);
}

#[test]
fn a_large_environment_is_taken() {
    let mut given = container();
    given.envs = (0..56_000)
        .map(|index| cri::KeyValue {
            key: format!("SERVICE_{index}_PORT_80_TCP_ADDR"),
            value: vec![b'x'; 48],
        })
        .collect();
    assert!(prost::Message::encoded_len(&given) > 4 << 20);
    assert_eq!(container_config(Some(given)).unwrap().envs.len(), 56_000);
}

fn image_volume(spoil: fn(&mut cri::Mount)) -> Vec<cri::Mount> {
    let mut mount = cri::Mount {
        container_path: "/data".to_owned(),
        readonly: true,
        image: Some(cri::ImageSpec {
            image: "data:1".to_owned(),
            ..cri::ImageSpec::default()
        }),
        image_sub_path: "a/b".to_owned(),
        ..cri::Mount::default()
    };
    spoil(&mut mount);
    vec![mount]
}

#[test]
fn an_image_volume_is_converted() {
    let mut given = container();
    given.mounts = image_volume(|_| ());
    let config = container_config(Some(given)).unwrap();
    assert_eq!(config.mounts[0].image.as_ref().unwrap().image, "data:1");
    assert_eq!(config.mounts[0].image_sub_path, "a/b");
}

#[rstest]
#[case::metadata("config.metadata: must be given", |c: &mut C| c.metadata = None)]
#[case::name("config.metadata.name: must not be empty", |c: &mut C| c.metadata.as_mut().unwrap().name.clear())]
#[case::image("config.image: must be given", |c: &mut C| c.image = None)]
#[case::image_name("config.image.image: must not be empty", |c: &mut C| c.image = Some(cri::ImageSpec::default()))]
#[case::command("config.command[0]: must not contain a NUL byte", |c: &mut C| c.command[0] = "a\0b".to_owned())]
#[case::working_dir("config.working_dir: \"tmp\" is not an absolute path", |c: &mut C| c.working_dir = "tmp".to_owned())]
#[case::env_key("config.envs[0].key: must not be empty", |c: &mut C| c.envs[0].key.clear())]
#[case::env_equals("config.envs[0].key: \"A=B\" must not contain", |c: &mut C| c.envs[0].key = "A=B".to_owned())]
#[case::env_value("config.envs[0].value: must not contain a NUL byte", |c: &mut C| c.envs[0].value = vec![0])]
#[case::mount_target("config.mounts[0].container_path: \"data\" is not an absolute path", |c: &mut C| c.mounts[0].container_path = "data".to_owned())]
#[case::mount_source("config.mounts[0].host_path: must not be empty", |c: &mut C| c.mounts[0].host_path.clear())]
#[case::relative_source("config.mounts[0].host_path: \"srv\" is not", |c: &mut C| c.mounts[0].host_path = "srv".to_owned())]
#[case::propagation("config.mounts[0].propagation: 3 is not", |c: &mut C| c.mounts[0].propagation = 3)]
#[case::rro_writable("config.mounts[0].recursive_read_only: needs readonly", |c: &mut C| c.mounts[0].readonly = false)]
#[case::rro_shared("config.mounts[0].recursive_read_only: needs the propagation", |c: &mut C| c.mounts[0].propagation = 2)]
#[case::mount_option("config.mounts[0].mount_options[0]: \"exec\" is not one of noexec, nodev, nosuid", |c: &mut C| c.mounts[0].mount_options[0] = "exec".to_owned())]
#[case::mapping("config.mounts[0].uidMappings[0].length: must not be 0", |c: &mut C| c.mounts[0].uid_mappings[0].length = 0)]
#[case::mapping_range("config.mounts[0].uidMappings[0]: the range goes beyond", |c: &mut C| c.mounts[0].uid_mappings[0].host_id = u32::MAX)]
#[case::sub_path("config.mounts[0].image_sub_path: is only valid", |c: &mut C| c.mounts[0].image_sub_path = "a".to_owned())]
#[case::volume_image("config.mounts[0].image.image: must not be empty", |c: &mut C| c.mounts = image_volume(|m| m.image = Some(cri::ImageSpec::default())))]
#[case::volume_and_path("config.mounts[0].host_path: must be empty", |c: &mut C| c.mounts = image_volume(|m| m.host_path = "/a".to_owned()))]
#[case::volume_writable("config.mounts[0].readonly: an image volume", |c: &mut C| c.mounts = image_volume(|m| m.readonly = false))]
#[case::volume_climbing("config.mounts[0].image_sub_path: ", |c: &mut C| c.mounts = image_volume(|m| m.image_sub_path = "a/../..".to_owned()))]
#[case::device("config.devices[0].host_path: \"null\" is not", |c: &mut C| c.devices[0].host_path = "null".to_owned())]
#[case::permissions("config.devices[0].permissions: \"rwx\" is not made of", |c: &mut C| c.devices[0].permissions = "rwx".to_owned())]
#[case::log_path("config.log_path: \"/a.log\" must be relative", |c: &mut C| c.log_path = "/a.log".to_owned())]
#[case::climbing_log("config.log_path: ", |c: &mut C| c.log_path = "../../etc/cron.d/x".to_owned())]
#[case::signal("config.stop_signal: 66 is not", |c: &mut C| c.stop_signal = 66)]
#[case::target("config.linux.security_context.namespace_options.target_id: must not be empty", |c: &mut C| context(c).namespace_options.as_mut().unwrap().target_id.clear())]
#[case::group("config.linux.security_context.run_as_group: is only valid", |c: &mut C| context(c).run_as_username.clear())]
#[case::masked("config.linux.security_context.masked_paths[0]: \"proc\" is not", |c: &mut C| context(c).masked_paths = vec!["proc".to_owned()])]
#[case::seccomp_path("config.linux.security_context.seccomp.localhost_ref: \"a.json\" is not", |c: &mut C| context(c).seccomp = Some(cri::SecurityProfile { profile_type: 2, localhost_ref: "a.json".to_owned() }))]
#[case::apparmor("config.linux.security_context.apparmor.localhost_ref: must not be empty", |c: &mut C| context(c).apparmor = Some(cri::SecurityProfile { profile_type: 2, localhost_ref: String::new() }))]
#[case::selinux("config.linux.security_context.selinux_options.type: ", |c: &mut C| context(c).selinux_options = Some(cri::SeLinuxOption { r#type: "a:b".to_owned(), ..Default::default() }))]
#[case::selinux_level("config.linux.security_context.selinux_options.level: \"s0,c4,c5\" is no level", |c: &mut C| context(c).selinux_options = Some(cri::SeLinuxOption { level: "s0,c4,c5".to_owned(), ..Default::default() }))]
#[case::selinux_user("config.linux.security_context.selinux_options.user: \"a b\" is no name", |c: &mut C| context(c).selinux_options = Some(cri::SeLinuxOption { user: "a b".to_owned(), ..Default::default() }))]
#[case::hugepages("config.linux.resources.hugepage_limits[0].page_size: must not be empty", |c: &mut C| c.linux.as_mut().unwrap().resources.as_mut().unwrap().hugepage_limits[0].page_size.clear())]
fn a_container_is_refused_by_the_name_of_the_field(
    #[case] wanted: &str,
    #[case] spoil: fn(&mut C),
) {
    let mut given = container();
    spoil(&mut given);
    let refusal = container_config(Some(given)).unwrap_err();
    assert_eq!(refusal.code, Code::InvalidArgument);
    assert!(refusal.message.starts_with(wanted), "{}", refusal.message);
}

#[rstest]
#[case("", Ok(None))]
#[case("runtime/default", Ok(Some(SecurityProfile::RuntimeDefault)))]
#[case("unconfined", Ok(Some(SecurityProfile::Unconfined)))]
#[case("localhost/mine", Ok(Some(SecurityProfile::Localhost("mine".to_owned()))))]
#[case("localhost/", Err(()))]
#[case("mine", Err(()))]
fn old_profile_names_are_understood(
    #[case] name: &str,
    #[case] wanted: Result<Option<SecurityProfile>, ()>,
) {
    #[expect(deprecated, reason = "older clients send nothing else")]
    let given = cri::LinuxContainerSecurityContext {
        apparmor_profile: name.to_owned(),
        ..cri::LinuxContainerSecurityContext::default()
    };
    let found = security::container_security(At::root("c"), given);
    assert_eq!(
        found.map(|security| security.apparmor).map_err(drop),
        wanted
    );
}

#[test]
fn the_new_profile_wins_over_the_old() {
    #[expect(deprecated, reason = "both are sent by clients of the years between")]
    let given = cri::LinuxContainerSecurityContext {
        seccomp: Some(cri::SecurityProfile::default()),
        seccomp_profile_path: "unconfined".to_owned(),
        ..cri::LinuxContainerSecurityContext::default()
    };
    let found = security::container_security(At::root("c"), given).unwrap();
    assert_eq!(found.seccomp, SecurityProfile::RuntimeDefault);
}

#[test]
fn negative_seconds_and_empty_ids_are_refused() {
    assert_eq!(seconds("timeout", 7).unwrap().as_secs(), 7);
    assert!(
        seconds("timeout", -1)
            .unwrap_err()
            .message
            .starts_with("timeout: -1")
    );
    let refusal = required_id("container_id", "").unwrap_err();
    assert_eq!(refusal.message, "container_id: must not be empty");
}
