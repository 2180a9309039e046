#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn diff(seed: u8) -> String {
    Digest::sha256_of(&[seed]).to_string()
}

#[test]
fn a_configuration_is_read() {
    let document = json!({
        "architecture": "amd64", "os": "linux",
        "config": {
            "User": "1000:50", "Env": ["PATH=/bin", "A=b=c"], "Entrypoint": ["/app"], "Cmd": ["-x"],
            "WorkingDir": "/srv", "StopSignal": "SIGQUIT", "Volumes": {"/b": {}, "/a": null},
            "Labels": {"x": "y", "z": null}, "Healthcheck": {"Test": []},
        },
        "rootfs": {"type": "layers", "diff_ids": [diff(1), diff(2)]},
        "history": [],
    });
    let parsed = ParsedConfig::parse(document.to_string().as_bytes(), "x").unwrap();
    assert_eq!(parsed.run.user, "1000:50");
    assert_eq!(parsed.run.env, ["PATH=/bin", "A=b=c"]);
    assert_eq!(parsed.run.entrypoint, ["/app"]);
    assert_eq!(parsed.run.stop_signal.as_deref(), Some("SIGQUIT"));
    assert_eq!(parsed.run.volumes, ["/a", "/b"]);
    assert_eq!(parsed.run.labels["z"], "");
    let chains = parsed.chains();
    assert_eq!(chains.len(), 2);
    assert_eq!(chains[0].as_str(), diff(1));
    assert_eq!(Some(&chains[1]), ChainId::of(&parsed.diffs).as_ref());
}

#[test]
fn entries_without_end_are_refused() {
    let of = |count: usize| {
        let document = json!({
            "config": {"Env": vec!["a"; count], "Labels": {"x": "y"}},
            "rootfs": {"diff_ids": []},
        });
        ParsedConfig::parse(document.to_string().as_bytes(), "x")
    };
    of(MAX_ENTRIES - 1).unwrap();
    assert!(matches!(of(MAX_ENTRIES), Err(ImageError::TooLarge { .. })));
}

#[test]
fn nulls_and_absences_are_empty() {
    for document in [
        json!({"rootfs": {"diff_ids": null}, "config": null}),
        json!({"rootfs": {}, "config": {"Env": null, "Cmd": null, "Entrypoint": null, "Volumes": null,
               "Labels": null, "User": null, "WorkingDir": null, "StopSignal": ""}}),
    ] {
        let parsed = ParsedConfig::parse(document.to_string().as_bytes(), "x").unwrap();
        assert_eq!(parsed.run, ImageRunConfig::default());
        assert!(parsed.chains().is_empty());
    }
}

#[test]
fn what_is_no_configuration_is_corrupt() {
    for bytes in [
        &b""[..],
        b"{}",
        b"[]",
        b"\xff",
        br#"{"rootfs":{"diff_ids":["../../etc"]}}"#,
        br#"{"rootfs":{},"config":{"Env":"A=b"}}"#,
    ] {
        assert!(
            matches!(
                ParsedConfig::parse(bytes, "x"),
                Err(ImageError::Corrupt { .. })
            ),
            "{bytes:?}"
        );
    }
}

#[test]
fn other_platforms_are_refused_in_words() {
    let platform = Platform {
        os: "linux".into(),
        architecture: "amd64".into(),
        variant: String::new(),
    };
    let parse = |os: &str, architecture: &str| {
        let document = json!({"os": os, "architecture": architecture, "rootfs": {}});
        ParsedConfig::parse(document.to_string().as_bytes(), "x").unwrap()
    };
    parse("linux", "amd64")
        .check_platform(&platform, "x")
        .unwrap();
    parse("", "").check_platform(&platform, "x").unwrap();
    let error = parse("linux", "s390x")
        .check_platform(&platform, "x")
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("linux/s390x") && error.contains("linux/amd64"),
        "{error}"
    );
}

#[test]
fn records_round_trip() {
    let raw = json!({"rootfs": {"diff_ids": [diff(1)]}, "config": {"User": "ü\"\n"}}).to_string();
    let parsed = ParsedConfig::parse(raw.as_bytes(), "x").unwrap();
    let id = ImageId::from(Digest::sha256_of(raw.as_bytes()));
    let record = ImageRecord {
        seals: Vec::new(),
        id: id.clone(),
        kind: ImageKind::Container,
        layers: parsed.chains(),
        size_bytes: 77,
        config: Arc::new(parsed.run),
        manifest_digest: Some(Digest::sha256_of(b"m")),
        raw_config: Bytes::from(raw.clone()),
    };
    let back = ImageRecord::from_body(
        id.clone(),
        &record.to_body().unwrap(),
        record.layers.clone(),
    )
    .unwrap();
    assert_eq!(back.raw_config, raw);
    assert_eq!(back.size_bytes, 77);
    assert_eq!(back.config, record.config);
    assert_eq!(back.manifest_digest, record.manifest_digest);
    assert!(ImageRecord::from_body(id, &record.to_body().unwrap(), vec![]).is_err());
}

#[test]
fn records_of_artifacts_round_trip() {
    let blob = |seed: u8| json!({"digest": diff(seed), "size": 1});
    let raw = json!({"artifactType": "x/y", "config": blob(1), "layers": [blob(2), blob(3)]});
    let raw = raw.to_string();
    let id = ImageId::from(Digest::sha256_of(raw.as_bytes()));
    let record = ImageRecord {
        seals: Vec::new(),
        id: id.clone(),
        kind: ImageKind::Artifact,
        layers: artifact_chains(raw.as_bytes(), "x").unwrap(),
        size_bytes: 77,
        config: Arc::default(),
        manifest_digest: Some(id.clone().into()),
        raw_config: Bytes::from(raw.clone()),
    };
    let body = record.to_body().unwrap();
    let back = ImageRecord::from_body(id.clone(), &body, record.layers.clone()).unwrap();
    assert_eq!(back.kind, ImageKind::Artifact);
    assert_eq!(back.raw_config, raw);
    assert_eq!(back.layers.len(), 2);
    assert!(ImageRecord::from_body(id, &body, vec![]).is_err());
}

#[test]
fn records_of_servers_that_knew_no_artifacts_are_images() {
    let body = json!({"size_bytes": 5, "manifest_digest": null, "config": "{\"rootfs\": {}}"});
    let id = ImageId::from(Digest::sha256_of(b"x"));
    let back = ImageRecord::from_body(id, body.to_string().as_bytes(), vec![]).unwrap();
    assert_eq!(back.kind, ImageKind::Container);
    // And an image's record is what such servers read.
    let body: serde_json::Value = serde_json::from_slice(&back.to_body().unwrap()).unwrap();
    assert!(body.get("artifact").is_none(), "{body}");
}

proptest! {
    #[test]
    fn reading_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = ParsedConfig::parse(&bytes, "x");
    }
}
