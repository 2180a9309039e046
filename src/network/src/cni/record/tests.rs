#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::fs;
use std::path::Path;
use std::sync::Arc;

use serde_json::{Map, Value, json};
use tempfile::TempDir;

use super::{Record, Records};
use crate::cni::catalog::Chain;
use crate::cni::conf::Conf;
use crate::cni::serial::{PodLocks, Turn};
use crate::cni::version::Version;

fn chain(network: &str) -> Chain {
    let json = json!({ "cniVersion": "1.0.0", "name": network, "plugins": [{ "type": "ptp" }] });
    let conf = Conf::parse(Path::new("x.conflist"), json.to_string().as_bytes()).unwrap();
    Chain {
        conf: Arc::new(conf),
        version: Version::V1_0_0,
        binaries: vec!["/bin/ptp".into()],
        skipped: Vec::new(),
    }
}

fn record(network: &str, pod: &str) -> Record {
    let arguments = vec![("K8S_POD_NAME".to_owned(), "web".to_owned())];
    Record::new(
        &chain(network),
        pod.to_owned(),
        "/run/netns/p".into(),
        arguments,
        Map::new(),
    )
}

async fn turn() -> Turn {
    PodLocks::default().lock("any").await
}

#[tokio::test]
async fn a_record_has_the_name_and_the_keys_of_libcnis_cache() {
    let dir = TempDir::new().unwrap();
    let records = Records::open(dir.path()).unwrap();
    let mut written = record("pods", "ab12");
    written.result = Some(Map::from_iter([("cniVersion".to_owned(), json!("1.0.0"))]));
    records.put(&written, &turn().await).await.unwrap();

    let json = fs::read(dir.path().join("results/pods-ab12-eth0")).unwrap();
    let json: Value = serde_json::from_slice(&json).unwrap();
    assert_eq!(json["kind"], "cniCacheV1");
    assert_eq!(json["containerId"], "ab12");
    assert_eq!(json["ifName"], "eth0");
    assert_eq!(json["networkName"], "pods");
    assert_eq!(json["netns"], "/run/netns/p");
    assert_eq!(json["cniArgs"], json!([["K8S_POD_NAME", "web"]]));
    assert_eq!(json["capabilityArgs"], json!({}));
    assert_eq!(json["result"], json!({ "cniVersion": "1.0.0" }));
    assert!(
        json["config"].as_str().unwrap().starts_with("eyJ"),
        "base64 of a JSON object"
    );
    assert_eq!(records.load("ab12").await.unwrap(), [written]);
}

#[tokio::test]
async fn records_are_found_again_and_go_when_removed() {
    let dir = TempDir::new().unwrap();
    let records = Records::open(dir.path()).unwrap();
    // Two networks with a name in which the other's is contained.
    records
        .put(&record("pods", "ab12"), &turn().await)
        .await
        .unwrap();
    records
        .put(&record("pods-ab12", "ab12"), &turn().await)
        .await
        .unwrap();

    let reopened = Records::open(dir.path()).unwrap();
    assert_eq!(reopened.pods(), ["ab12"]);
    assert_eq!(reopened.load("ab12").await.unwrap().len(), 2);
    reopened
        .remove("pods", "ab12", &turn().await)
        .await
        .unwrap();
    assert_eq!(reopened.load("ab12").await.unwrap().len(), 1);
    reopened
        .remove("pods-ab12", "ab12", &turn().await)
        .await
        .unwrap();
    reopened
        .remove("pods-ab12", "ab12", &turn().await)
        .await
        .unwrap();
    assert!(!reopened.contains("ab12"));
    assert_eq!(fs::read_dir(dir.path().join("results")).unwrap().count(), 0);
}

#[tokio::test]
async fn the_records_of_others_are_left_alone() {
    let dir = TempDir::new().unwrap();
    let results = dir.path().join("results");
    fs::create_dir(&results).unwrap();
    let foreign = json!({
        "kind": "cniCacheV1", "containerId": "cd34", "config": "e30=", "ifName": "eth0", "networkName": "pods",
        "cniArgs": null, "capabilityArgs": null, "result": {}
    });
    fs::write(results.join("pods-cd34-eth0"), foreign.to_string()).unwrap();
    fs::write(results.join("pods-ef56-eth0"), "").unwrap();
    fs::write(results.join(".pintle-1-1"), "half a rec").unwrap();
    // A record of ours under another name than its own would be removed in vain for ever.
    let ours = serde_json::to_vec(&record("pods", "0123")).unwrap();
    fs::write(results.join("other-0123-eth0"), ours).unwrap();

    let records = Records::open(dir.path()).unwrap();
    assert!(records.pods().is_empty());
    assert!(results.join("pods-cd34-eth0").exists());
    assert!(results.join("pods-ef56-eth0").exists());
    assert!(
        !results.join(".pintle-1-1").exists(),
        "what a crash left unfinished is swept away"
    );
}

#[tokio::test]
async fn a_record_that_somebody_removed_is_forgotten() {
    let dir = TempDir::new().unwrap();
    let records = Records::open(dir.path()).unwrap();
    records
        .put(&record("pods", "ab12"), &turn().await)
        .await
        .unwrap();
    fs::remove_file(dir.path().join("results/pods-ab12-eth0")).unwrap();
    assert!(records.load("ab12").await.unwrap().is_empty());
    assert!(!records.contains("ab12"));
}

#[tokio::test]
async fn a_damaged_record_is_an_error_that_names_the_file() {
    let dir = TempDir::new().unwrap();
    let records = Records::open(dir.path()).unwrap();
    records
        .put(&record("pods", "ab12"), &turn().await)
        .await
        .unwrap();
    fs::write(dir.path().join("results/pods-ab12-eth0"), "{").unwrap();
    let error = records.load("ab12").await.unwrap_err();
    assert!(
        error.to_string().ends_with("results/pods-ab12-eth0"),
        "{error}"
    );
    assert!(records.contains("ab12"));
}
