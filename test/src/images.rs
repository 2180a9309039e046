//! Images made here: layers as tar archives, packed, described by a configuration and a manifest, as a value that can be
//! pushed to a registry, written as an OCI layout, or served damaged by [`crate::faults`].

use std::{collections::BTreeMap, io::Write, path::Path};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::world::{make_dirs, write};

/// Every file's time stamp: images have the same digests in every run.
const MTIME_S: u64 = 1_700_000_000;
/// The same as the configurations' `created`.
const CREATED: &str = "2023-11-14T22:13:20Z";

/// The users of the busybox image.
pub const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n\
    daemon:x:1:1:daemon:/usr/sbin:/bin/false\n\
    www-data:x:33:33:www-data:/var/www:/bin/false\n\
    app:x:1000:1000:app:/home/app:/bin/sh\n\
    nobody:x:65534:65534:nobody:/home:/bin/false\n";
/// Its groups: `app` is also in `staff` and `video`.
pub const GROUP: &str = "root:x:0:\ndaemon:x:1:\nwww-data:x:33:\nvideo:x:44:app\nstaff:x:50:app,nobody\n\
    app:x:1000:\nnobody:x:65534:\n";
/// Its search path.
pub const PATH_ENV: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// How a layer is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packing {
    /// A bare tar.
    Tar,
    /// gzip.
    Gzip,
    /// Zstandard.
    Zstd,
}

impl Packing {
    fn suffix(self) -> &'static str {
        match self {
            Self::Tar => "",
            Self::Gzip => "+gzip",
            Self::Zstd => "+zstd",
        }
    }

    /// Packs a tar archive.
    pub fn pack(self, tar: &[u8]) -> Result<Vec<u8>> {
        match self {
            Self::Tar => Ok(tar.to_vec()),
            Self::Gzip => {
                let mut writer =
                    flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(6));
                writer.write_all(tar)?;
                Ok(writer.finish()?)
            }
            Self::Zstd => Ok(zstd::encode_all(tar, 3)?),
        }
    }
}

/// A layer in the making.
pub struct Layer(tar::Builder<Vec<u8>>);

impl std::fmt::Debug for Layer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "a layer of {} bytes so far", self.0.get_ref().len())
    }
}

impl Default for Layer {
    fn default() -> Self {
        Self(tar::Builder::new(Vec::new()))
    }
}

impl Layer {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    fn header(kind: tar::EntryType, mode: u32, size: u64) -> tar::Header {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(size);
        header.set_mtime(MTIME_S);
        header.set_uid(0);
        header.set_gid(0);
        header
    }

    /// A directory.
    pub fn dir(self, path: &str, mode: u32) -> Result<Self> {
        self.owned_dir(path, mode, 0, 0)
    }

    /// A directory of somebody's.
    pub fn owned_dir(mut self, path: &str, mode: u32, uid: u64, gid: u64) -> Result<Self> {
        let mut header = Self::header(tar::EntryType::Directory, mode, 0);
        header.set_uid(uid);
        header.set_gid(gid);
        self.0
            .append_data(&mut header, format!("{path}/"), std::io::empty())?;
        Ok(self)
    }

    /// A regular file of root's.
    pub fn file(self, path: &str, mode: u32, data: &[u8]) -> Result<Self> {
        self.owned_file(path, mode, 0, 0, data)
    }

    /// A regular file of somebody's.
    pub fn owned_file(
        mut self,
        path: &str,
        mode: u32,
        uid: u64,
        gid: u64,
        data: &[u8],
    ) -> Result<Self> {
        let mut header = Self::header(tar::EntryType::Regular, mode, data.len() as u64);
        header.set_uid(uid);
        header.set_gid(gid);
        self.0.append_data(&mut header, path, data)?;
        Ok(self)
    }

    /// A regular file with one extended attribute.
    pub fn file_with_xattr(
        mut self,
        path: &str,
        data: &[u8],
        name: &str,
        value: &[u8],
    ) -> Result<Self> {
        let key = format!("SCHILY.xattr.{name}");
        self.0.append_pax_extensions([(key.as_str(), value)])?;
        self.file(path, 0o644, data)
    }

    /// A symbolic link.
    pub fn symlink(mut self, path: &str, target: &str) -> Result<Self> {
        let mut header = Self::header(tar::EntryType::Symlink, 0o777, 0);
        self.0.append_link(&mut header, path, target)?;
        Ok(self)
    }

    /// Another name of a file, with the mode of that file, as tar writes it.
    pub fn hardlink(mut self, path: &str, target: &str, mode: u32) -> Result<Self> {
        let mut header = Self::header(tar::EntryType::Link, mode, 0);
        self.0.append_link(&mut header, path, target)?;
        Ok(self)
    }

    /// A character device.
    pub fn device(mut self, path: &str, major: u32, minor: u32) -> Result<Self> {
        let mut header = Self::header(tar::EntryType::Char, 0o666, 0);
        header.set_device_major(major)?;
        header.set_device_minor(minor)?;
        self.0.append_data(&mut header, path, std::io::empty())?;
        Ok(self)
    }

    /// What removes a file of a layer below.
    pub fn whiteout(self, dir: &str, name: &str) -> Result<Self> {
        self.file(&format!("{dir}/.wh.{name}"), 0o644, b"")
    }

    /// What hides all that layers below have in a directory.
    pub fn opaque(self, dir: &str) -> Result<Self> {
        self.file(&format!("{dir}/.wh..wh..opq"), 0o644, b"")
    }

    /// An entry whose path the tar library would refuse: `..`, an absolute path.
    pub fn raw_path(
        mut self,
        path: &[u8],
        kind: tar::EntryType,
        link: &[u8],
        data: &[u8],
    ) -> Result<Self> {
        let mut header = Self::header(kind, 0o644, data.len() as u64);
        let fields = header.as_old_mut();
        fields.name[..path.len()].copy_from_slice(path);
        fields.linkname[..link.len()].copy_from_slice(link);
        header.set_cksum();
        self.0.append(&header, data)?;
        Ok(self)
    }

    /// The archive.
    pub fn tar(self) -> Result<Vec<u8>> {
        Ok(self.0.into_inner()?)
    }
}

/// A layer with a static busybox, its applets as hard links, users and groups.
pub fn busybox() -> Result<Layer> {
    let program = "/bin/busybox";
    let data = std::fs::read(program).with_context(|| format!("reading {program}"))?;
    let applets = crate::world::run(program, ["--list"])?;
    let mut layer = Layer::new();
    for dir in [
        "bin", "dev", "etc", "home", "lib", "proc", "sys", "usr", "usr/bin", "usr/sbin", "var",
        "var/www", "var/run",
    ] {
        layer = layer.dir(dir, 0o755)?;
    }
    layer = layer
        .dir("root", 0o700)?
        .dir("tmp", 0o1777)?
        .owned_dir("home/app", 0o755, 1000, 1000)?
        .file("bin/busybox", 0o755, &data)?;
    for applet in String::from_utf8(applets)?.lines() {
        if !matches!(applet, "busybox" | "linuxrc" | "init") {
            layer = layer.hardlink(&format!("bin/{applet}"), "bin/busybox", 0o755)?;
        }
    }
    layer
        .file("etc/passwd", 0o644, PASSWD.as_bytes())?
        .file("etc/group", 0o644, GROUP.as_bytes())
}

/// A blob and what it is.
#[derive(Clone, Debug)]
pub struct Blob {
    /// Its media type.
    pub media_type: String,
    /// Digest under which it is offered, right for `data` unless a test made it otherwise.
    pub digest: String,
    /// Its bytes.
    pub data: Vec<u8>,
}

impl Blob {
    /// A blob with its right digest.
    pub fn new(media_type: &str, data: Vec<u8>) -> Self {
        Self {
            media_type: media_type.to_owned(),
            digest: digest(&data),
            data,
        }
    }

    fn descriptor(&self) -> Value {
        json!({ "mediaType": self.media_type, "digest": self.digest, "size": self.data.len() })
    }
}

/// The digest of some bytes.
pub fn digest(data: &[u8]) -> String {
    use std::fmt::Write as _;

    let mut text = "sha256:".to_owned();
    for byte in Sha256::digest(data) {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// A whole image.
#[derive(Clone, Debug)]
pub struct Image {
    /// Layers, bottom first, as they are transferred.
    pub layers: Vec<Blob>,
    /// The configuration: its digest is the image's id.
    pub config: Blob,
    /// The manifest: its digest is what `name@sha256:…` means.
    pub manifest: Blob,
}

impl Image {
    /// Packs layers and describes them; `config` is the `config` member of the image configuration.
    pub fn new(tars: &[Vec<u8>], packing: Packing, config: &Value) -> Result<Self> {
        let mut layers = Vec::new();
        for tar in tars {
            let media_type = format!("application/vnd.oci.image.layer.v1.tar{}", packing.suffix());
            layers.push(Blob::new(&media_type, packing.pack(tar)?));
        }
        let diff_ids: Vec<_> = tars.iter().map(|tar| digest(tar)).collect();
        Self::of_blobs(layers, &diff_ids, config)
    }

    /// Describes layers that are packed already, however wrong.
    pub fn of_blobs(layers: Vec<Blob>, diff_ids: &[String], config: &Value) -> Result<Self> {
        let history: Vec<_> = diff_ids
            .iter()
            .map(|_| json!({ "created": CREATED }))
            .collect();
        let config = serde_json::to_vec(&json!({
            "created": CREATED,
            "architecture": architecture(),
            "os": "linux",
            "config": config,
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
            "history": history,
        }))?;
        let config = Blob::new("application/vnd.oci.image.config.v1+json", config);
        let media_type = "application/vnd.oci.image.manifest.v1+json";
        let manifest = serde_json::to_vec(&json!({
            "schemaVersion": 2,
            "mediaType": media_type,
            "config": config.descriptor(),
            "layers": layers.iter().map(Blob::descriptor).collect::<Vec<_>>(),
        }))?;
        Ok(Self {
            layers,
            config,
            manifest: Blob::new(media_type, manifest),
        })
    }

    /// An OCI artifact of files with their titles. Its id is its manifest's digest.
    pub fn artifact(files: &[(&str, &[u8])]) -> Result<Self> {
        let mut layers = Vec::new();
        let mut described = Vec::new();
        for (title, data) in files {
            let blob = Blob::new("application/x.test.content", data.to_vec());
            let mut descriptor = blob.descriptor();
            descriptor["annotations"] = json!({ "org.opencontainers.image.title": title });
            described.push(descriptor);
            layers.push(blob);
        }
        let config = Blob::new("application/vnd.oci.empty.v1+json", b"{}".to_vec());
        let media_type = "application/vnd.oci.image.manifest.v1+json";
        let manifest = serde_json::to_vec(&json!({
            "schemaVersion": 2,
            "mediaType": media_type,
            "artifactType": "application/x.test",
            "config": config.descriptor(),
            "layers": described,
        }))?;
        Ok(Self {
            layers,
            config,
            manifest: Blob::new(media_type, manifest),
        })
    }

    /// The image's id.
    pub fn id(&self) -> &str {
        &self.config.digest
    }

    /// Writes an OCI layout with this one image.
    pub fn write_layout(&self, dir: &Path) -> Result<()> {
        write_layout(dir, std::slice::from_ref(self), &self.manifest)
    }

    fn blobs(&self) -> impl Iterator<Item = &Blob> {
        self.layers.iter().chain([&self.config, &self.manifest])
    }
}

/// An index over images, one per architecture named.
pub fn index(images: &[(&str, &Image)]) -> Result<Blob> {
    let media_type = "application/vnd.oci.image.index.v1+json";
    let manifests: Vec<_> = images
        .iter()
        .map(|(architecture, image)| {
            let mut descriptor = image.manifest.descriptor();
            descriptor["platform"] = json!({ "os": "linux", "architecture": architecture });
            descriptor
        })
        .collect();
    let data = serde_json::to_vec(
        &json!({ "schemaVersion": 2, "mediaType": media_type, "manifests": manifests }),
    )?;
    Ok(Blob::new(media_type, data))
}

/// Writes an OCI layout with some images whose entry point is `top`: a manifest or an index.
pub fn write_layout(dir: &Path, images: &[Image], top: &Blob) -> Result<()> {
    let blobs = dir.join("blobs/sha256");
    make_dirs(&blobs)?;
    let all = images.iter().flat_map(Image::blobs).chain([top]);
    // One layer may be in several images.
    let by_digest: BTreeMap<_, _> = all.map(|blob| (&blob.digest, &blob.data)).collect();
    for (digest, data) in by_digest {
        write(blobs.join(digest.trim_start_matches("sha256:")), data)?;
    }
    let index = json!({ "schemaVersion": 2, "manifests": [top.descriptor()] });
    write(dir.join("index.json"), serde_json::to_vec(&index)?)?;
    write(dir.join("oci-layout"), br#"{"imageLayoutVersion":"1.0.0"}"#)
}

/// This machine's architecture in the words of images.
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
