//! From an archive to committed images. Each image is all or nothing; those before a bad one stay.

use std::io::{self, Read};
use std::sync::Arc;

use futures_util::stream::{self, StreamExt, TryStreamExt};
use state::{ChainId, DiffId, ImageId};
use storage::Compression;
use tokio::runtime::Handle;

use crate::artifact::ImageKind;
use crate::catalogue::names_of;
use crate::error::ImageError;
use crate::hashing::Hasher;
use crate::image::{Image, ParsedConfig};
use crate::pull::Prepared;
use crate::reference::Reference;
use crate::store::{Inner, NewImage};

use super::layout::{self, ArchivedImage, ArchivedLayer};
use super::spool::{self, Source};
use super::tape::Tape;

/// Imports all images of an archive.
pub(super) async fn run(
    inner: &Arc<Inner>,
    source: Source,
    names: Vec<Reference>,
) -> Result<Vec<Arc<Image>>, ImageError> {
    let runtime = Handle::current();
    let mut archived = blocking({
        let config = Arc::clone(&inner.config);
        move || {
            let file = spool::open(
                source,
                &config.temp_dir,
                config.limits.archive_bytes,
                &runtime,
            )?;
            let tape = Tape::read(file)?;
            layout::read(&tape, &config.platform, &config.limits)
        }
    })
    .await?;
    if !names.is_empty() {
        let [only] = &mut archived[..] else {
            return Err(ImageError::unsupported(
                "naming the images of the archive",
                format!(
                    "it holds {} of them; import it without names",
                    archived.len()
                ),
            ));
        };
        only.names = names;
    }
    let mut images = Vec::with_capacity(archived.len());
    for image in archived {
        images.push(import_one(inner, image).await?);
    }
    inner.trim_memory();
    Ok(images)
}

async fn import_one(inner: &Arc<Inner>, archived: ArchivedImage) -> Result<Arc<Image>, ImageError> {
    let what = archived.what;
    let (raw_config, config_digest, config) = blocking({
        let (part, limit) = (archived.config, inner.config.limits.config_bytes);
        let what = format!("configuration of {what}");
        move || {
            let (bytes, digest) = part.read(&what, limit)?;
            let parsed = ParsedConfig::parse(&bytes, &what)?;
            Ok((bytes, digest, parsed))
        }
    })
    .await?;
    config.check_platform(&inner.config.platform, &what)?;
    if config.diffs.len() != archived.layers.len() {
        return Err(ImageError::corrupt(
            what,
            format!(
                "it has {} layers, its configuration {}",
                archived.layers.len(),
                config.diffs.len()
            ),
        ));
    }
    let chains = config.chains();
    // From here on, what is on the disk stays there.
    let pins = inner.table.pin(&chains);
    let wanted: Vec<Wanted> = archived
        .layers
        .into_iter()
        .enumerate()
        .map(|(position, layer)| Wanted {
            layer,
            diff: config.diffs[position].clone(),
            chain: chains[position].clone(),
            parent: position.checked_sub(1).map(|below| chains[below].clone()),
        })
        .filter(|wanted| !inner.table.is_present(&wanted.chain))
        .collect();
    let prepared = stream::iter(wanted)
        .map(|wanted| {
            let inner = Arc::clone(inner);
            blocking(move || unpack(&inner, wanted))
        })
        .buffered(inner.config.parallel_layers_per_pull.max(1))
        .try_collect()
        .await?;
    let references = archived
        .names
        .iter()
        .flat_map(|name| names_of(name, archived.digest.as_ref()))
        .collect();
    inner
        .commit(NewImage {
            id: ImageId::from(config_digest),
            kind: ImageKind::Container,
            manifest_digest: archived.manifest_digest,
            raw_config,
            config: config.run,
            pins,
            prepared,
            seal: None,
            references,
        })
        .await
}

/// A layer of an archive and where it belongs.
struct Wanted {
    layer: ArchivedLayer,
    diff: DiffId,
    chain: ChainId,
    parent: Option<ChainId>,
}

/// Unpacks and verifies one layer. Blocks.
fn unpack(inner: &Inner, wanted: Wanted) -> Result<Arc<Prepared>, ImageError> {
    let what = match &wanted.layer.digest {
        Some(digest) => format!("layer {digest}"),
        None => format!("the layer with diff id {}", wanted.diff),
    };
    let unreadable = |error| ImageError::file(format!("read {what} of the archive"), error);
    inner.count_download(wanted.layer.content.size());
    let mut hashing = HashingReader {
        content: wanted.layer.content,
        hasher: wanted
            .layer
            .digest
            .as_ref()
            .map(|digest| Hasher::like(Some(digest))),
    };
    let unpacked = inner
        .layers
        .unpack(
            &mut hashing,
            Compression::Detect,
            &inner.config.limits.unpack,
        )
        .map_err(|error| ImageError::storage(&what, error))?;
    io::copy(&mut hashing, &mut io::sink()).map_err(unreadable)?;
    if let (Some(expected), Some(hasher)) = (&wanted.layer.digest, hashing.hasher) {
        let found = hasher.finish();
        if found != *expected {
            return Err(ImageError::corrupt(
                what,
                format!("its digest in the archive is {found}"),
            ));
        }
    }
    if unpacked.diff != wanted.diff {
        return Err(ImageError::corrupt(
            what,
            format!(
                "its content has the diff id {}, the image's configuration says {}",
                unpacked.diff, wanted.diff
            ),
        ));
    }
    Ok(Arc::new(Prepared::new(
        wanted.chain,
        wanted.parent,
        unpacked,
    )))
}

/// Hashes what is read through it.
struct HashingReader<R> {
    content: R,
    hasher: Option<Hasher>,
}

impl<R: Read> Read for HashingReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.content.read(buffer)?;
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&buffer[..count]);
        }
        Ok(count)
    }
}

/// Runs what blocks on a thread for it.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ImageError> + Send + 'static,
) -> Result<T, ImageError> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|_| Err(ImageError::interrupted("work on an archive")))
}
