#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::net::IpAddr;

use proptest::prelude::*;
use rstest::rstest;
use serde_json::{Value, json};

use super::{attached, parse};
use crate::cni::version::Version;

fn bytes(json: &Value) -> Vec<u8> {
    json.to_string().into_bytes()
}

fn ips(json: &Value) -> Result<Vec<String>, String> {
    let result = parse(&bytes(json), Version::V1_0_0).map_err(|error| error.to_string())?;
    let attached = attached("n", "eth0", &result).map_err(|error| error.to_string())?;
    Ok(attached.ips.iter().map(ToString::to_string).collect())
}

#[rstest]
#[case(Version::V0_3_1, Some("4"))]
#[case(Version::V0_4_0, Some("4"))]
#[case(Version::V1_0_0, None)]
#[case(Version::V1_1_0, None)]
fn a_result_is_brought_to_the_version_of_the_network(
    #[case] to: Version,
    #[case] ip_version: Option<&str>,
) {
    for from in Version::ALL {
        let mut ip = json!({ "address": "10.1.0.2/16", "interface": 2, "x-more": 1 });
        if from.has_ip_version() {
            ip["version"] = "4".into();
        }
        let result = parse(
            &bytes(&json!({ "cniVersion": from.as_str(), "ips": [ip] })),
            to,
        )
        .unwrap();
        assert_eq!(result["cniVersion"], to.as_str());
        assert_eq!(
            result["ips"][0].get("version").and_then(Value::as_str),
            ip_version
        );
        assert_eq!(
            result["ips"][0]["x-more"], 1,
            "what is unknown goes on to the next plugin"
        );
    }
}

#[test]
fn the_family_of_an_address_is_found_out() {
    let json = json!({ "cniVersion": "1.0.0", "ips": [{ "address": "fd00::2/64" }] });
    let result = parse(&bytes(&json), Version::V0_4_0).unwrap();
    assert_eq!(result["ips"][0]["version"], "6");
}

#[rstest]
#[case(b"", "answer is empty")]
#[case(b" \n", "answer is empty")]
#[case(b"<html>", "answer is not JSON")]
#[case(b"[]", "answer is not a JSON object")]
#[case(
    br#"{"cniVersion":"0.2.0","ip4":{"ip":"10.0.0.2/24"}}"#,
    "in cniVersion \"0.2.0\", asked for 1.0.0"
)]
#[case(br#"{"ips":7}"#, "ips is not a list")]
#[case(br#"{"ips":[7]}"#, "an entry of ips is not an object")]
fn garbage_is_refused_and_quoted(#[case] stdout: &[u8], #[case] words: &str) {
    let message = parse(stdout, Version::V1_0_0).unwrap_err().to_string();
    assert!(message.contains(words), "{message}");
    assert!(message.contains("it begins with \""), "{message}");
}

#[test]
fn only_the_pods_own_addresses_count_and_keep_their_order() {
    let json = json!({
        "cniVersion": "1.0.0",
        "interfaces": [
            { "name": "cni0", "mac": "aa:bb" },
            { "name": "veth1" },
            { "name": "eth0", "mac": "cc:dd", "sandbox": "/run/netns/p" },
        ],
        "ips": [
            { "address": "10.9.9.9/32", "interface": 0 },
            { "address": "fd00::2/64", "interface": 2 },
            { "address": "10.1.0.2/16", "interface": 2 },
        ],
    });
    assert_eq!(ips(&json).unwrap(), ["fd00::2", "10.1.0.2"]);
    let result = parse(&bytes(&json), Version::V1_0_0).unwrap();
    let attached = attached("n", "eth0", &result).unwrap();
    assert_eq!(attached.interfaces.len(), 3);
    assert_eq!(attached.interfaces[2].mac, "cc:dd");
    assert_eq!(attached.interfaces[0].sandbox, None);
}

#[rstest]
#[case::no_interface_named(json!([{ "address": "10.1.0.2/16" }]))]
#[case::interface_out_of_range(json!([{ "address": "10.1.0.2/16", "interface": 9 }]))]
fn addresses_without_a_usable_interface_are_the_pods(#[case] addresses: Value) {
    assert_eq!(ips(&json!({ "ips": addresses })).unwrap(), ["10.1.0.2"]);
}

#[rstest]
#[case(json!({}))]
#[case(json!({ "ips": null }))]
#[case(json!({ "ips": [] }))]
#[case(json!({ "ips": [{ "address": "10.1.0.2" }] }))]
#[case(json!({ "ips": [{ "address": "10.1.0.2/33" }] }))]
fn a_result_without_a_valid_address_is_none(#[case] json: Value) {
    assert_eq!(
        ips(&json).unwrap_err(),
        "no address for the pod in the result"
    );
}

proptest! {
    #[test]
    fn conversion_there_and_back_changes_nothing(addresses in prop::collection::vec(any::<IpAddr>(), 0..4)) {
        let entries: Vec<Value> = addresses.iter().map(|ip| json!({ "address": format!("{ip}/7") })).collect();
        let original = parse(&bytes(&json!({ "cniVersion": "1.0.0", "ips": entries })), Version::V1_0_0).unwrap();
        let mut converted = original.clone();
        super::convert(&mut converted, Version::V0_3_1).unwrap();
        super::convert(&mut converted, Version::V1_0_0).unwrap();
        prop_assert_eq!(converted, original);
    }

    #[test]
    fn no_answer_makes_it_panic(stdout in prop::collection::vec(any::<u8>(), 0..100)) {
        let _ = parse(&stdout, Version::V0_4_0);
    }
}
