//! Images to be pulled, made byte by byte.

use std::io::Write;
use std::path::Path;

use serde_json::{Value, json};
use state::Digest;

/// How a layer is compressed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Packing {
    Plain,
    Gzip,
    Zstd,
}

/// Which family of media types.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Family {
    Oci,
    Docker,
}

/// An image as a registry holds it.
#[derive(Clone, Debug)]
pub(crate) struct Published {
    pub(crate) manifest: Vec<u8>,
    pub(crate) manifest_type: &'static str,
    pub(crate) config: Vec<u8>,
    /// As they are sent.
    pub(crate) layers: Vec<Vec<u8>>,
    /// Before compression.
    pub(crate) tars: Vec<Vec<u8>>,
}

impl Published {
    /// An image for this machine with one layer per file: name and content.
    pub(crate) fn of_files(files: &[(&str, &[u8])]) -> Self {
        let tars = files
            .iter()
            .map(|(name, content)| tar_of(&[(*name, *content)]))
            .collect();
        Self::of_tars(tars, Packing::Gzip, Family::Oci)
    }

    pub(crate) fn of_tars(tars: Vec<Vec<u8>>, packing: Packing, family: Family) -> Self {
        Self::for_platform(tars, packing, family, "amd64", &json!({}))
    }

    /// `run` is the configuration's "config" section.
    pub(crate) fn for_platform(
        tars: Vec<Vec<u8>>,
        packing: Packing,
        family: Family,
        architecture: &str,
        run: &Value,
    ) -> Self {
        let diffs: Vec<String> = tars
            .iter()
            .map(|tar| Digest::sha256_of(tar).to_string())
            .collect();
        let config = json!({
            "architecture": architecture, "os": "linux", "config": run,
            "rootfs": {"type": "layers", "diff_ids": diffs},
        });
        Self::with_config(tars, packing, family, config.to_string().into_bytes())
    }

    pub(crate) fn with_config(
        tars: Vec<Vec<u8>>,
        packing: Packing,
        family: Family,
        config: Vec<u8>,
    ) -> Self {
        let layers: Vec<Vec<u8>> = tars.iter().map(|tar| pack(tar, packing)).collect();
        let (manifest_type, config_type, layer_type) = match family {
            Family::Oci => (
                "application/vnd.oci.image.manifest.v1+json",
                "application/vnd.oci.image.config.v1+json",
                match packing {
                    Packing::Plain => "application/vnd.oci.image.layer.v1.tar",
                    Packing::Gzip => "application/vnd.oci.image.layer.v1.tar+gzip",
                    Packing::Zstd => "application/vnd.oci.image.layer.v1.tar+zstd",
                },
            ),
            Family::Docker => (
                "application/vnd.docker.distribution.manifest.v2+json",
                "application/vnd.docker.container.image.v1+json",
                "application/vnd.docker.image.rootfs.diff.tar.gzip",
            ),
        };
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": manifest_type,
            "config": descriptor(config_type, &config),
            "layers": layers.iter().map(|layer| descriptor(layer_type, layer)).collect::<Vec<_>>(),
        });
        Self {
            manifest: manifest.to_string().into_bytes(),
            manifest_type,
            config,
            layers,
            tars,
        }
    }

    /// An artifact of these blobs, each with its title if it has one.
    pub(crate) fn artifact(blobs: &[(Option<&str>, &[u8])]) -> Self {
        let layers: Vec<Value> = blobs
            .iter()
            .map(|(title, blob)| {
                let mut layer = descriptor("application/x.test.content", blob);
                if let Some(title) = title {
                    // The second one is how ORAS's client knows that it is to unpack a folder's tar.
                    layer["annotations"] = json!({
                        "org.opencontainers.image.title": title,
                        "io.deis.oras.content.unpack": "true",
                    });
                }
                layer
            })
            .collect();
        let config = b"{}".to_vec();
        let manifest_type = "application/vnd.oci.image.manifest.v1+json";
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": manifest_type,
            "artifactType": "application/x.test",
            "config": descriptor("application/vnd.oci.empty.v1+json", &config),
            "layers": layers,
        });
        Self {
            manifest: manifest.to_string().into_bytes(),
            manifest_type,
            config,
            layers: blobs.iter().map(|(_, blob)| blob.to_vec()).collect(),
            tars: Vec::new(),
        }
    }

    pub(crate) fn digest(&self) -> Digest {
        Digest::sha256_of(&self.manifest)
    }

    pub(crate) fn id(&self) -> Digest {
        Digest::sha256_of(&self.config)
    }

    pub(crate) fn layer_digest(&self, position: usize) -> Digest {
        Digest::sha256_of(&self.layers[position])
    }

    /// Writes an OCI layout of this one image, for tools that read such.
    pub(crate) fn write_layout(&self, folder: &Path) {
        let blobs = folder.join("blobs/sha256");
        std::fs::create_dir_all(&blobs).unwrap();
        for blob in self.blobs().iter().chain([&self.manifest]) {
            std::fs::write(blobs.join(Digest::sha256_of(blob).hex()), blob).unwrap();
        }
        let entry = descriptor(self.manifest_type, &self.manifest);
        let index = json!({"schemaVersion": 2, "manifests": [entry]}).to_string();
        std::fs::write(folder.join("index.json"), index).unwrap();
        let version = r#"{"imageLayoutVersion":"1.0.0"}"#;
        std::fs::write(folder.join("oci-layout"), version).unwrap();
    }

    /// Every blob: configuration and layers.
    pub(crate) fn blobs(&self) -> Vec<Vec<u8>> {
        let mut blobs = self.layers.clone();
        blobs.push(self.config.clone());
        blobs
    }
}

pub(crate) fn descriptor(media_type: &str, bytes: &[u8]) -> Value {
    json!({"mediaType": media_type, "digest": Digest::sha256_of(bytes), "size": bytes.len()})
}

/// An OCI index of images by platform.
pub(crate) fn index_of(images: &[(&str, &Published)]) -> Vec<u8> {
    let manifests: Vec<Value> = images
        .iter()
        .map(|(architecture, image)| {
            let mut entry = descriptor(image.manifest_type, &image.manifest);
            entry["platform"] = json!({"os": "linux", "architecture": architecture});
            entry
        })
        .collect();
    json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": manifests,
    })
    .to_string()
    .into_bytes()
}

/// A tar of regular files.
pub(crate) fn tar_of(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_mtime(1_700_000_000);
        builder.append_data(&mut header, name, *content).unwrap();
    }
    builder.into_inner().unwrap()
}

pub(crate) fn pack(tar: &[u8], packing: Packing) -> Vec<u8> {
    match packing {
        Packing::Plain => tar.to_vec(),
        Packing::Gzip => {
            let mut encoder =
                flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(tar).unwrap();
            encoder.finish().unwrap()
        }
        Packing::Zstd => zstd::encode_all(tar, 1).unwrap(),
    }
}

/// Bytes that do not compress, the same for the same seed.
pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}
