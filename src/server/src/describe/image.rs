//! Images in CRI's words.

use std::collections::BTreeMap;

use api::cri;
use bytes::Bytes;
use image::{Image, ImageKind};
use serde_json::json;

use super::info;
use crate::list::encoded;

/// The image as an encoded item of a list.
pub(crate) fn image_item(image: &Image) -> Bytes {
    image
        .encoded
        .get_or_init(|| encoded(&image_message(image)))
        .clone()
}

/// The image as a message.
pub(crate) fn image_message(image: &Image) -> cri::Image {
    let (uid, username) = user(&image.config.user);
    cri::Image {
        id: image.id.to_string(),
        repo_tags: image.repo_tags.clone(),
        repo_digests: image.repo_digests.clone(),
        // Clients take an image of size 0 for a broken one, and an image of no layers is legal.
        size: image.size_bytes.max(1),
        uid,
        username,
        spec: None,
        pinned: image.pinned,
    }
}

/// The user of an image: `user[:group]`, where a number is a uid. Clients take neither for root.
fn user(user: &str) -> (Option<cri::Int64Value>, String) {
    let user = user.split(':').next().unwrap_or_default();
    match user.parse() {
        Ok(value) => (Some(cri::Int64Value { value }), String::new()),
        Err(_) => (None, user.to_owned()),
    }
}

/// What else an operator may want to know.
pub(crate) fn image_info(image: &Image, document: &[u8]) -> BTreeMap<String, String> {
    let document: serde_json::Value =
        serde_json::from_slice(document).unwrap_or(serde_json::Value::Null);
    // Clients read what is under `imageSpec` as an image's configuration.
    let key = match image.kind {
        ImageKind::Container => "imageSpec",
        ImageKind::Artifact => "artifactManifest",
    };
    info(&json!({
        "manifestDigest": image.manifest_digest.as_ref().map(ToString::to_string),
        "store": image.store.as_ref().map(|store| store.display().to_string()),
        "layers": image.layers.iter().map(ToString::to_string).collect::<Vec<_>>(),
        key: document,
    }))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("", None, "")]
    #[case("0", Some(0), "")]
    #[case("1002:1003", Some(1002), "")]
    #[case("www-data:www", None, "www-data")]
    #[case("nobody", None, "nobody")]
    fn a_number_is_a_uid(#[case] text: &str, #[case] uid: Option<i64>, #[case] name: &str) {
        let uid = uid.map(|value| cri::Int64Value { value });
        assert_eq!(user(text), (uid, name.to_owned()));
    }
}
