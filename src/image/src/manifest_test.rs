#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use rstest::rstest;
use serde_json::{Value, json};

use super::*;

fn digest(seed: char) -> String {
    format!("sha256:{}", seed.to_string().repeat(64))
}

fn manifest(layer_type: &str) -> Value {
    json!({
        "schemaVersion": 2,
        "config": {"mediaType": OCI_CONFIG, "digest": digest('a'), "size": 10},
        "layers": [{"mediaType": layer_type, "digest": digest('b'), "size": 20}],
    })
}

fn read(value: &Value) -> Result<Document, ImageError> {
    parse(value.to_string().as_bytes(), None, "manifest of x")
}

#[rstest]
#[case(OCI_LAYER_TAR)]
#[case("application/vnd.oci.image.layer.v1.tar+gzip")]
#[case("application/vnd.oci.image.layer.v1.tar+zstd")]
#[case("application/vnd.docker.image.rootfs.diff.tar.gzip")]
#[case("")]
fn layers_of_all_kinds_are_read(#[case] layer_type: &str) {
    let Document::Manifest(manifest) = read(&manifest(layer_type)).unwrap() else {
        panic!("not a manifest");
    };
    manifest.check("x", 500).unwrap();
    assert_eq!(manifest.layers[0].size, 20);
}

#[rstest]
#[case("application/vnd.oci.image.layer.v1.tar+gzip+encrypted", "encrypted")]
#[case("application/vnd.cncf.helm.chart.content.v1.tar+gzip", "helm")]
fn other_layers_are_refused(#[case] layer_type: &str, #[case] word: &str) {
    let Document::Manifest(manifest) = read(&manifest(layer_type)).unwrap() else {
        panic!("not a manifest");
    };
    let error = manifest.check("x", 500).unwrap_err();
    assert!(matches!(error, ImageError::Unsupported { .. }));
    assert!(error.to_string().contains(word), "{error}");
}

#[test]
fn artifacts_and_endless_images_are_refused() {
    let mut artifact = manifest("");
    artifact["config"]["mediaType"] = json!("application/vnd.oci.empty.v1+json");
    let Document::Manifest(artifact) = read(&artifact).unwrap() else {
        panic!("not a manifest");
    };
    assert!(
        artifact
            .check("x", 500)
            .unwrap_err()
            .to_string()
            .contains("artifact")
    );

    let mut many = manifest("");
    many["layers"] = Value::Array(vec![many["layers"][0].clone(); 501]);
    let Document::Manifest(many) = read(&many).unwrap() else {
        panic!("not a manifest");
    };
    assert!(matches!(
        many.check("x", 500).unwrap_err(),
        ImageError::TooLarge { .. }
    ));
}

#[rstest]
#[case(OCI_CONFIG, None, None)]
#[case(DOCKER_CONFIG, None, None)]
#[case("", None, None)]
#[case(OCI_CONFIG, Some(""), None)]
#[case(OCI_CONFIG, Some("application/x"), Some("application/x"))]
#[case(
    "application/vnd.oci.empty.v1+json",
    Some("application/x"),
    Some("application/x")
)]
#[case(
    "application/vnd.cncf.helm.config.v1+json",
    None,
    Some("application/vnd.cncf.helm.config.v1+json")
)]
fn artifacts_are_told_from_images(
    #[case] config_type: &str,
    #[case] stated: Option<&str>,
    #[case] wanted: Option<&str>,
) {
    let mut document = manifest("");
    document["config"]["mediaType"] = json!(config_type);
    document["artifactType"] = json!(stated);
    let Document::Manifest(manifest) = read(&document).unwrap() else {
        panic!("not a manifest");
    };
    assert_eq!(manifest.artifact_type(), wanted);
}

#[rstest]
#[case(json!({"schemaVersion": 1, "name": "x", "fsLayers": []}), "schema 1")]
#[case(json!({"schemaVersion": 2, "fsLayers": []}), "schema 1")]
#[case(json!({"schemaVersion": 2}), "neither")]
#[case(json!({"schemaVersion": 2, "manifests": [], "layers": []}), "at once")]
#[case(json!({"schemaVersion": 2, "manifests": [], "mediaType": OCI_MANIFEST}), "calls itself")]
#[case(json!({"schemaVersion": 2, "config": {}, "layers": [], "mediaType": DOCKER_LIST}), "calls itself")]
#[case(json!({"config": {"digest": "sha256:zz", "size": 1}, "layers": []}), "not a manifest")]
#[case(json!({"config": {"digest": digest('a'), "size": -1}, "layers": []}), "not a manifest")]
#[case(json!("x"), "not a manifest")]
fn other_documents_are_refused(#[case] document: Value, #[case] word: &str) {
    let error = read(&document).unwrap_err().to_string();
    assert!(error.contains(word), "{error}");
}

#[test]
fn deep_nesting_is_an_error_not_a_crash() {
    let deep = "[".repeat(1 << 20);
    assert!(parse(deep.as_bytes(), None, "x").is_err());
}

fn entry(os: &str, architecture: &str, variant: &str, seed: char) -> Value {
    json!({
        "mediaType": OCI_MANIFEST, "digest": digest(seed), "size": 1,
        "platform": {"os": os, "architecture": architecture, "variant": variant},
    })
}

fn chosen(entries: &[Value]) -> Result<String, ImageError> {
    let platform = Platform {
        os: "linux".into(),
        architecture: "arm".into(),
        variant: "v7".into(),
    };
    let Document::Index(entries) = read(&json!({"manifests": entries})).unwrap() else {
        panic!("not an index");
    };
    choose(&entries, &platform, "x").map(|entry| entry.descriptor.digest.to_string())
}

#[test]
fn the_best_entry_is_chosen() {
    let entries = vec![
        entry("windows", "arm", "v7", 'a'),
        entry("linux", "arm", "v5", 'b'),
        entry("linux", "arm", "v7", 'c'),
        entry("linux", "arm", "v7", 'd'),
        entry("unknown", "unknown", "", 'e'),
    ];
    assert_eq!(chosen(&entries).unwrap(), digest('c'));
}

#[test]
fn an_entry_without_platform_is_the_last_resort() {
    let bare = json!({"mediaType": OCI_MANIFEST, "digest": digest('f'), "size": 1});
    assert_eq!(chosen(std::slice::from_ref(&bare)).unwrap(), digest('f'));
    assert_eq!(
        chosen(&[bare, entry("linux", "arm", "v6", 'a')]).unwrap(),
        digest('a')
    );
}

#[test]
fn no_fitting_entry_names_what_there_is() {
    let error = chosen(&[
        entry("linux", "amd64", "", 'a'),
        entry("unknown", "unknown", "", 'b'),
    ])
    .unwrap_err()
    .to_string();
    assert!(
        error.contains("linux/arm/v7") && error.contains("linux/amd64"),
        "{error}"
    );
    assert!(!error.contains("unknown"), "{error}");
}
