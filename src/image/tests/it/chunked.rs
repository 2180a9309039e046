//! Layers for lazy pulling, zstd:chunked and eStargz: to a registry client that reads them from the first byte to the last they
//! are plain zstd and gzip, with more in them than a tar. Put together here byte by byte, as their specifications say.

use image::ImageError;
use serde_json::json;
use state::Digest;

use crate::faulty::{Faulty, Reply};
use crate::node::Node;
use crate::published::{Family, Packing, Published, noise, pack, tar_of};

/// A zstd frame that decoders pass over.
fn skippable(content: &[u8]) -> Vec<u8> {
    let length = u32::try_from(content.len()).unwrap();
    [
        &[0x50, 0x2a, 0x4d, 0x18],
        &length.to_le_bytes()[..],
        content,
    ]
    .concat()
}

/// The tar in pieces of a frame each, then the table of contents, the tar's split and the footer in frames to be skipped.
fn zstd_chunked(tar: &[u8]) -> Vec<u8> {
    let mut layer = Vec::new();
    for piece in tar.chunks(70_000) {
        layer.extend(pack(piece, Packing::Zstd));
    }
    let table = json!({"version": 1, "entries": [{"type": "reg", "name": "file"}]});
    let table = zstd::encode_all(table.to_string().as_bytes(), 1).unwrap();
    let offset = layer.len() as u64 + 8;
    layer.extend(skippable(&table));
    layer.extend(skippable(&zstd::encode_all(&b"the split"[..], 1).unwrap()));
    let mut footer = Vec::new();
    for number in [offset, table.len() as u64, 100, 1, 0, 0, 0] {
        footer.extend_from_slice(&number.to_le_bytes());
    }
    footer.extend_from_slice(b"GNUlInUx");
    layer.extend(skippable(&footer));
    layer
}

/// Each piece of the tar a gzip member, among them the landmark and the index; an empty member with the index's offset at the
/// end. Returns the layer and its tar.
fn estargz(files: &[(&str, &[u8])]) -> (Vec<u8>, Vec<u8>) {
    let index = json!({"version": 1, "entries": []}).to_string();
    let mut entries = files.to_vec();
    entries.insert(1, (".prefetch.landmark", &[0xf]));
    entries.push(("stargz.index.json", index.as_bytes()));
    let tar = tar_of(&entries);
    let mut layer = Vec::new();
    let mut offset = 0;
    // The index, its padding and the tar's end are the last 2048 bytes.
    let (body, end) = tar.split_at(tar.len() - 2048);
    for piece in body.chunks(50_000).chain([end]) {
        offset = layer.len();
        layer.extend(pack(piece, Packing::Gzip));
    }
    let subfield = format!("{offset:016x}STARGZ");
    layer.extend_from_slice(&[
        0x1f, 0x8b, 8, 4, 0, 0, 0, 0, 0, 0xff, 26, 0, b'S', b'G', 22, 0,
    ]);
    layer.extend_from_slice(subfield.as_bytes());
    // A stored block of nothing, its checksum and length.
    layer.extend_from_slice(&[1, 0, 0, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0]);
    (layer, tar)
}

/// An image of one layer whose bytes are given.
fn published(tar: Vec<u8>, layer: Vec<u8>, media_type: &str) -> Published {
    let mut image = Published::of_tars(vec![tar], Packing::Gzip, Family::Oci);
    let mut manifest: serde_json::Value = serde_json::from_slice(&image.manifest).unwrap();
    manifest["layers"][0] = json!({
        "mediaType": media_type,
        "digest": Digest::sha256_of(&layer),
        "size": layer.len(),
        "annotations": {
            "io.github.containers.zstd-chunked.manifest-position": "1:2:3:1",
            "containerd.io/snapshot/stargz/toc.digest": Digest::sha256_of(b"toc"),
        },
    });
    image.manifest = manifest.to_string().into_bytes();
    image.layers = vec![layer];
    image
}

/// Both kinds, and what their file holds.
fn samples() -> ([(Published, usize); 2], Vec<u8>) {
    let content = noise(7, 300_000);
    let files: [(&str, &[u8]); 2] = [("file", &content), ("other", b"x")];
    let tar = tar_of(&files);
    let chunked = zstd_chunked(&tar);
    let chunked = published(tar, chunked, "application/vnd.oci.image.layer.v1.tar+zstd");
    let (layer, tar) = estargz(&files);
    let stargz = published(tar, layer, "application/vnd.oci.image.layer.v1.tar+gzip");
    // How long what follows the tar is.
    ([(chunked, 72), (stargz, 51)], content)
}

#[tokio::test(flavor = "multi_thread")]
async fn layers_for_lazy_pulling_are_pulled_whole() {
    let (samples, content) = samples();
    for (image, _) in &samples {
        let registry = Faulty::holding(&[("1", image)], |_| None).await;
        let node = Node::with_plain_hosts(&[&registry.host]);
        let pulled = node.pull(&registry.reference("app:1")).await.unwrap();
        assert!(node.read(&pulled, "file").unwrap() == content);
        assert_eq!(node.read(&pulled, "other").unwrap(), b"x");
        // The layer's name is the digest of its tar, which has nothing of the frames around it.
        assert_eq!(
            pulled.layers[0].digest(),
            &Digest::sha256_of(&image.tars[0])
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_follows_the_tar_is_part_of_the_digest() {
    let (samples, _) = samples();
    for (image, footer) in samples {
        let path = image.layer_digest(0).to_string();
        let whole = image.layers[0].clone();
        for position in [whole.len() - 1, whole.len() - footer + 20] {
            let mut damaged = whole.clone();
            damaged[position] ^= 1;
            let path = path.clone();
            let registry = Faulty::holding(&[("1", &image)], move |seen| {
                let wanted = seen.path.ends_with(&path);
                wanted.then(|| Reply::ok(damaged.clone()))
            })
            .await;
            let node = Node::with_plain_hosts(&[&registry.host]);
            let error = node.pull(&registry.reference("app:1")).await.unwrap_err();
            assert!(matches!(error, ImageError::Corrupt { .. }), "{error}");
            node.assert_untouched().await;
        }
    }
}

/// A trailing frame that is cut short, by a publisher who signs what he cut: no reader may take it for whole.
#[tokio::test(flavor = "multi_thread")]
async fn a_trailing_frame_cut_short_is_refused() {
    let (samples, _) = samples();
    for (image, footer) in samples {
        let layer = &image.layers[0];
        let cut = layer[..layer.len() - footer + 20].to_vec();
        let image = published(image.tars[0].clone(), cut, "");
        let registry = Faulty::holding(&[("1", &image)], |_| None).await;
        let node = Node::with_plain_hosts(&[&registry.host]);
        let error = node.pull(&registry.reference("app:1")).await.unwrap_err();
        assert!(matches!(error, ImageError::Corrupt { .. }), "{error}");
        node.assert_untouched().await;
    }
}
