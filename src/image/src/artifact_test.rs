#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use rstest::rstest;
use serde_json::{Value, json};

use super::*;
use crate::manifest::{self, Document};

fn digest(seed: usize) -> String {
    Digest::sha256_of(seed.to_string().as_bytes()).to_string()
}

fn blob(seed: usize, annotations: &Value) -> Value {
    json!({"mediaType": "text/plain", "digest": digest(seed), "size": 1, "annotations": annotations})
}

fn titled(titles: &[&str]) -> Vec<Value> {
    titles
        .iter()
        .enumerate()
        .map(|(seed, title)| blob(seed, &json!({"org.opencontainers.image.title": title})))
        .collect()
}

fn artifact(layers: &[Value]) -> Manifest {
    let document = json!({
        "schemaVersion": 2,
        "artifactType": "application/x.test",
        "config": {"mediaType": EMPTY, "digest": digest(1000), "size": 2},
        "layers": layers,
    });
    match manifest::parse(document.to_string().as_bytes(), None, "x").unwrap() {
        Document::Manifest(manifest) => manifest,
        Document::Index(_) => panic!("an index"),
    }
}

fn paths(layers: &[Value]) -> Vec<String> {
    let manifest = artifact(layers);
    let files = files(&manifest, "x").unwrap();
    files.into_iter().map(|file| file.path).collect()
}

#[rstest]
#[case("model.bin", "model.bin")]
#[case("models/large/model.bin", "models/large/model.bin")]
#[case("./models//x", "models/x")]
#[case(".wh.x", ".wh.x")]
#[case("..x/y..", "..x/y..")]
#[case("Straße 1", "Straße 1")]
fn titles_are_paths(#[case] title: &str, #[case] wanted: &str) {
    assert_eq!(path(title).as_deref(), Ok(wanted));
}

#[rstest]
#[case("/etc/passwd", "absolute")]
#[case("../x", "upwards")]
#[case("a/../../x", "upwards")]
#[case("a/..", "upwards")]
#[case("a/", "directory")]
#[case(".", "no file")]
#[case("a\0b", "control")]
#[case("a\nb", "control")]
#[case(&"x".repeat(256), "255")]
#[case(&"x/".repeat(600), "1024")]
fn other_titles_are_refused(#[case] title: &str, #[case] word: &str) {
    assert!(path(title).unwrap_err().contains(word));
    let manifest = artifact(&titled(&[title]));
    let error = files(&manifest, "host/x:1").unwrap_err();
    assert!(matches!(error, ImageError::Unsupported { .. }));
    let words = error.to_string();
    assert!(
        words.contains("host/x:1") && words.contains(&digest(0)) && words.contains(word),
        "{words}"
    );
    assert!(!words.contains(['\0', '\n']), "{words}");
}

#[test]
fn a_blob_without_a_title_is_called_as_its_digest() {
    let name = |seed| digest(seed).strip_prefix("sha256:").unwrap().to_owned();
    let filepath = json!({"org.cncf.model.filepath": "weights/a"});
    let both = json!({"org.cncf.model.filepath": "b", "org.opencontainers.image.title": "c"});
    let layers = [
        blob(0, &json!({})),
        blob(1, &Value::Null),
        blob(
            2,
            &json!({"org.opencontainers.image.title": "", "other": 5}),
        ),
        blob(3, &filepath),
        blob(4, &both),
        json!({"mediaType": EMPTY, "digest": digest(9), "size": 2}),
    ];
    let wanted = [name(0), name(1), name(2), "weights/a".into(), "c".into()];
    assert_eq!(paths(&layers), wanted);
}

#[rstest]
#[case(&["a", "a"], "two of its blobs")]
#[case(&["a/b", "a//./b"], "two of its blobs")]
#[case(&["a", "a/b"], "the directory of")]
#[case(&["a/b/c", "x", "a"], "the directory of")]
fn files_in_each_others_way_are_refused(#[case] titles: &[&str], #[case] words: &str) {
    let manifest = artifact(&titled(titles));
    let error = files(&manifest, "x").unwrap_err().to_string();
    assert!(error.contains(words), "{error}");
}

#[test]
fn neighbours_are_not_in_each_others_way() {
    assert_eq!(
        paths(&titled(&["a/b", "a.b", "a/c", "ab/c"])),
        ["a/b", "a.b", "a/c", "ab/c"]
    );
}

#[test]
fn equal_files_are_one_layer_and_others_are_not() {
    let of = |layers: &[Value]| -> Vec<ChainId> {
        let layers = super::layers(&artifact(layers), "x", 500).unwrap();
        layers.into_iter().map(|layer| layer.chain).collect()
    };
    let first = of(&titled(&["a", "b"]));
    let second = of(&titled(&["a", "c"]));
    assert_eq!(first[0], second[0]);
    assert_ne!(first[1], second[1]);
    assert_ne!(first[0], first[1]);
    // A plain layer with this content would have the blob's own digest.
    assert_ne!(first[0].as_str(), digest(0));
}

#[test]
fn the_number_of_files_is_bounded() {
    let names: Vec<String> = (0..501).map(|n| n.to_string()).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let error = layers(&artifact(&titled(&names)), "x", 500).unwrap_err();
    assert!(matches!(error, ImageError::TooLarge { .. }), "{error}");
    layers(&artifact(&titled(&names[1..])), "x", 500).unwrap();
}
