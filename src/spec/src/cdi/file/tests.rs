//! Files that are in order, and files that are not.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use proptest::prelude::*;
use rstest::rstest;
use serde_json::{Value, json};

use super::*;

/// A file that uses everything.
const FULL: &str = r#"
cdiVersion: "1.0.0"
kind: vendor.com/gpu.v2
annotations:
  a: b
devices:
  - name: "0"
    annotations: {c: d}
    containerEdits:
      env: [GPU=0]
      deviceNodes:
        - path: /dev/gpu0
          hostPath: /dev/real0
          type: c
          major: 240
          minor: 1
          fileMode: 0660
          permissions: rw
          uid: 1
          gid: 2
  - name: all
    containerEdits:
      mounts:
        - hostPath: /usr/lib/gpu.so
          containerPath: /usr/lib/gpu.so
          options: [ro, nosuid, bind]
          type: none
      hooks:
        - hookName: createContainer
          path: /usr/bin/gpu-hook
          args: [gpu-hook, update]
          env: [A=b]
          timeout: 5
      additionalGids: [44, 0]
      intelRdt:
        closID: gpu
        l3CacheSchema: "L3:0=f"
        memBwSchema: "MB:0=10"
        enableCMT: true
        enableMBM: false
containerEdits:
  env:
"#;

fn plain() -> Value {
    json!({
        "cdiVersion": "0.3.0",
        "kind": "vendor.com/gpu",
        "devices": [{"name": "a", "containerEdits": {"env": ["A=1"]}}],
    })
}

fn parse_json(value: &Value) -> Result<CdiFile, FileError> {
    parse(Path::new("/etc/cdi/x.json"), value.to_string().as_bytes())
}

#[test]
fn everything_is_read() {
    let file = parse(Path::new("/etc/cdi/v.yaml"), FULL.as_bytes()).unwrap();
    assert_eq!(file.kind, "vendor.com/gpu.v2");
    assert!(file.edits.is_empty());
    let names: Vec<_> = file.devices.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["0", "all"]);
    let node = &file.devices[0].1.device_nodes[0];
    assert_eq!((node.major, node.minor), (Some(240), Some(1)));
    assert_eq!(
        (node.file_mode, node.uid, node.gid),
        (Some(0o660), Some(1), Some(2))
    );
    let all = &file.devices[1].1;
    assert_eq!(all.hooks[0].timeout, Some(5));
    assert_eq!(all.additional_gids, [44, 0]);
    assert_eq!(all.intel_rdt.as_ref().unwrap().clos_id, "gpu");
}

#[test]
fn json_and_yaml_say_the_same() {
    let value = plain();
    let (json, yaml) = (Path::new("/x.json"), Path::new("/x.yaml"));
    let bytes = value.to_string();
    let mut from_yaml = parse(yaml, bytes.as_bytes()).unwrap();
    from_yaml.path = json.to_owned();
    assert_eq!(parse(json, bytes.as_bytes()).unwrap(), from_yaml);
}

#[rstest]
#[case(
    "x.yaml",
    "cdiVersion: 0.5.0\nkind: v/c\ndevices:\n  - nme: a\n",
    "/cdi/x.yaml:4:"
)]
#[case("x.yaml", "cdiVersion: [\n", "/cdi/x.yaml:")]
#[case("x.json", "{\n  \"kind\": 3\n}", "/cdi/x.json:2:11: ")]
#[case("x.json", "", "/cdi/x.json:1:0: ")]
#[case("x.yaml", "", "/cdi/x.yaml")]
#[case("x.yaml", "a: &a [*a]\n", "/cdi/x.yaml")]
fn what_is_no_cdi_file_is_refused_with_its_place(
    #[case] name: &str,
    #[case] text: &str,
    #[case] beginning: &str,
) {
    let error = parse(&Path::new("/cdi").join(name), text.as_bytes()).unwrap_err();
    assert!(error.to_string().starts_with(beginning), "{error}");
}

/// Lays `over` on the plain file at a path such as `devices/0/name`.
fn spoiled(path: &str, over: Value) -> Value {
    let mut value = plain();
    let mut place = &mut value;
    for step in path.split('/') {
        place = match step.parse::<usize>() {
            Ok(index) => &mut place[index],
            Err(_) => &mut place[step],
        };
    }
    *place = over;
    value
}

#[rstest]
#[case("cdiVersion", json!("0.2.0"), "cdiVersion: \"0.2.0\" is not one of 0.3.0")]
#[case("cdiVersion", json!("2.0.0"), "cdiVersion")]
#[case("kind", json!("gpu"), "kind: \"gpu\" has a kind")]
#[case("kind", json!("v/c.d"), "kind: a class with a dot: needs cdiVersion 0.6.0")]
#[case("annotations", json!({"a": "b"}), "annotations: needs cdiVersion 0.6.0")]
#[case("devices", json!([]), "devices: there are none")]
#[case("devices/0/name", json!("0"), "devices[0].name: a digit in front: needs cdiVersion 0.5.0")]
#[case("devices/0/name", json!("a/b"), "devices[0].name: \"a/b\"")]
#[case("devices/0/annotations", json!({"a": "b"}), "devices[0].annotations: needs")]
#[case("devices/0/containerEdits", json!({}), "devices[0].containerEdits: is empty")]
#[case("devices", json!([{"name": "a", "containerEdits": {"env": ["A=1"]}}, {"name": "a", "containerEdits": {"env": ["A=1"]}}]), "devices[1].name: \"a\" stands here twice")]
#[case("containerEdits", json!({"env": ["=1"]}), "containerEdits.env[0]")]
#[case("containerEdits", json!({"env": ["A"]}), "containerEdits.env[0]")]
#[case("containerEdits", json!({"deviceNodes": [{"path": "dev/x"}]}), "containerEdits.deviceNodes[0].path")]
#[case("containerEdits", json!({"deviceNodes": [{"path": "/dev/x", "hostPath": "/dev/y"}]}), "containerEdits.deviceNodes[0].hostPath: needs cdiVersion 0.5.0")]
#[case("containerEdits", json!({"deviceNodes": [{"path": "/dev/x", "type": "d"}]}), "containerEdits.deviceNodes[0].type")]
#[case("containerEdits", json!({"deviceNodes": [{"path": "/dev/x", "permissions": "rx"}]}), "containerEdits.deviceNodes[0].permissions")]
#[case("containerEdits", json!({"deviceNodes": [{"path": "/dev/x", "major": -1}]}), "containerEdits.deviceNodes[0].major")]
#[case("containerEdits", json!({"mounts": [{"hostPath": "", "containerPath": "/x"}]}), "containerEdits.mounts[0].hostPath")]
#[case("containerEdits", json!({"mounts": [{"hostPath": "/x", "containerPath": "x"}]}), "containerEdits.mounts[0].containerPath")]
#[case("containerEdits", json!({"mounts": [{"hostPath": "/x", "containerPath": "//"}]}), "containerEdits.mounts[0].containerPath")]
#[case("containerEdits", json!({"mounts": [{"hostPath": "/x", "containerPath": "/x", "type": "bind"}]}), "containerEdits.mounts[0].type: needs cdiVersion 0.4.0")]
#[case("containerEdits", json!({"hooks": [{"hookName": "later", "path": "/x"}]}), "containerEdits.hooks[0].hookName")]
#[case("containerEdits", json!({"hooks": [{"hookName": "poststop", "path": "x"}]}), "containerEdits.hooks[0].path")]
#[case("containerEdits", json!({"hooks": [{"hookName": "poststop", "path": "/x", "env": ["x"]}]}), "containerEdits.hooks[0].env[0]")]
#[case("containerEdits", json!({"hooks": [{"hookName": "poststop", "path": "/x", "timeout": -1}]}), "containerEdits.hooks[0].timeout")]
#[case("containerEdits", json!({"additionalGids": [1]}), "containerEdits.additionalGids: needs cdiVersion 0.7.0")]
#[case("containerEdits", json!({"intelRdt": {}}), "containerEdits.intelRdt: needs cdiVersion 0.7.0")]
fn each_rule_has_its_words(#[case] path: &str, #[case] over: Value, #[case] words: &str) {
    parse_json(&plain()).unwrap();
    let error = parse_json(&spoiled(path, over)).unwrap_err();
    assert!(error.problem.starts_with(words), "{error}");
    assert!(
        error.to_string().starts_with("/etc/cdi/x.json: "),
        "{error}"
    );
}

#[rstest]
#[case("..")]
#[case("a/b")]
fn a_class_of_service_is_a_file_name(#[case] id: &str) {
    let mut value = spoiled("containerEdits", json!({"intelRdt": {"closID": id}}));
    value["cdiVersion"] = json!("0.7.0");
    let error = parse_json(&value).unwrap_err();
    assert!(error.problem.contains("closID"), "{error}");
}

#[test]
fn only_json_and_yaml_are_cdi_files() {
    for (name, wanted) in [
        ("a.json", true),
        ("a.yaml", true),
        ("a.yml", false),
        ("a.json~", false),
        ("json", false),
    ] {
        assert_eq!(is_cdi_file(Path::new(name)), wanted, "{name}");
    }
}

#[test]
fn a_file_of_any_size_is_refused_before_it_is_parsed() {
    let error = parse(Path::new("/x.yaml"), &vec![b' '; MAX_BYTES + 1]).unwrap_err();
    assert!(error.problem.contains("larger than"), "{error}");
}

proptest! {
    #[test]
    fn no_bytes_make_the_parser_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), yaml: bool) {
        let path = if yaml { "/x.yaml" } else { "/x.json" };
        let _ = parse(Path::new(path), &bytes);
    }

    #[test]
    fn no_half_file_makes_the_parser_panic(cut in 0..FULL.len(), with in "\\PC{0,8}") {
        if FULL.is_char_boundary(cut) {
            let text = format!("{}{with}", &FULL[..cut]);
            let _ = parse(Path::new("/x.yaml"), text.as_bytes());
        }
    }
}
