//! Lists of everything: in one reply as far as it holds them, and in pieces.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use api::{cri, list::Items};
use pintle_test::{
    cri::{refused, request},
    node::{self, Node},
    places, world,
};
use prost::Message;
use tonic::{Code, Streaming};

/// The pods and containers of a long-lived node: one of each that was real, its record copied under other ids.
///
/// Each pod has an annotation of so many bytes.
pub(crate) async fn many_records(node: &Node, count: usize, note_bytes: usize) -> Result<()> {
    let mut config = node.pod_config("record")?;
    config
        .annotations
        .insert("note".to_owned(), "x".repeat(note_bytes));
    let pod = node.run_pod_as(config).await?;
    let id = node.run(&pod, "record", node::SLEEP).await?;
    node.cri().stop_pod(&pod.id).await?;
    node.stop_server().await?;
    let db = rusqlite::Connection::open(format!("{}/pods.db", places::RUN))?;
    let body = |table: &str, id: &str| -> Result<String> {
        let sql = format!("SELECT body FROM {table} WHERE id = ?1");
        let body: Vec<u8> = db.query_row(&sql, [id], |row| row.get(0))?;
        Ok(String::from_utf8(body)?)
    };
    let (of_pod, of_container) = (body("pods", &pod.id)?, body("containers", &id)?);
    for number in 1..count {
        let (new_pod, new_id) = (
            format!("{number:064x}"),
            format!("{:064x}", number + (1 << 32)),
        );
        let fresh = |body: &str| {
            body.replace(&pod.id, &new_pod)
                .replace(&id, &new_id)
                .replace("\"uid\":\"", &format!("\"uid\":\"{number}-"))
                .into_bytes()
        };
        db.execute(
            "INSERT INTO pods (id, body) VALUES (?1, ?2)",
            rusqlite::params![new_pod, fresh(&of_pod)],
        )?;
        db.execute(
            "INSERT INTO containers (id, pod, body) VALUES (?1, ?2, ?3)",
            rusqlite::params![new_id, new_pod, fresh(&of_container)],
        )?;
    }
    drop(db);
    node.start_server().await
}

/// All items of a stream, and in how many pieces they came.
async fn items<T: Message + Default>(mut stream: Streaming<Items<T>>) -> Result<(Vec<T>, usize)> {
    let (mut items, mut pieces) = (Vec::new(), 0);
    while let Some(piece) = stream.message().await? {
        items.extend(piece.into_vec()?);
        pieces += 1;
    }
    Ok((items, pieces))
}

#[test]
fn streams_carry_what_lists_carry() {
    world!(async |node| {
        many_records(node, 300, 100).await?;
        let (pod, id) = node.sleeper("alive").await?;
        let cri = node.cri();
        let (mut runtime, mut images) = (cri.runtime.clone(), cri.images.clone());

        let all = cri::StreamPodSandboxesRequest { filter: None };
        let stream = runtime.stream_pod_sandboxes(request(all)).await?;
        let (pods, _) = items(stream.into_inner()).await?;
        ensure!(pods == cri.pods(None).await?, "other pods");
        ensure!(pods.len() == 301, "{} pods", pods.len());

        let all = cri::StreamContainersRequest { filter: None };
        let stream = runtime.stream_containers(request(all)).await?;
        let (containers, _) = items(stream.into_inner()).await?;
        ensure!(
            containers == cri.containers(None).await?,
            "other containers"
        );
        ensure!(containers.len() == 301, "{} containers", containers.len());

        let stream = images
            .stream_images(request(cri::StreamImagesRequest { filter: None }))
            .await?;
        let (found, _) = items(stream.into_inner()).await?;
        ensure!(found == cri.all_images().await?, "other images");
        ensure!(found.len() == 1, "{} images", found.len());

        let of_pod = cri::StreamContainersRequest {
            filter: Some(cri::ContainerFilter {
                pod_sandbox_id: pod.id.clone(),
                ..cri::ContainerFilter::default()
            }),
        };
        let stream = runtime.stream_containers(request(of_pod)).await?;
        let (containers, _) = items(stream.into_inner()).await?;
        ensure!(
            containers.len() == 1 && containers[0].id == id,
            "{containers:?}"
        );
        let ready = cri::StreamPodSandboxesRequest {
            filter: Some(cri::PodSandboxFilter {
                state: Some(cri::PodSandboxStateValue {
                    state: cri::PodSandboxState::SandboxReady.into(),
                }),
                ..cri::PodSandboxFilter::default()
            }),
        };
        let stream = runtime.stream_pod_sandboxes(request(ready)).await?;
        let (pods, _) = items(stream.into_inner()).await?;
        ensure!(pods.len() == 1 && pods[0].id == pod.id, "{pods:?}");
        Ok(())
    });
}

#[test]
fn a_list_that_no_client_could_take_is_refused_with_the_way_out() {
    world!(async |node| {
        many_records(node, 100, 200 << 10).await?;
        let cri = node.cri();
        let words = refused(cri.pods(None).await, Code::ResourceExhausted)?;
        ensure!(
            words.contains("100 pods") && words.contains("StreamPodSandboxes"),
            "{words}"
        );
        let mut runtime = cri.runtime.clone();
        let all = cri::StreamPodSandboxesRequest { filter: None };
        let stream = runtime.stream_pod_sandboxes(request(all)).await?;
        let (pods, pieces) = items(stream.into_inner()).await?;
        let ids: BTreeSet<_> = pods.iter().map(|pod| &pod.id).collect();
        ensure!(pods.len() == 100 && ids.len() == 100, "{} pods", pods.len());
        ensure!(pieces > 10, "{pieces} pieces");
        // The end of every test asks for a list of what is to be removed, which is too long here.
        for pod in pods {
            cri.remove_pod(&pod.id).await?;
        }
        Ok(())
    });
}
