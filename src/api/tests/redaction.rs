//! No secret appears in the `Debug` form of any message that can hold one.

use pintle_api::cri;

const SECRET: &str = "hunter2";

fn auth() -> cri::AuthConfig {
    cri::AuthConfig {
        username: format!("{SECRET}-user"),
        password: format!("{SECRET}-password"),
        auth: format!("{SECRET}-auth"),
        server_address: "registry.example".to_owned(),
        identity_token: format!("{SECRET}-identity"),
        registry_token: format!("{SECRET}-registry"),
    }
}

fn container() -> cri::ContainerConfig {
    cri::ContainerConfig {
        envs: vec![cri::KeyValue {
            key: "PASSWORD".to_owned(),
            value: SECRET.as_bytes().to_vec(),
        }],
        ..cri::ContainerConfig::default()
    }
}

#[test]
fn credentials_do_not_show() {
    let shown = format!(
        "{:?} {:#?}",
        auth(),
        cri::PullImageRequest {
            image: None,
            auth: Some(auth()),
            sandbox_config: None
        }
    );
    assert!(!shown.contains(SECRET), "{shown}");
    assert!(shown.contains("registry.example"), "{shown}");
}

#[test]
fn environment_values_do_not_show() {
    let shown = format!(
        "{:?} {:?}",
        cri::CreateContainerRequest {
            config: Some(container()),
            ..cri::CreateContainerRequest::default()
        },
        cri::RestorePodRequest {
            container_configs: vec![container()],
            ..cri::RestorePodRequest::default()
        }
    );
    // As text, and as the list of numbers that a derived Debug would print.
    assert!(!shown.contains(SECRET), "{shown}");
    assert!(!shown.contains("104, 117"), "{shown}");
    assert!(shown.contains("PASSWORD"), "{shown}");
}

#[test]
fn absent_values_are_told_from_hidden_ones() {
    let shown = format!("{:?}", cri::AuthConfig::default());
    assert!(
        shown.contains("[empty]") && !shown.contains("[redacted]"),
        "{shown}"
    );
}
