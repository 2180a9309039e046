//! The operator's view of the image store: what images take, who uses them, and whether their layers are whole.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use api::admin::{
    DamagedLayer, ImageDetails, ImageLayer, InspectImagesRequest, Mending, PruneImagesRequest,
    PruneImagesResponse, PrunedImage, VerifyImagesRequest, VerifyImagesResponse, VerifyProgress,
    VerifySummary, verify_images_response::News,
};
use futures_util::stream::{self, BoxStream, StreamExt as _};
use image::{Image, Images, Prune, Verified};
use state::ImageId;
use tokio::sync::mpsc;
use tonic::{Request, Response, Status};

use crate::describe;
use crate::errors::image_status;
use crate::face::Face;
use crate::request::Subjects;

/// Most images that one request names.
const NAMES_MAX: usize = 1000;

type Stream<T> = BoxStream<'static, Result<T, Status>>;

impl Face {
    /// The images of these names; all of them if there are none.
    fn named(&self, names: &[String]) -> Result<Vec<Arc<Image>>, Status> {
        if names.is_empty() {
            return Ok(self.images.list());
        }
        if names.len() > NAMES_MAX {
            return Err(Status::invalid_argument(format!(
                "`names` has {} items, at most {NAMES_MAX} are allowed",
                names.len()
            )));
        }
        let found = names.iter().map(|name| {
            let missing = || image::ImageError::NoSuchImage { name: name.clone() };
            let image = self.images.get(name);
            image.ok_or_else(|| image_status(&missing()))
        });
        found.collect()
    }

    /// The containers that use images, by the images' ids.
    fn users(&self) -> HashMap<String, Vec<String>> {
        let mut users: HashMap<String, Vec<String>> = HashMap::new();
        for container in self.engine.world().containers.values() {
            let volumes = container
                .mounts
                .iter()
                .filter_map(|mount| mount.image.as_ref());
            let mut used: HashSet<String> =
                volumes.map(|volume| volume.image_ref.clone()).collect();
            used.insert(container.image_id.to_string());
            for image in used {
                users
                    .entry(image)
                    .or_default()
                    .push(container.id.to_string());
            }
        }
        users
    }

    pub(crate) fn inspect(
        &self,
        request: &Request<InspectImagesRequest>,
    ) -> Result<Response<Stream<ImageDetails>>, Status> {
        let names = &request.get_ref().names;
        if let [name] = &names[..] {
            Subjects::of(request).image(name);
        }
        let images = self.named(names)?;
        let with_config = !names.is_empty();
        let users = Arc::new(self.users());
        let store = self.images.clone();
        // One by one: thousands of images together are more than a message may hold.
        let details = stream::iter(images).then(move |image| {
            let (store, users) = (store.clone(), Arc::clone(&users));
            async move { details(&store, &image, &users, with_config).await }
        });
        Ok(Response::new(details.boxed()))
    }

    pub(crate) async fn prune(
        &self,
        request: PruneImagesRequest,
    ) -> Result<Response<PruneImagesResponse>, Status> {
        let which = if request.all {
            Prune::All
        } else {
            Prune::Nameless
        };
        let face = self.clone();
        // Asked for under the lock on the images, when no more can come.
        let used = std::sync::OnceLock::new();
        let is_used = move |id: &ImageId| {
            let users = used.get_or_init(|| face.users());
            users.contains_key(id.as_str())
        };
        let pruned = self.images.prune(which, request.dry_run, is_used).await;
        let pruned = pruned.map_err(|error| image_status(&error))?;
        Ok(Response::new(PruneImagesResponse {
            images: pruned
                .iter()
                .map(|pruned| PrunedImage {
                    image: Some(describe::image_message(&pruned.image)),
                    freed_bytes: pruned.freed_bytes,
                })
                .collect(),
        }))
    }

    pub(crate) fn verify(
        &self,
        request: &Request<VerifyImagesRequest>,
    ) -> Result<Response<Stream<VerifyImagesResponse>>, Status> {
        let VerifyImagesRequest { names, repair } = request.get_ref();
        if let [name] = &names[..] {
            Subjects::of(request).image(name);
        }
        let chosen = if names.is_empty() {
            None
        } else {
            Some(self.named(names)?)
        };
        let (told, news) = mpsc::channel(8);
        let (images, repair) = (self.images.clone(), *repair);
        // Who does not listen any more ends the work by that.
        let work = tokio::spawn(async move {
            tokio::select! {
                ended = images.verify(chosen, repair, &told) => ended.map(drop),
                () = told.closed() => Ok(()),
            }
        });
        let news = stream::unfold(news, async |mut news| {
            let next = news.recv().await?;
            Some((Ok(message(next)), news))
        });
        let end = stream::once(work).filter_map(async |ended| match ended {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(Err(image_status(&error))),
            Err(_) => Some(Err(Status::internal("a bug in pintle: see its log"))),
        });
        Ok(Response::new(news.chain(end).boxed()))
    }
}

/// All about an image. `users` are the containers that have it, by the image's id.
async fn details(
    store: &Images,
    image: &Arc<Image>,
    users: &HashMap<String, Vec<String>>,
    with_config: bool,
) -> Result<ImageDetails, Status> {
    let disk = store.disk(image);
    let layers = store.layers(image).into_iter().map(|layer| ImageLayer {
        chain_id: layer.row.chain.to_string(),
        diff_id: layer.row.diff.to_string(),
        size_bytes: layer.row.size_bytes,
        inodes: layer.row.inodes,
        shared: layer.is_shared,
        store: path_of(layer.store.as_deref()),
    });
    let config = if with_config {
        let document = store.document(image).await;
        let document = document.map_err(|error| image_status(&error))?;
        String::from_utf8_lossy(&document).into_owned()
    } else {
        String::new()
    };
    Ok(ImageDetails {
        layers: layers.collect(),
        used_bytes: disk.used_bytes,
        reclaimable_bytes: disk.reclaimable_bytes,
        manifest_digest: image
            .manifest_digest
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default(),
        containers: users.get(image.id.as_str()).cloned().unwrap_or_default(),
        config,
        store: path_of(image.store.as_deref()),
        image: Some(describe::image_message(image)),
    })
}

/// The directory of an additional store; empty for our own.
fn path_of(store: Option<&Path>) -> String {
    store.map_or_else(String::new, |store| store.display().to_string())
}

fn message(verified: Verified) -> VerifyImagesResponse {
    let news = match verified {
        Verified::Layer { chain, done, total } => News::Progress(VerifyProgress {
            chain_id: chain.to_string(),
            done,
            total,
        }),
        Verified::Damaged(layer) => {
            let (mending, reason) = match layer.mended {
                None => (Mending::NotAsked, String::new()),
                Some(Ok(())) => (Mending::Mended, String::new()),
                Some(Err(error)) => (Mending::Failed, engine::error::in_full(&error)),
            };
            News::Damaged(DamagedLayer {
                chain_id: layer.chain.to_string(),
                store: path_of(layer.store.as_deref()),
                images: layer.images,
                findings: layer.findings,
                mending: mending.into(),
                reason,
            })
        }
        Verified::End(summary) => News::Summary(VerifySummary {
            layers: summary.layers,
            damaged: summary.damaged,
            mended: summary.mended,
        }),
    };
    VerifyImagesResponse { news: Some(news) }
}
