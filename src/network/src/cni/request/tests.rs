#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::path::Path;

use rstest::rstest;
use serde_json::{Map, Value, json};

use super::{arguments, capabilities, input, is_idle, join, validate};
use crate::cni::conf::Conf;
use crate::cni::version::Version;
use crate::pod::{Attachment, Dns, HostPort, Protocol};

fn pod() -> Attachment {
    Attachment {
        pod_id: "ab12".to_owned(),
        name: "web-0".to_owned(),
        namespace: "default".to_owned(),
        uid: "u-1".to_owned(),
        ..Attachment::default()
    }
}

#[test]
fn a_plugin_gets_its_own_keys_and_only_the_capabilities_it_declares() {
    let json = json!({ "cniVersion": "1.0.0", "name": "pods", "plugins": [
        { "type": "bridge", "bridge": "cni0", "ipam": { "type": "host-local" } },
        { "type": "portmap", "snat": true, "capabilities": { "portMappings": true } },
    ] });
    let conf = Conf::parse(Path::new("x.conflist"), json.to_string().as_bytes()).unwrap();
    let mut pod = pod();
    pod.ingress_bps = Some(1_000_000);
    pod.port_mappings = vec![
        HostPort {
            protocol: Protocol::Tcp,
            container_port: 80,
            host_port: 8080,
            host_ip: String::new(),
        },
        HostPort {
            protocol: Protocol::Udp,
            container_port: 53,
            host_port: 0,
            host_ip: String::new(),
        },
    ];
    let values = capabilities(&pod, &[]);
    let parse = |bytes: Vec<u8>| serde_json::from_slice::<Value>(&bytes).unwrap();

    let first = parse(input(
        &conf,
        &conf.plugins[0],
        Version::V1_0_0,
        &values,
        None,
    ));
    assert_eq!(
        first,
        json!({ "type": "bridge", "bridge": "cni0", "ipam": { "type": "host-local" }, "name": "pods", "cniVersion": "1.0.0" })
    );
    let result: Map<String, Value> = Map::from_iter([("cniVersion".to_owned(), json!("1.0.0"))]);
    let second = parse(input(
        &conf,
        &conf.plugins[1],
        Version::V1_0_0,
        &values,
        Some(&result),
    ));
    assert_eq!(second["prevResult"], json!({ "cniVersion": "1.0.0" }));
    assert_eq!(
        second["runtimeConfig"],
        json!({ "portMappings": [{ "hostPort": 8080, "containerPort": 80, "protocol": "tcp" }] })
    );
}

#[test]
fn every_capability_has_the_form_of_the_conventions() {
    let mut pod = pod();
    pod.port_mappings = vec![HostPort {
        protocol: Protocol::Sctp,
        container_port: 1,
        host_port: 2,
        host_ip: "127.0.0.1".to_owned(),
    }];
    pod.ingress_bps = Some(5);
    pod.egress_bps = Some(6);
    pod.dns = Dns {
        servers: vec!["10.96.0.10".to_owned()],
        searches: vec!["svc".to_owned()],
        options: vec!["ndots:5".to_owned()],
    };
    pod.cgroup_parent = "/kubepods/pod1".to_owned();
    let cidrs = ["10.1.0.0/24".to_owned(), "fd00::/64".to_owned()];
    assert_eq!(
        Value::Object(capabilities(&pod, &cidrs)),
        json!({
            "portMappings": [{ "hostPort": 2, "containerPort": 1, "protocol": "sctp", "hostIP": "127.0.0.1" }],
            "bandwidth": {
                "ingressRate": 5, "ingressBurst": 4_294_967_295_u32, "egressRate": 6, "egressBurst": 4_294_967_295_u32
            },
            "dns": { "servers": ["10.96.0.10"], "searches": ["svc"], "options": ["ndots:5"] },
            "ipRanges": [[{ "subnet": "10.1.0.0/24" }], [{ "subnet": "fd00::/64" }]],
            "cgroupPath": "/kubepods/pod1",
        })
    );
}

#[test]
fn a_plain_pod_has_no_runtime_configuration() {
    assert!(capabilities(&pod(), &[]).is_empty());
}

#[test]
fn arguments_carry_the_pods_identity() {
    assert_eq!(
        join(&arguments(&pod())),
        "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0;K8S_POD_INFRA_CONTAINER_ID=ab12;K8S_POD_UID=u-1"
    );
}

#[rstest]
#[case("a;IP=10.0.0.1")]
#[case("a=b")]
#[case("a\0")]
fn a_name_cannot_smuggle_in_an_argument(#[case] name: &str) {
    let mut pod = pod();
    pod.name = name.to_owned();
    assert!(validate(&pod).unwrap_err().to_string().contains("name"));
}

#[rstest]
#[case("")]
#[case("../x")]
#[case("a/b")]
#[case("-a")]
fn a_pod_id_has_to_be_a_file_name(#[case] id: &str) {
    let mut pod = pod();
    pod.pod_id = id.to_owned();
    assert!(validate(&pod).is_err());
}

#[rstest]
#[case::portmap(json!({ "type": "portmap", "snat": true }), true)]
#[case::portmap_with_ports_of_its_own(json!({ "type": "portmap", "runtimeConfig": {} }), false)]
#[case::bandwidth(json!({ "type": "bandwidth" }), true)]
#[case::bandwidth_for_all_pods(json!({ "type": "bandwidth", "ingressRate": 1 }), false)]
#[case::another_with_capabilities(json!({ "type": "mine", "capabilities": { "portMappings": true } }), false)]
fn only_well_known_plugins_without_work_are_idle(#[case] plugin: Value, #[case] expected: bool) {
    let list = json!({ "cniVersion": "1.0.0", "name": "n", "plugins": [plugin] });
    let conf = Conf::parse(Path::new("x.conflist"), list.to_string().as_bytes()).unwrap();
    let mut pod = pod();
    assert_eq!(
        is_idle(&conf.plugins[0], &capabilities(&pod, &[])),
        expected
    );
    pod.egress_bps = Some(1);
    pod.port_mappings = vec![HostPort {
        protocol: Protocol::Tcp,
        container_port: 80,
        host_port: 8080,
        host_ip: String::new(),
    }];
    assert!(!is_idle(&conf.plugins[0], &capabilities(&pod, &[])));
}
