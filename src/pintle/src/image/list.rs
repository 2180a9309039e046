//! Images as text for the operator.

use std::fmt::Write;

use api::cri;

/// Columns: name, id, size; one line per name, so that each can be copied.
pub(super) fn table(images: &[cri::Image]) -> String {
    let mut rows = vec![("IMAGE".to_owned(), "ID".to_owned(), "SIZE".to_owned())];
    for image in images {
        let id = short(&image.id);
        let size = size(image.size);
        for name in names_of(image) {
            rows.push((name.to_owned(), id.to_owned(), size.clone()));
        }
    }
    rows[1..].sort();
    let width = rows.iter().map(|row| row.0.len()).max().unwrap_or(0);
    let mut text = String::new();
    for (name, id, size) in rows {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{name:<width$}  {id:<12}  {size:>10}");
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
pub(super) fn json(images: &[cri::Image]) -> String {
    let images: Vec<serde_json::Value> = images
        .iter()
        .map(|image| {
            serde_json::json!({
                "id": image.id,
                "repoTags": image.repo_tags,
                "repoDigests": image.repo_digests,
                "sizeBytes": image.size,
                "pinned": image.pinned,
            })
        })
        .collect();
    format!("{:#}", serde_json::Value::from(images))
}

/// Tags; the digests of an image without tags; its id without either.
fn names_of(image: &cri::Image) -> Vec<&str> {
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

/// With one decimal, in the greatest unit that leaves a number from 1 on.
fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    // Tenths of a unit, in whole numbers.
    let mut tenths = u128::from(bytes) * 10 / 1024;
    let mut unit = 0;
    while tenths >= 10 * 1024 && unit + 1 < UNITS.len() {
        tenths /= 1024;
        unit += 1;
    }
    format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
}

#[cfg(test)]
mod tests {
    use api::cri;
    use rstest::rstest;

    use super::{names, size, table};

    #[rstest]
    #[case(0, "0 B")]
    #[case(1023, "1023 B")]
    #[case(1024, "1.0 KiB")]
    #[case(1536, "1.5 KiB")]
    #[case((1 << 20) - 1, "1023.9 KiB")]
    #[case(5 << 30, "5.0 GiB")]
    #[case(u64::MAX, "16777215.9 TiB")]
    fn sizes(#[case] bytes: u64, #[case] expected: &str) {
        assert_eq!(size(bytes), expected);
    }

    #[test]
    fn a_line_per_name() {
        let image = |id: &str, tags: &[&str], digests: &[&str]| cri::Image {
            id: format!("sha256:{id}"),
            repo_tags: tags.iter().map(|tag| (*tag).to_owned()).collect(),
            repo_digests: digests.iter().map(|digest| (*digest).to_owned()).collect(),
            size: 2048,
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
        let expected = "\
IMAGE          ID                  SIZE
r.example/a:1  0123456789ab     2.0 KiB
r.example/b:1  0123456789ab     2.0 KiB
r.example/c@y  1123456789ab     2.0 KiB
sha256:2       2                2.0 KiB
";
        assert_eq!(table(&images), expected);
        assert_eq!(
            names(&images),
            "r.example/b:1\nr.example/a:1\nr.example/c@y\nsha256:2\n"
        );
    }
}
