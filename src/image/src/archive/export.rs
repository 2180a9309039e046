//! From an image to an archive, one layer at a time: a layer's tar goes to a nameless file first, since its length and
//! digest stand before its bytes.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::sync::Arc;

use bytes::Bytes;
use serde_json::{Value, json};
use state::{ChainId, DiffId, Digest};
use tokio::io::AsyncWrite;
use tokio::runtime::Handle;
use tokio_util::io::SyncIoBridge;

use crate::error::ImageError;
use crate::image::{Image, ParsedConfig};
use crate::layers::ImageLease;
use crate::manifest::{OCI_CONFIG, OCI_INDEX, OCI_LAYER_TAR, OCI_MANIFEST};
use crate::store::Inner;

use super::ArchiveFormat;
use super::import::blocking;
use super::layout::{REF_ANNOTATION, blob_path};
use super::spool::nameless;

/// How much is copied at a time.
const COPY_BYTES: usize = 256 * 1024;

/// What is written.
pub(super) struct Source {
    pub(super) image: Arc<Image>,
    /// Its configuration.
    pub(super) document: Bytes,
    /// Keeps its layers, until the last of them is written.
    pub(super) _lease: ImageLease,
}

/// Writes an image under the given tags.
pub(super) async fn run(
    inner: &Arc<Inner>,
    source: Source,
    tags: Vec<String>,
    writer: impl AsyncWrite + Send + Unpin + 'static,
    format: ArchiveFormat,
) -> Result<(), ImageError> {
    let runtime = Handle::current();
    let inner = Arc::clone(inner);
    blocking(move || {
        let mut writer = SyncIoBridge::new_with_handle(writer, runtime);
        write(&inner, &source, &tags, &mut writer, format)?;
        drop(source);
        writer
            .shutdown()
            .map_err(|error| ImageError::file("write the archive", error))
    })
    .await
}

fn write(
    inner: &Inner,
    source: &Source,
    tags: &[String],
    writer: &mut impl Write,
    format: ArchiveFormat,
) -> Result<(), ImageError> {
    let mut archive = Archive {
        tar: tar::Builder::new(writer),
        written: Vec::new(),
    };
    archive.put("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;

    let mut layers = Vec::with_capacity(source.image.layers.len());
    for chain in &source.image.layers {
        let (file, digest, size) = tar_of(inner, chain)?;
        archive.put_file(&blob_path(&digest), file, size)?;
        layers.push((digest, size));
    }
    let config = config_for(source, &layers)?;
    let config_digest = Digest::sha256_of(&config);
    archive.put(&blob_path(&config_digest), &config)?;
    let manifest = json_bytes(&json!({
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": {"mediaType": OCI_CONFIG, "digest": config_digest, "size": config.len()},
        "layers": layers.iter().map(|(digest, size)| json!({
            "mediaType": OCI_LAYER_TAR, "digest": digest, "size": size,
        })).collect::<Vec<_>>(),
    }))?;
    let manifest_digest = Digest::sha256_of(&manifest);
    archive.put(&blob_path(&manifest_digest), &manifest)?;

    let entry = |annotations: Option<Value>| {
        let mut entry = json!({
            "mediaType": OCI_MANIFEST, "digest": manifest_digest, "size": manifest.len(),
        });
        if let Some(annotations) = annotations {
            entry["annotations"] = annotations;
        }
        entry
    };
    let mut entries: Vec<Value> = tags
        .iter()
        .map(|tag| {
            entry(Some(
                json!({REF_ANNOTATION: tag, "io.containerd.image.name": tag}),
            ))
        })
        .collect();
    if entries.is_empty() {
        entries.push(entry(None));
    }
    if format == ArchiveFormat::Docker {
        let docker = json_bytes(&json!([{
            "Config": blob_path(&config_digest),
            "RepoTags": tags,
            "Layers": layers.iter().map(|(digest, _)| blob_path(digest)).collect::<Vec<_>>(),
        }]))?;
        archive.put("manifest.json", &docker)?;
    }
    let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries});
    archive.put("index.json", &json_bytes(&index)?)?;
    archive.finish()
}

/// A layer's tar in a nameless file, its digest and its length.
fn tar_of(inner: &Inner, chain: &ChainId) -> Result<(File, Digest, u64), ImageError> {
    let what = format!("export of layer {chain}");
    let unusable = |error| ImageError::file(what.clone(), error);
    let mut file = nameless(&inner.config.temp_dir)?;
    let diff = inner
        .layers
        .export_layer(chain, io::BufWriter::with_capacity(COPY_BYTES, &file))
        .map_err(|error| ImageError::storage(&what, error))?;
    let size = file.stream_position().map_err(unusable)?;
    file.seek(SeekFrom::Start(0)).map_err(unusable)?;
    Ok((file, diff.into(), size))
}

/// The image's configuration, byte for byte if all layers came out as they once were, else with their new digests.
fn config_for(source: &Source, layers: &[(Digest, u64)]) -> Result<Vec<u8>, ImageError> {
    let what = format!("configuration {}", source.image.id);
    let diffs: Vec<DiffId> = layers
        .iter()
        .map(|(digest, _)| DiffId::from(digest.clone()))
        .collect();
    if ParsedConfig::parse(&source.document, &what)?.diffs == diffs {
        return Ok(source.document.to_vec());
    }
    let mut config: Value = serde_json::from_slice(&source.document)
        .map_err(|error| ImageError::corrupt(&what, error.to_string()))?;
    config["rootfs"]["diff_ids"] = json!(diffs);
    json_bytes(&config)
}

fn json_bytes(value: &Value) -> Result<Vec<u8>, ImageError> {
    serde_json::to_vec(value)
        .map_err(|error| ImageError::corrupt("a document of the archive", error.to_string()))
}

/// A tar being written, in which every path stands once.
struct Archive<W: Write> {
    tar: tar::Builder<W>,
    written: Vec<String>,
}

impl<W: Write> Archive<W> {
    fn put(&mut self, path: &str, bytes: &[u8]) -> Result<(), ImageError> {
        self.append(path, bytes, bytes.len() as u64)
    }

    fn put_file(&mut self, path: &str, file: File, size: u64) -> Result<(), ImageError> {
        self.append(path, io::BufReader::with_capacity(COPY_BYTES, file), size)
    }

    fn append(&mut self, path: &str, content: impl Read, size: u64) -> Result<(), ImageError> {
        // Equal layers, empty ones above all, are one blob.
        if self.written.iter().any(|written| written == path) {
            return Ok(());
        }
        let mut header = tar::Header::new_gnu();
        header.set_size(size);
        header.set_mode(0o644);
        header.set_mtime(0);
        self.tar
            .append_data(&mut header, path, content)
            .map_err(|error| ImageError::file("write the archive", error))?;
        self.written.push(path.to_owned());
        Ok(())
    }

    fn finish(mut self) -> Result<(), ImageError> {
        self.tar
            .finish()
            .and_then(|()| self.tar.get_mut().flush())
            .map_err(|error| ImageError::file("write the archive", error))
    }
}
