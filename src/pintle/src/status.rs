//! `pintle status`: what a running server is doing, from the socket that kubelet uses.

use std::{collections::BTreeMap, fmt::Write as _, path::Path, time::Duration};

use api::{
    admin::{ListPullsRequest, ListPullsResponse, admin_client::AdminClient},
    cri::{
        self, image_service_client::ImageServiceClient,
        runtime_service_client::RuntimeServiceClient,
    },
};
use serde::Deserialize;
use tonic::transport::Channel;

use crate::{
    amount::{age, size},
    args::StatusArguments,
    client::{self, Asked, ClientError},
    exit::{Exit, Failure, OrExit},
    image::progress,
};

/// Columns of a line about a pull.
const LINE: usize = 160;

/// Prints the status. Like `check`, it passes only where pods can be run.
pub(crate) async fn run(
    config_file: Option<&Path>,
    arguments: &StatusArguments,
) -> Result<Exit, Failure> {
    let socket = client::socket(&arguments.connected, config_file).or_exit(Exit::Usage)?;
    let channel = client::connect(&socket).await.or_exit(Exit::Unavailable)?;
    let seen = Seen::ask(channel).await.or_exit(Exit::Unavailable)?;
    if arguments.output.json {
        println!("{:#}", seen.json());
    } else {
        print!("{}", seen.text());
    }
    Ok(if seen.is_ready() {
        Exit::Passed(0)
    } else {
        Exit::CheckFailed
    })
}

/// What the server tells.
#[derive(Debug, Default)]
struct Seen {
    version: String,
    conditions: Vec<cri::RuntimeCondition>,
    node: NodeInfo,
    /// Pods by state.
    pods: BTreeMap<&'static str, usize>,
    /// Containers by state.
    containers: BTreeMap<&'static str, usize>,
    images: usize,
    image_store: Vec<cri::FilesystemUsage>,
    pulls: ListPullsResponse,
}

/// What the verbose `Status` tells under `node`; more than this is not looked at.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct NodeInfo {
    warnings: Vec<String>,
    deferred_undos: u64,
    /// Oldest first.
    jobs: Vec<Job>,
}

/// An operation under way.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Job {
    operation: String,
    key: String,
    stage: String,
    age_seconds: f64,
}

impl Seen {
    async fn ask(channel: Channel) -> Result<Self, ClientError> {
        let mut runtime = RuntimeServiceClient::new(channel.clone())
            .max_decoding_message_size(api::MAX_MESSAGE_BYTES);
        let mut images = ImageServiceClient::new(channel.clone())
            .max_decoding_message_size(api::MAX_MESSAGE_BYTES);
        let mut admin = AdminClient::new(channel).max_decoding_message_size(api::MAX_MESSAGE_BYTES);
        let version = runtime.version(cri::VersionRequest::default()).await;
        let version = version.asked("Version")?;
        let status = runtime.status(cri::StatusRequest { verbose: true }).await;
        let mut status = status.asked("Status")?;
        let node = status.info.remove("node").unwrap_or_default();
        // Another version's server may tell other things.
        let node = serde_json::from_str(&node).unwrap_or_default();
        let pods = runtime.list_pod_sandbox(cri::ListPodSandboxRequest { filter: None });
        let pods = decoded("ListPodSandbox", pods.await.asked("ListPodSandbox")?)?;
        let containers = runtime.list_containers(cri::ListContainersRequest { filter: None });
        let containers = decoded("ListContainers", containers.await.asked("ListContainers")?)?;
        let found = images.list_images(cri::ListImagesRequest { filter: None });
        let found: Vec<cri::Image> = decoded("ListImages", found.await.asked("ListImages")?)?;
        let disk = images.image_fs_info(cri::ImageFsInfoRequest {}).await;
        let pulls = admin.list_pulls(ListPullsRequest {}).await;
        Ok(Self {
            version: version.runtime_version,
            conditions: status.status.unwrap_or_default().conditions,
            node,
            pods: counted(pods.iter().map(|pod: &cri::PodSandbox| match pod.state() {
                cri::PodSandboxState::SandboxReady => "ready",
                cri::PodSandboxState::SandboxNotready => "not ready",
            })),
            containers: counted(containers.iter().map(|container: &cri::Container| {
                match container.state() {
                    cri::ContainerState::ContainerCreated => "created",
                    cri::ContainerState::ContainerRunning => "running",
                    cri::ContainerState::ContainerExited => "exited",
                    cri::ContainerState::ContainerUnknown => "unknown",
                }
            })),
            images: found.len(),
            image_store: disk.asked("ImageFsInfo")?.image_filesystems,
            pulls: pulls.asked("ListPulls")?,
        })
    }

    fn is_ready(&self) -> bool {
        !self.conditions.is_empty() && self.conditions.iter().all(|found| found.status)
    }

    fn text(&self) -> String {
        let mut text = String::new();
        let mut line = |head: &str, words: &str| {
            // Writing to a String cannot fail. A server's words are one line each, whatever they quote.
            let words: String = words.chars().filter(|c| !c.is_control()).collect();
            let _ = writeln!(text, "{head:<11} {words}");
        };
        line("pintle", &self.version);
        for found in &self.conditions {
            let name = found.r#type.trim_end_matches("Ready").to_lowercase();
            if found.status {
                line(&name, "ready");
            } else {
                line(
                    &name,
                    &format!("not ready: {}: {}", found.reason, found.message),
                );
            }
        }
        line("pods", &in_words(&self.pods));
        line("containers", &in_words(&self.containers));
        let stores = self.image_store.iter().map(|store| {
            let place = store.fs_id.as_ref().map_or("", |id| id.mountpoint.as_str());
            let bytes = store.used_bytes.map_or(0, |bytes| bytes.value);
            format!(", {} in {place}", size(bytes))
        });
        line(
            "images",
            &format!("{}{}", self.images, stores.collect::<String>()),
        );
        line("jobs", &format!("{} under way", self.node.jobs.len()));
        for job in &self.node.jobs {
            let since = age(Duration::try_from_secs_f64(job.age_seconds).unwrap_or_default());
            let words = format!("{} {}: {}, for {since}", job.operation, job.key, job.stage);
            line("", &words);
        }
        line("pulls", &self.pulls_in_words());
        for pull in &self.pulls.pulls {
            let words = format!("{} {}", pull.reference, progress::line(pull, LINE));
            line("", &words);
        }
        if self.node.deferred_undos > 0 {
            let words = format!(
                "{} things could not be taken apart yet, which is tried again",
                self.node.deferred_undos
            );
            line("undo", &words);
        }
        for warning in &self.node.warnings {
            line("warning", warning);
        }
        text
    }

    /// Pulls since the server's start.
    fn pulls_in_words(&self) -> String {
        let totals = self.pulls.totals.clone().unwrap_or_default();
        let mut text = format!(
            "{} under way, {} done, {} failed",
            self.pulls.pulls.len(),
            totals.succeeded,
            totals.failed.values().sum::<u64>(),
        );
        let mut failed: Vec<String> = totals
            .failed
            .iter()
            .map(|(kind, count)| format!("{count} {kind}"))
            .collect();
        failed.sort();
        if !failed.is_empty() {
            let _ = write!(text, " ({})", failed.join(", "));
        }
        let _ = write!(
            text,
            ", {} given up, {} fetched",
            totals.cancelled,
            size(totals.bytes_fetched)
        );
        text
    }

    fn json(&self) -> serde_json::Value {
        let totals = self.pulls.totals.clone().unwrap_or_default();
        let conditions: Vec<_> = self
            .conditions
            .iter()
            .map(|found| {
                serde_json::json!({
                    "type": found.r#type, "status": found.status, "reason": found.reason, "message": found.message,
                })
            })
            .collect();
        let jobs: Vec<_> = self
            .node
            .jobs
            .iter()
            .map(|job| {
                serde_json::json!({
                    "operation": job.operation, "key": job.key, "stage": job.stage, "ageSeconds": job.age_seconds,
                })
            })
            .collect();
        let stores: Vec<_> = self
            .image_store
            .iter()
            .map(|store| {
                serde_json::json!({
                    "mountpoint": store.fs_id.as_ref().map(|id| &id.mountpoint),
                    "usedBytes": store.used_bytes.as_ref().map(|bytes| bytes.value),
                    "inodes": store.inodes_used.as_ref().map(|inodes| inodes.value),
                })
            })
            .collect();
        serde_json::json!({
            "version": self.version,
            "ready": self.is_ready(),
            "conditions": conditions,
            "pods": self.pods,
            "containers": self.containers,
            "images": self.images,
            "imageStores": stores,
            "jobs": jobs,
            "pulls": {
                "underWay": self.pulls.pulls.iter().map(progress::json).collect::<Vec<_>>(),
                "succeeded": totals.succeeded,
                "failed": totals.failed.into_iter().collect::<BTreeMap<_, _>>(),
                "cancelled": totals.cancelled,
                "seconds": totals.seconds,
                "bytesFetched": totals.bytes_fetched,
                "bytesResumed": totals.bytes_resumed,
                "breaks": totals.breaks,
                "stalls": totals.stalls,
                "hostChanges": totals.host_changes,
            },
            "deferredUndos": self.node.deferred_undos,
            "warnings": self.node.warnings,
        })
    }
}

/// The items of a list reply.
fn decoded<T: prost::Message + Default>(
    step: &'static str,
    items: api::list::Items<T>,
) -> Result<Vec<T>, ClientError> {
    let lacks = "readable items";
    items
        .into_vec()
        .map_err(|_| ClientError::Incomplete { step, lacks })
}

fn counted(states: impl Iterator<Item = &'static str>) -> BTreeMap<&'static str, usize> {
    let mut counts = BTreeMap::new();
    for state in states {
        *counts.entry(state).or_default() += 1;
    }
    counts
}

fn in_words(counts: &BTreeMap<&'static str, usize>) -> String {
    if counts.is_empty() {
        return "none".to_owned();
    }
    let words: Vec<String> = counts
        .iter()
        .map(|(state, count)| format!("{count} {state}"))
        .collect();
    words.join(", ")
}

#[cfg(test)]
mod tests {
    use api::admin::{LayerProgress, LayerState, PullProgress, PullTotals};

    use super::*;

    fn busy() -> Seen {
        let condition = |name: &str, status, reason: &str, message: &str| cri::RuntimeCondition {
            r#type: name.to_owned(),
            status,
            reason: reason.to_owned(),
            message: message.to_owned(),
        };
        Seen {
            version: "1.2.3".to_owned(),
            conditions: vec![
                condition("RuntimeReady", true, "", ""),
                condition(
                    "NetworkReady",
                    false,
                    "NoNetwork",
                    "no configuration in\n/etc/cni",
                ),
            ],
            node: NodeInfo {
                warnings: vec!["no SELinux".to_owned()],
                deferred_undos: 2,
                jobs: vec![Job {
                    operation: "RunPodSandbox".to_owned(),
                    key: "default/web".to_owned(),
                    stage: "attaching the network".to_owned(),
                    age_seconds: 75.5,
                }],
            },
            pods: counted(["ready", "not ready", "ready"].into_iter()),
            containers: BTreeMap::new(),
            images: 3,
            image_store: vec![cri::FilesystemUsage {
                fs_id: Some(cri::FilesystemIdentifier {
                    mountpoint: "/store".to_owned(),
                }),
                used_bytes: Some(cri::UInt64Value { value: 3 << 20 }),
                ..cri::FilesystemUsage::default()
            }],
            pulls: ListPullsResponse {
                pulls: vec![PullProgress {
                    reference: "r.example/app:1".to_owned(),
                    since_unix_ns: 0,
                    layers: vec![LayerProgress {
                        size: 2 << 20,
                        fetched: 1 << 20,
                        state: LayerState::Downloading.into(),
                        bytes_per_second: 4096,
                        host: "r.example".to_owned(),
                        ..LayerProgress::default()
                    }],
                }],
                totals: Some(PullTotals {
                    succeeded: 4,
                    failed: [("unavailable".to_owned(), 1), ("not_found".to_owned(), 2)].into(),
                    bytes_fetched: 2048,
                    ..PullTotals::default()
                }),
            },
        }
    }

    #[test]
    fn a_busy_node_in_words() {
        assert_eq!(
            busy().text(),
            "pintle      1.2.3\n\
             runtime     ready\n\
             network     not ready: NoNetwork: no configuration in/etc/cni\n\
             pods        1 not ready, 2 ready\n\
             containers  none\n\
             images      3, 3.0 MiB in /store\n\
             jobs        1 under way\n\
             \x20           RunPodSandbox default/web: attaching the network, for 1 min 15 s\n\
             pulls       1 under way, 4 done, 3 failed (1 unavailable, 2 not_found), 0 given up, 2.0 KiB fetched\n\
             \x20           r.example/app:1 [############------------]  50%  1.0 MiB of 2.0 MiB  4.0 KiB/s  0 of 1 layers  r.example\n\
             undo        2 things could not be taken apart yet, which is tried again\n\
             warning     no SELinux\n"
        );
    }

    #[test]
    fn a_busy_node_in_json() {
        let json = busy().json();
        assert_eq!(json["ready"], false);
        assert_eq!(json["pods"]["ready"], 2);
        assert_eq!(json["jobs"][0]["stage"], "attaching the network");
        assert_eq!(
            json["pulls"]["underWay"][0]["layers"][0]["fetchedBytes"],
            1 << 20
        );
        assert_eq!(json["pulls"]["failed"]["not_found"], 2);
        assert_eq!(json["imageStores"][0]["usedBytes"], 3 << 20);
    }

    #[test]
    fn a_node_is_ready_when_everything_is() {
        let mut seen = busy();
        assert!(!seen.is_ready());
        seen.conditions[1].status = true;
        assert!(seen.is_ready());
        seen.conditions.clear();
        assert!(!seen.is_ready(), "an answer that says nothing");
    }
}
