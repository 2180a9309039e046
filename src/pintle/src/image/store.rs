//! The care of the store: `inspect`, `remove`, `prune`, `verify`.

use std::fmt::Write as _;

use api::{
    admin::{
        DamagedLayer, ImageDetails, InspectImagesRequest, Mending, PruneImagesRequest, PrunedImage,
        VerifyImagesRequest, VerifySummary, admin_client::AdminClient,
        verify_images_response::News,
    },
    cri::{self, image_service_client::ImageServiceClient},
};
use serde_json::{Value, json as json_of};
use tonic::{Streaming, transport::Channel};

use super::list::{names_of, store};
use crate::{
    amount::size,
    client::{Asked, ClientError},
    exit::{Exit, Failure, OrExit},
};

/// Layers of which the store is not what was pulled.
#[derive(Debug, thiserror::Error)]
#[error("{count} of {of} layers are damaged; {mend}")]
struct StillDamaged {
    count: u32,
    of: u32,
    mend: &'static str,
}

fn admin(channel: Channel) -> AdminClient<Channel> {
    AdminClient::new(channel).max_decoding_message_size(api::MAX_MESSAGE_BYTES)
}

async fn next<T>(stream: &mut Streaming<T>, step: &'static str) -> Result<Option<T>, ClientError> {
    stream
        .message()
        .await
        .map_err(|status| ClientError::Refused {
            step,
            status: Box::new(status),
        })
}

/// All about these images; about all of them if none is named.
pub(super) async fn details(
    channel: Channel,
    names: &[String],
) -> Result<Vec<ImageDetails>, ClientError> {
    const STEP: &str = "InspectImages";
    let request = InspectImagesRequest {
        names: names.to_vec(),
    };
    let mut stream = admin(channel).inspect_images(request).await.asked(STEP)?;
    let mut all = Vec::new();
    while let Some(details) = next(&mut stream, STEP).await? {
        if details.image.is_none() {
            return Err(ClientError::Incomplete {
                step: STEP,
                lacks: "image",
            });
        }
        all.push(details);
    }
    Ok(all)
}

/// An image as an object.
pub(super) fn json(details: &ImageDetails) -> Value {
    let image = details.image.clone().unwrap_or_default();
    let layers: Vec<Value> = details
        .layers
        .iter()
        .map(|layer| {
            json_of!({
                "chainId": layer.chain_id,
                "diffId": layer.diff_id,
                "sizeBytes": layer.size_bytes,
                "inodes": layer.inodes,
                "shared": layer.shared,
                "store": store(&layer.store),
            })
        })
        .collect();
    json_of!({
        "id": image.id,
        "repoTags": image.repo_tags,
        "repoDigests": image.repo_digests,
        "manifestDigest": details.manifest_digest,
        "pinned": image.pinned,
        "store": store(&details.store),
        "sizeBytes": image.size,
        "usedBytes": details.used_bytes,
        "reclaimableBytes": details.reclaimable_bytes,
        "layers": layers,
        "containers": details.containers,
        "config": serde_json::from_str::<Value>(&details.config).unwrap_or(Value::Null),
    })
}

/// An image for people. What the image's author wrote is shown by `--json` only, where it cannot pass for ours.
pub(super) fn text(details: &ImageDetails) -> String {
    let image = details.image.clone().unwrap_or_default();
    let mut text = String::new();
    let mut line = |key: &str, value: &str| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{key:<13} {value}");
    };
    line("id", &image.id);
    for name in image.repo_tags.iter().chain(&image.repo_digests) {
        line("name", name);
    }
    if !details.manifest_digest.is_empty() {
        line("manifest", &details.manifest_digest);
    }
    if let Some(store) = store(&details.store) {
        line("store", store);
    }
    line("pinned", if image.pinned { "yes" } else { "no" });
    line("on the disk", &size(details.used_bytes));
    line("reclaimable", &size(details.reclaimable_bytes));
    for layer in &details.layers {
        let shared = if layer.shared { ", shared" } else { "" };
        let store = match store(&layer.store) {
            Some(store) => format!(", in {store}"),
            None => String::new(),
        };
        let words = format!(
            "{}  {}{shared}{store}",
            layer.chain_id,
            size(layer.size_bytes)
        );
        line("layer", &words);
    }
    for container in &details.containers {
        line("container", container);
    }
    text
}

/// Removes images. Says which ones; one that is not there is an error, after the others were removed.
pub(super) async fn remove(channel: Channel, images: &[String]) -> Result<(), ClientError> {
    let mut client = ImageServiceClient::new(channel);
    let mut absent = None;
    for name in images {
        let spec = cri::ImageSpec {
            image: name.clone(),
            ..cri::ImageSpec::default()
        };
        let request = cri::ImageStatusRequest {
            image: Some(spec.clone()),
            verbose: false,
        };
        let status = client.image_status(request).await.asked("ImageStatus")?;
        let Some(found) = status.image else {
            let message = format!("no image {name} on this node");
            absent.get_or_insert_with(|| ClientError::Refused {
                step: "remove",
                status: Box::new(tonic::Status::not_found(message)),
            });
            continue;
        };
        let request = cri::RemoveImageRequest { image: Some(spec) };
        client.remove_image(request).await.asked("RemoveImage")?;
        for name in names_of(&found) {
            println!("{name}");
        }
    }
    absent.map_or(Ok(()), Err)
}

/// Removes what nobody uses.
pub(super) async fn prune(
    channel: Channel,
    all: bool,
    dry_run: bool,
) -> Result<Vec<PrunedImage>, ClientError> {
    let request = PruneImagesRequest { all, dry_run };
    let answer = admin(channel).prune_images(request).await;
    Ok(answer.asked("PruneImages")?.images)
}

fn freed(pruned: &[PrunedImage]) -> u64 {
    pruned.iter().map(|it| it.freed_bytes).sum()
}

/// What was removed, as an object.
pub(super) fn pruned_json(pruned: &[PrunedImage]) -> Value {
    let images: Vec<Value> = pruned
        .iter()
        .map(|it| {
            let image = it.image.clone().unwrap_or_default();
            json_of!({
                "id": image.id,
                "repoTags": image.repo_tags,
                "repoDigests": image.repo_digests,
                "freedBytes": it.freed_bytes,
            })
        })
        .collect();
    json_of!({ "images": images, "freedBytes": freed(pruned) })
}

/// What was removed, a line per name, and what that gave back.
pub(super) fn pruned_text(pruned: &[PrunedImage], dry_run: bool) -> String {
    let mut text = String::new();
    for image in pruned.iter().filter_map(|it| it.image.as_ref()) {
        for name in names_of(image) {
            text.push_str(name);
            text.push('\n');
        }
    }
    let given = if dry_run { "would be" } else { "are" };
    // Writing to a String cannot fail.
    let _ = writeln!(text, "{} {given} free", size(freed(pruned)));
    text
}

/// Has layers verified, and tells what is found as it is found.
pub(super) async fn verify(
    channel: Channel,
    images: &[String],
    repair: bool,
    json: bool,
) -> Result<(), Failure> {
    const STEP: &str = "VerifyImages";
    let request = VerifyImagesRequest {
        names: images.to_vec(),
        repair,
    };
    let mut stream = admin(channel)
        .verify_images(request)
        .await
        .asked(STEP)
        .or_exit(Exit::Unavailable)?;
    let mut damaged = Vec::new();
    let mut end = None;
    while let Some(answer) = next(&mut stream, STEP).await.or_exit(Exit::Unavailable)? {
        match answer.news {
            Some(News::Damaged(layer)) if json => damaged.push(damaged_json(&layer)),
            Some(News::Damaged(layer)) => print!("{}", damaged_text(&layer)),
            Some(News::Summary(summary)) => end = Some(summary),
            Some(News::Progress(_)) | None => {}
        }
    }
    let incomplete = ClientError::Incomplete {
        step: STEP,
        lacks: "end",
    };
    let summary = end.ok_or(incomplete).or_exit(Exit::Unavailable)?;
    if json {
        let all = json_of!({
            "layers": summary.layers,
            "damaged": summary.damaged,
            "mended": summary.mended,
            "findings": damaged,
        });
        println!("{all:#}");
    } else {
        println!(
            "{} layers, {} damaged, {} mended",
            summary.layers, summary.damaged, summary.mended
        );
    }
    verdict(summary, repair).or_exit(Exit::CheckFailed)
}

fn verdict(summary: VerifySummary, repair: bool) -> Result<(), StillDamaged> {
    let count = summary.damaged.saturating_sub(summary.mended);
    if count == 0 {
        return Ok(());
    }
    Err(StillDamaged {
        count,
        of: summary.layers,
        mend: if repair {
            "remove their images, and pull or import them again"
        } else {
            "--repair fetches them again"
        },
    })
}

fn damaged_json(layer: &DamagedLayer) -> Value {
    json_of!({
        "chainId": layer.chain_id,
        "store": store(&layer.store),
        "images": layer.images,
        "findings": layer.findings,
        "mended": layer.mending() == Mending::Mended,
        "reason": layer.reason,
    })
}

fn damaged_text(layer: &DamagedLayer) -> String {
    let mut text = format!("layer {} is damaged", layer.chain_id);
    if !layer.images.is_empty() {
        let _ = write!(text, ", of {}", layer.images.join(", "));
    }
    if let Some(store) = store(&layer.store) {
        let _ = write!(text, ", in {store}");
    }
    text.push('\n');
    for finding in &layer.findings {
        // Names of files are the image's: they must not write on the terminal what they like.
        let _ = writeln!(text, "    {}", finding.escape_debug());
    }
    match layer.mending() {
        Mending::NotAsked => {}
        Mending::Mended => text.push_str("    it was fetched again and is whole\n"),
        Mending::Failed => {
            let _ = writeln!(text, "    it stays so: {}", layer.reason);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damage_in_words() {
        let layer = DamagedLayer {
            chain_id: "sha256:1".to_owned(),
            images: vec!["r.example/a:1".to_owned()],
            findings: vec!["/x\u{1b}[2J is not there".to_owned()],
            mending: Mending::Failed.into(),
            reason: "registry r.example is unavailable".to_owned(),
            store: "/srv/images".to_owned(),
        };
        assert_eq!(
            damaged_text(&layer),
            "layer sha256:1 is damaged, of r.example/a:1, in /srv/images\n    /x\\u{1b}[2J is not there\n    \
             it stays so: registry r.example is unavailable\n"
        );
    }

    #[test]
    fn what_is_left_damaged_is_an_error() {
        let summary = |damaged, mended| VerifySummary {
            layers: 9,
            damaged,
            mended,
        };
        assert!(verdict(summary(0, 0), false).is_ok());
        assert!(verdict(summary(2, 2), true).is_ok());
        let error = verdict(summary(3, 1), true).err().map(|it| it.to_string());
        assert!(error.is_some_and(|it| it.starts_with("2 of 9 layers")));
    }
}
