//! Images as text for the operator.

use std::fmt::Write;

use api::{admin::ImageDetails, cri};

use crate::amount::size;

/// Columns: name, id, bytes on the disk, bytes that a removal gives back, and where it is if some are in additional stores; one
/// line per name, so that each can be copied.
pub(super) fn table(images: &[ImageDetails]) -> String {
    let head = ["IMAGE", "ID", "SIZE", "RECLAIMABLE", "STORE"].map(str::to_owned);
    let mut rows = vec![head];
    for details in images {
        let Some(image) = &details.image else {
            continue;
        };
        for name in names_of(image) {
            rows.push([
                name.to_owned(),
                short(&image.id).to_owned(),
                size(details.used_bytes),
                size(details.reclaimable_bytes),
                details.store.clone(),
            ]);
        }
    }
    rows[1..].sort();
    let width = rows.iter().map(|row| row[0].len()).max().unwrap_or(0);
    let has_stores = rows[1..].iter().any(|row| !row[4].is_empty());
    let mut text = String::new();
    for [name, id, size, reclaimable, store] in rows {
        let store = match store.as_str() {
            _ if !has_stores => "",
            "" => "  own",
            store => &format!("  {store}"),
        };
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "{name:<width$}  {id:<12}  {size:>10}  {reclaimable:>11}{store}"
        );
    }
    text
}

/// Every name on a line of its own.
pub(super) fn names(images: &[cri::Image]) -> String {
    let mut text = String::new();
    for name in images.iter().flat_map(names_of) {
        text.push_str(name);
        text.push('\n');
    }
    text
}

/// An array of objects.
pub(super) fn json(images: &[ImageDetails]) -> String {
    let images: Vec<serde_json::Value> = images
        .iter()
        .filter_map(|details| {
            let image = details.image.as_ref()?;
            Some(serde_json::json!({
                "id": image.id,
                "repoTags": image.repo_tags,
                "repoDigests": image.repo_digests,
                "sizeBytes": image.size,
                "usedBytes": details.used_bytes,
                "reclaimableBytes": details.reclaimable_bytes,
                "pinned": image.pinned,
                "store": store(&details.store),
                "containers": details.containers,
            }))
        })
        .collect();
    format!("{:#}", serde_json::Value::from(images))
}

/// Where it is: null for the server's own store.
pub(super) fn store(store: &str) -> Option<&str> {
    Some(store).filter(|store| !store.is_empty())
}

/// Tags; the digests of an image without tags; its id without either.
pub(super) fn names_of(image: &cri::Image) -> Vec<&str> {
    let names = match (&image.repo_tags[..], &image.repo_digests[..]) {
        ([], []) => std::slice::from_ref(&image.id),
        ([], digests) => digests,
        (tags, _) => tags,
    };
    names.iter().map(String::as_str).collect()
}

fn short(id: &str) -> &str {
    let hex = id.split_once(':').map_or(id, |(_, hex)| hex);
    hex.get(..12).unwrap_or(hex)
}

#[cfg(test)]
mod tests {
    use api::{admin::ImageDetails, cri};

    use super::{names, table};

    #[test]
    fn a_line_per_name() {
        let image = |id: &str, tags: &[&str], digests: &[&str]| cri::Image {
            id: format!("sha256:{id}"),
            repo_tags: tags.iter().map(|tag| (*tag).to_owned()).collect(),
            repo_digests: digests.iter().map(|digest| (*digest).to_owned()).collect(),
            ..cri::Image::default()
        };
        let images = [
            image(
                "0123456789abcdef",
                &["r.example/b:1", "r.example/a:1"],
                &["r.example/a@x"],
            ),
            image("1123456789abcdef", &[], &["r.example/c@y"]),
            image("2", &[], &[]),
        ];
        let details: Vec<ImageDetails> = images
            .iter()
            .map(|image| ImageDetails {
                image: Some(image.clone()),
                used_bytes: 2048,
                reclaimable_bytes: 1000,
                ..ImageDetails::default()
            })
            .collect();
        let expected = "\
IMAGE          ID                  SIZE  RECLAIMABLE
r.example/a:1  0123456789ab     2.0 KiB       1000 B
r.example/b:1  0123456789ab     2.0 KiB       1000 B
r.example/c@y  1123456789ab     2.0 KiB       1000 B
sha256:2       2                2.0 KiB       1000 B
";
        assert_eq!(table(&details), expected);
        let mut details = details;
        details[0].store = "/srv/images".to_owned();
        let table = table(&details);
        let expected = [
            "IMAGE          ID                  SIZE  RECLAIMABLE  STORE",
            "r.example/a:1  0123456789ab     2.0 KiB       1000 B  /srv/images",
            "r.example/b:1  0123456789ab     2.0 KiB       1000 B  /srv/images",
        ];
        assert!(table.lines().take(3).eq(expected), "{table}");
        assert!(table.contains("sha256:2       2                2.0 KiB       1000 B  own\n"));
        assert_eq!(
            names(&images),
            "r.example/b:1\nr.example/a:1\nr.example/c@y\nsha256:2\n"
        );
    }
}
