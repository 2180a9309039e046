//! What the fuzz target of requests calls: bytes as a client might send them, taken as far as a request gets without
//! touching the node.

use api::cri;
use engine::World;
use prost::Message;
use spec::model::PodConfig;
use tonic::Status;

use crate::convert::{
    At, container_config, new_limits, pod_config, required, required_id, seconds,
};
use crate::{errors, filter, images, sessions};

/// How many kinds of requests there are to choose from.
const KINDS: u8 = 12;

/// A request. The first byte chooses its kind, the second one whether the bytes are laid over a request that is in order,
/// and the node's version of cgroups; the others are the message.
pub fn request(bytes: &[u8]) {
    let [kind, how, message @ ..] = bytes else {
        return;
    };
    let (over_sample, v2) = (how & 1 != 0, how & 2 != 0);
    if let Err(status) = take(kind % KINDS, over_sample, v2, message) {
        let words = status.message();
        assert_eq!(status.code(), tonic::Code::InvalidArgument, "{words}");
        assert!(!words.is_empty());
        assert!(words.len() <= errors::MESSAGE_MAX_BYTES, "{words}");
    }
}

/// The message, or nothing to be done for bytes that are none: tonic refuses those.
fn message<M: Message + Default>(mut sample: M, bytes: &[u8]) -> Option<M> {
    sample.merge(bytes).ok().map(|()| sample)
}

fn take(kind: u8, over_sample: bool, v2: bool, bytes: &[u8]) -> Result<(), Status> {
    match kind {
        0 => run_pod(over_sample, v2, bytes),
        1 => create_container(over_sample, v2, bytes),
        2 => update_container(v2, bytes),
        3 => update_pod(v2, bytes),
        4 => exec(bytes),
        5 => port_forward(bytes),
        6 => pull(bytes),
        7 => exec_sync(bytes),
        8 => stop(bytes),
        9 => list_pods(bytes),
        10 => list_containers(bytes),
        _ => list_stats(bytes),
    }
}

fn run_pod(over_sample: bool, v2: bool, bytes: &[u8]) -> Result<(), Status> {
    let sample = cri::RunPodSandboxRequest {
        config: over_sample.then(pod),
        ..cri::RunPodSandboxRequest::default()
    };
    if let Some(given) = message(sample, bytes) {
        spec::fuzz::request(
            &pod_config(given.config)?,
            &container_config(Some(container()))?,
            v2,
        );
    }
    Ok(())
}

fn create_container(over_sample: bool, v2: bool, bytes: &[u8]) -> Result<(), Status> {
    let sample = cri::CreateContainerRequest {
        config: over_sample.then(container),
        pod_sandbox_id: "1".to_owned(),
        ..cri::CreateContainerRequest::default()
    };
    if let Some(given) = message(sample, bytes) {
        required_id("pod_sandbox_id", &given.pod_sandbox_id)?;
        spec::fuzz::request(&PodConfig::default(), &container_config(given.config)?, v2);
    }
    Ok(())
}

fn update_container(v2: bool, bytes: &[u8]) -> Result<(), Status> {
    let Some(given) = message(cri::UpdateContainerResourcesRequest::default(), bytes) else {
        return Ok(());
    };
    required_id("container_id", &given.container_id)?;
    let asked = new_limits("linux", required(At::root("linux"), given.linux)?)?;
    spec::fuzz::limits(&asked, v2);
    Ok(())
}

fn update_pod(v2: bool, bytes: &[u8]) -> Result<(), Status> {
    let Some(given) = message(cri::UpdatePodSandboxResourcesRequest::default(), bytes) else {
        return Ok(());
    };
    for (field, limits) in [("overhead", given.overhead), ("resources", given.resources)] {
        if let Some(limits) = limits {
            spec::fuzz::limits(&new_limits(field, limits)?, v2);
        }
    }
    Ok(())
}

fn exec(bytes: &[u8]) -> Result<(), Status> {
    let Some(given) = message(cri::ExecRequest::default(), bytes) else {
        return Ok(());
    };
    let wanted = sessions::wanted(engine::streams::Wanted {
        tty: given.tty,
        stdin: given.stdin,
        stdout: given.stdout,
        stderr: given.stderr,
    })?;
    assert!(!(wanted.tty && wanted.stderr));
    Ok(())
}

fn port_forward(bytes: &[u8]) -> Result<(), Status> {
    let Some(given) = message(cri::PortForwardRequest::default(), bytes) else {
        return Ok(());
    };
    let ports = sessions::ports(&given.port)?;
    assert_eq!(ports.len(), given.port.len());
    assert!(!ports.contains(&0));
    Ok(())
}

fn pull(bytes: &[u8]) -> Result<(), Status> {
    let Some(given) = message(cri::PullImageRequest::default(), bytes) else {
        return Ok(());
    };
    let name = images::image_name(given.image)?;
    if let Ok(reference) = image::Reference::parse(&name) {
        let normal = reference.to_string();
        assert_eq!(
            image::Reference::parse(&normal).as_ref(),
            Ok(&reference),
            "{name:?} is {normal:?}"
        );
    }
    let auth = given.auth.unwrap_or_default();
    let secret = images::credentials(&auth)?;
    if auth.password.len() > 16 {
        assert!(!format!("{secret:?}").contains(&auth.password));
    }
    Ok(())
}

fn exec_sync(bytes: &[u8]) -> Result<(), Status> {
    if let Some(given) = message(cri::ExecSyncRequest::default(), bytes) {
        required_id("container_id", &given.container_id)?;
        seconds("timeout", given.timeout)?;
    }
    Ok(())
}

fn stop(bytes: &[u8]) -> Result<(), Status> {
    if let Some(given) = message(cri::StopContainerRequest::default(), bytes) {
        required_id("container_id", &given.container_id)?;
        seconds("timeout", given.timeout)?;
    }
    Ok(())
}

fn list_pods(bytes: &[u8]) -> Result<(), Status> {
    if let Some(given) = message(cri::ListPodSandboxRequest::default(), bytes) {
        filter::pods(&World::default(), given.filter)?;
    }
    Ok(())
}

fn list_containers(bytes: &[u8]) -> Result<(), Status> {
    if let Some(given) = message(cri::ListContainersRequest::default(), bytes) {
        filter::containers(&World::default(), given.filter)?;
    }
    Ok(())
}

fn list_stats(bytes: &[u8]) -> Result<(), Status> {
    let world = World::default();
    if let Some(given) = message(cri::ListContainerStatsRequest::default(), bytes) {
        filter::running_containers(&world, given.filter)?;
    }
    if let Some(given) = message(cri::ListPodSandboxStatsRequest::default(), bytes) {
        filter::ready_pods(&world, given.filter)?;
    }
    Ok(())
}

fn pod() -> cri::PodSandboxConfig {
    cri::PodSandboxConfig {
        metadata: Some(cri::PodSandboxMetadata {
            name: "web".to_owned(),
            uid: "1".to_owned(),
            namespace: "default".to_owned(),
            attempt: 0,
        }),
        hostname: "web".to_owned(),
        ..cri::PodSandboxConfig::default()
    }
}

fn container() -> cri::ContainerConfig {
    cri::ContainerConfig {
        metadata: Some(cri::ContainerMetadata {
            name: "main".to_owned(),
            attempt: 0,
        }),
        image: Some(cri::ImageSpec {
            image: "busybox".to_owned(),
            ..cri::ImageSpec::default()
        }),
        ..cri::ContainerConfig::default()
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;

    #[test]
    fn the_samples_are_in_order_and_every_kind_is_taken() {
        take(0, true, false, &[]).unwrap();
        take(1, true, true, &[]).unwrap();
        assert!(take(0, false, false, &[]).is_err());
        for kind in 0..KINDS {
            for how in 0..4 {
                request(&[kind, how]);
            }
        }
    }
}
