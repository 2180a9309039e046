#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::path::Path;

use proptest::prelude::*;
use rstest::rstest;
use serde_json::{Value, json};

use super::{Conf, MAX_CONF_BYTES, is_identifier};
use crate::cni::version::Version;

fn parse(file: &str, json: &Value) -> Result<Conf, String> {
    Conf::parse(Path::new(file), json.to_string().as_bytes()).map_err(|error| error.to_string())
}

#[test]
fn a_list_keeps_its_plugins_in_order_and_their_unknown_keys() {
    let json = json!({ "cniVersion": "1.0.0", "name": "pods", "plugins": [
        { "type": "bridge", "bridge": "cni0", "mtu": 1450 },
        { "type": "portmap", "capabilities": { "portMappings": true, "dns": false } },
    ] });
    let conf = parse("10-pods.conflist", &json).unwrap();
    let kinds: Vec<&str> = conf
        .plugins
        .iter()
        .map(|plugin| plugin.kind.as_str())
        .collect();
    assert_eq!(kinds, ["bridge", "portmap"]);
    assert_eq!(conf.plugins[0].object["mtu"], 1450);
    assert!(conf.plugins[1].capabilities.contains("portMappings"));
    assert!(!conf.plugins[1].capabilities.contains("dns"));
    assert_eq!(conf.version(), Version::V1_0_0);
    assert_eq!(conf.list_json, json.to_string().into_bytes());
}

#[rstest]
#[case("10-pods.conf")]
#[case("10-pods.json")]
fn a_single_plugin_is_recorded_as_a_list_that_parses_to_the_same(#[case] file: &str) {
    let json = json!({ "cniVersion": "0.4.0", "name": "pods", "type": "ptp", "ipMasq": true });
    let conf = parse(file, &json).unwrap();
    let recorded = Conf::parse(Path::new(file), &conf.list_json).unwrap();
    assert_eq!(recorded, conf);
    assert_eq!(recorded.plugins[0].object["ipMasq"], true);
}

#[test]
fn loopback_is_not_run_as_a_plugin() {
    let json = json!({ "cniVersion": "1.0.0", "name": "pods", "plugins": [{ "type": "loopback" }, { "type": "ptp" }] });
    let conf = parse("x.conflist", &json).unwrap();
    assert_eq!(conf.plugins.len(), 1);
    assert_eq!(conf.plugins[0].kind, "ptp");
}

#[rstest]
#[case("0.3.0", Version::V0_3_0)]
#[case("0.3.1", Version::V0_3_1)]
#[case("0.4.0", Version::V0_4_0)]
#[case("1.0.0", Version::V1_0_0)]
#[case("1.1.0", Version::V1_1_0)]
fn every_spoken_version_is_taken(#[case] text: &str, #[case] version: Version) {
    let json = json!({ "cniVersion": text, "name": "n", "type": "ptp" });
    assert_eq!(parse("x.conf", &json).unwrap().versions, [version]);
}

#[test]
fn of_several_versions_the_newest_spoken_here_comes_first() {
    let json = json!({ "cniVersion": "0.4.0", "cniVersions": ["0.3.1", "2.0.0", "1.1.0"], "name": "n", "type": "ptp" });
    let conf = parse("x.conf", &json).unwrap();
    assert_eq!(
        conf.versions,
        [Version::V1_1_0, Version::V0_4_0, Version::V0_3_1]
    );
}

#[rstest]
#[case::not_an_object(json!([1]), "x.conflist: (top level): expected an object, found a list")]
#[case::no_name(json!({ "cniVersion": "1.0.0", "plugins": [] }), "x.conflist: name: missing")]
#[case::bad_name(
    json!({ "cniVersion": "1.0.0", "name": "../up", "plugins": [] }),
    "x.conflist: name: \"../up\" is not a network name (letters, digits, '_', '.', '-')"
)]
#[case::no_version(
    json!({ "name": "n", "plugins": [] }),
    "x.conflist: cniVersion: missing; versions 0.3.0 to 1.1.0 are supported"
)]
#[case::old_version(
    json!({ "name": "n", "cniVersion": "0.2.0", "plugins": [] }),
    "x.conflist: cniVersion: \"0.2.0\" is not supported; versions 0.3.0 to 1.1.0 are"
)]
#[case::number_as_version(
    json!({ "name": "n", "cniVersion": 1, "plugins": [] }),
    "x.conflist: cniVersion: expected a string, found a number"
)]
#[case::no_plugins(json!({ "name": "n", "cniVersion": "1.0.0" }), "x.conflist: plugins: missing")]
#[case::empty(
    json!({ "name": "n", "cniVersion": "1.0.0", "plugins": [] }),
    "x.conflist: plugins: no plugin in the list"
)]
#[case::only_loopback(
    json!({ "name": "n", "cniVersion": "1.0.0", "plugins": [{ "type": "loopback" }] }),
    "x.conflist: plugins: only loopback, which gives a pod no address"
)]
#[case::plugin_not_an_object(
    json!({ "name": "n", "cniVersion": "1.0.0", "plugins": ["ptp"] }),
    "x.conflist: plugins[0]: expected an object, found a string"
)]
#[case::no_type(
    json!({ "name": "n", "cniVersion": "1.0.0", "plugins": [{ "type": "ptp" }, {}] }),
    "x.conflist: plugins[1].type: missing"
)]
#[case::path_as_type(
    json!({ "name": "n", "cniVersion": "1.0.0", "plugins": [{ "type": "../../bin/sh" }] }),
    "x.conflist: plugins[0].type: \"../../bin/sh\" is not the file name of a plugin"
)]
#[case::capability_not_a_flag(
    json!({ "name": "n", "cniVersion": "1.0.0", "plugins": [{ "type": "p", "capabilities": { "dns": "yes" } }] }),
    "x.conflist: plugins[0].capabilities.dns: expected true or false, found a string"
)]
#[case::check_flag(
    json!({ "name": "n", "cniVersion": "1.0.0", "disableCheck": 3, "plugins": [{ "type": "p" }] }),
    "x.conflist: disableCheck: expected true or false, found a number"
)]
fn errors_name_file_and_key(#[case] json: Value, #[case] message: &str) {
    assert_eq!(parse("x.conflist", &json).unwrap_err(), message);
}

#[test]
fn broken_json_is_told_with_its_place() {
    let error = Conf::parse(Path::new("x.conf"), b"{\n  \"name\": \n}").unwrap_err();
    assert!(error.to_string().contains("line 3"), "{error}");
}

#[test]
fn sizes_are_bounded() {
    let too_long = vec![b' '; MAX_CONF_BYTES + 1];
    let error = Conf::parse(Path::new("x.conf"), &too_long).unwrap_err();
    assert!(error.to_string().contains("larger than"), "{error}");

    let deep = [vec![b'['; 100_000], vec![b']'; 100_000]].concat();
    let error = Conf::parse(Path::new("x.conf"), &deep).unwrap_err();
    assert!(error.to_string().contains("recursion limit"), "{error}");

    let long_name = json!({ "name": "n".repeat(161), "cniVersion": "1.0.0", "type": "ptp" });
    assert!(
        parse("x.conf", &long_name)
            .unwrap_err()
            .contains("name: 161 bytes")
    );

    let plugins = vec![json!({ "type": "ptp" }); 33];
    let long_chain = json!({ "name": "n", "cniVersion": "1.0.0", "plugins": plugins });
    assert!(
        parse("x.conflist", &long_chain)
            .unwrap_err()
            .contains("plugins: 33 plugins")
    );
}

/// JSON that is near to a configuration: the known keys with values of every type.
fn nearly_a_conf() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
        "[a-z./\\-\0é]{0,6}".prop_map(Value::from),
        Just(Value::from("1.0.0")),
        Just(Value::from("0.1.0")),
        Just(Value::from("loopback")),
    ];
    let key = prop_oneof![
        Just("name".to_owned()),
        Just("cniVersion".to_owned()),
        Just("cniVersions".to_owned()),
        Just("plugins".to_owned()),
        Just("type".to_owned()),
        Just("capabilities".to_owned()),
        Just("disableCheck".to_owned()),
        "[a-z]{1,4}",
    ];
    leaf.prop_recursive(4, 64, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(key.clone(), inner, 0..6)
                .prop_map(|object| Value::Object(object.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Conf::parse(Path::new("x.conflist"), &bytes);
    }

    #[test]
    fn whatever_is_accepted_holds_the_invariants(json in nearly_a_conf(), list in any::<bool>()) {
        let file = Path::new(if list { "x.conflist" } else { "x.conf" });
        match Conf::parse(file, json.to_string().as_bytes()) {
            Ok(conf) => {
                prop_assert!(is_identifier(&conf.name));
                prop_assert!(!conf.versions.is_empty());
                prop_assert!(conf.versions.is_sorted_by(|a, b| a > b));
                prop_assert!(!conf.plugins.is_empty());
                for plugin in &conf.plugins {
                    prop_assert!(!plugin.kind.contains('/') && plugin.kind != "loopback");
                }
                let recorded = Conf::parse(file, &conf.list_json);
                prop_assert_eq!(recorded.ok(), Some(conf));
            }
            Err(error) => prop_assert!(error.to_string().starts_with("x.conf")),
        }
    }

    #[test]
    fn a_well_formed_list_is_always_accepted(
        name in "[a-zA-Z0-9][a-zA-Z0-9_.\\-]{0,40}",
        version in prop::sample::select(Version::ALL.to_vec()),
        kinds in prop::collection::vec("[a-z][a-z\\-]{0,10}", 1..8),
    ) {
        let plugins: Vec<Value> = kinds.iter().map(|kind| json!({ "type": kind })).collect();
        let json = json!({ "name": name, "cniVersion": version.as_str(), "plugins": plugins });
        let conf = Conf::parse(Path::new("x.conflist"), json.to_string().as_bytes()).unwrap();
        let expected: Vec<&String> = kinds.iter().filter(|kind| *kind != "loopback").collect();
        let found: Vec<&String> = conf.plugins.iter().map(|plugin| &plugin.kind).collect();
        prop_assert_eq!(found, expected);
        prop_assert_eq!(conf.version(), version);
    }
}
