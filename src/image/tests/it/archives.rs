//! Images as files, checked against skopeo.

use std::path::Path;
use std::process::Command;

use image::{ArchiveFormat, ImageError};
use serde_json::json;

use crate::node::Node;
use crate::published::{Family, Packing, Published, noise, pack, tar_of};
use crate::real_registry::RealRegistry;

fn skopeo(arguments: &[&str]) -> String {
    let output = Command::new("skopeo").args(arguments).output().unwrap();
    assert!(
        output.status.success(),
        "skopeo {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// A docker archive of images with their tags, as `docker save` writes it.
fn docker_archive(images: &[(&Published, &[&str])]) -> Vec<u8> {
    let mut files: Vec<(String, Vec<u8>)> = Vec::new();
    let mut entries = Vec::new();
    for (image, tags) in images {
        let config = format!("{}.json", image.id().hex());
        files.push((config.clone(), image.config.clone()));
        let mut layers = Vec::new();
        for tar in &image.tars {
            let path = format!("{}/layer.tar", state::Digest::sha256_of(tar).hex());
            files.push((path.clone(), tar.clone()));
            layers.push(path);
        }
        entries.push(json!({"Config": config, "RepoTags": tags, "Layers": layers}));
    }
    files.push((
        "manifest.json".into(),
        json!(entries).to_string().into_bytes(),
    ));
    let files: Vec<(&str, &[u8])> = files
        .iter()
        .map(|(name, content)| (name.as_str(), content.as_slice()))
        .collect();
    tar_of(&files)
}

async fn import(
    node: &Node,
    archive: Vec<u8>,
    names: &[&str],
) -> Result<Vec<std::sync::Arc<image::Image>>, ImageError> {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    node.images
        .import(std::io::Cursor::new(archive), &names)
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_archives_plain_and_packed_with_many_images() {
    let base = tar_of(&[("base", b"b")]);
    let with = |name: &str| {
        Published::of_tars(
            vec![base.clone(), tar_of(&[(name, b"x")])],
            Packing::Gzip,
            Family::Docker,
        )
    };
    let (one, two) = (with("one"), with("two"));
    let archive = docker_archive(&[(&one, &["busybox:1", "quay.io/x/y:2"]), (&two, &[])]);
    for bytes in [
        archive.clone(),
        pack(&archive, Packing::Gzip),
        pack(&archive, Packing::Zstd),
    ] {
        let node = Node::with_plain_hosts(&[]);
        let images = import(&node, bytes, &[]).await.unwrap();
        assert_eq!(images.len(), 2);
        let first = node.images.get("busybox:1").unwrap();
        assert_eq!(first.id.digest(), &one.id());
        assert_eq!(
            first.repo_tags,
            ["docker.io/library/busybox:1", "quay.io/x/y:2"]
        );
        assert!(first.repo_digests.is_empty());
        assert_eq!(node.read(&first, "one").unwrap(), b"x");
        let second = node.images.get(two.id().as_str()).unwrap();
        assert!(second.repo_tags.is_empty());
        assert_eq!(node.layers_on_disk().len(), 3);
        assert!(node.leftovers().await.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn names_given_replace_those_of_the_archive() {
    let image = Published::of_files(&[("a", b"1")]);
    let node = Node::with_plain_hosts(&[]);
    import(
        &node,
        docker_archive(&[(&image, &["old:1"])]),
        &["new:1", "new:2"],
    )
    .await
    .unwrap();
    assert!(node.images.get("old:1").is_none());
    assert_eq!(node.images.get("new:2").unwrap().repo_tags.len(), 2);

    let two = docker_archive(&[(&image, &["a:1"]), (&Published::of_files(&[]), &["b:1"])]);
    let error = import(&node, two, &["c:1"]).await.unwrap_err();
    assert!(error.to_string().contains("2 of them"), "{error}");
    let one = docker_archive(&[(&image, &["a:1"])]);
    assert!(matches!(
        import(&node, one, &["BAD"]).await,
        Err(ImageError::BadReference(_))
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn archives_that_skopeo_makes() {
    let registry = RealRegistry::start();
    let image = Published::of_files(&[("a", &noise(1, 100_000)), ("b", b"2")]);
    registry.push("team/app", "1", &image).await;
    let folder = tempfile::tempdir().unwrap();
    let source = format!("docker://{}", registry.reference("team/app:1"));
    let (oci, docker) = (
        folder.path().join("oci.tar"),
        folder.path().join("docker.tar"),
    );
    let name = "registry.example/team/app:1";
    skopeo(&[
        "copy",
        "--src-tls-verify=false",
        &source,
        &format!("oci-archive:{}:{name}", oci.display()),
    ]);
    skopeo(&[
        "copy",
        "--src-tls-verify=false",
        &source,
        &format!("docker-archive:{}:{name}", docker.display()),
    ]);

    let node = Node::with_plain_hosts(&[]);
    let images = node.images.import_file(&oci, &[]).await.unwrap();
    assert_eq!(images.len(), 1);
    assert_eq!(images[0].id.digest(), &image.id());
    assert_eq!(images[0].repo_tags, [name]);
    assert_eq!(
        images[0].repo_digests,
        [format!("registry.example/team/app@{}", image.digest())]
    );
    assert_eq!(node.read(&images[0], "b").unwrap(), b"2");

    let node = Node::with_plain_hosts(&[]);
    let images = node.images.import_file(&docker, &[]).await.unwrap();
    assert_eq!(images[0].repo_tags, [name]);
    assert_eq!(node.read(&images[0], "a").unwrap(), noise(1, 100_000));
}

async fn export(node: &Node, name: &str, path: &Path, format: ArchiveFormat) {
    let file = tokio::fs::File::create(path).await.unwrap();
    node.images.export(name, file, format).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_exported_is_read_by_others_and_by_us() {
    let image = Published::of_files(&[("a", &noise(1, 100_000)), ("b", b"2"), ("b", b"2")]);
    let node = Node::with_plain_hosts(&[]);
    import(
        &node,
        docker_archive(&[(&image, &["quay.io/x/y:1", "quay.io/x/y:2"])]),
        &[],
    )
    .await
    .unwrap();
    let folder = tempfile::tempdir().unwrap();
    for (format, transport) in [
        (ArchiveFormat::Oci, "oci-archive"),
        (ArchiveFormat::Docker, "docker-archive"),
    ] {
        let path = folder.path().join(transport);
        export(&node, "quay.io/x/y:1", &path, format).await;
        let inspected = skopeo(&[
            "inspect",
            "--config",
            "--raw",
            &format!("{transport}:{}", path.display()),
        ]);
        assert_eq!(
            inspected.into_bytes(),
            image.config,
            "the very same configuration"
        );
        // Read whole, with all digests checked.
        let copy = format!(
            "dir:{}",
            folder.path().join(format!("{transport}-dir")).display()
        );
        skopeo(&[
            "copy",
            "--insecure-policy",
            &format!("{transport}:{}", path.display()),
            &copy,
        ]);

        let other = Node::with_plain_hosts(&[]);
        let images = other.images.import_file(&path, &[]).await.unwrap();
        assert_eq!(images[0].id.digest(), &image.id());
        assert_eq!(images[0].repo_tags, ["quay.io/x/y:1"]);
        assert_eq!(other.read(&images[0], "a").unwrap(), noise(1, 100_000));
    }
    let by_id = folder.path().join("by-id");
    export(&node, image.id().as_str(), &by_id, ArchiveFormat::Oci).await;
    let other = Node::with_plain_hosts(&[]);
    assert_eq!(
        other.images.import_file(&by_id, &[]).await.unwrap()[0]
            .repo_tags
            .len(),
        2
    );
    assert!(node.leftovers().await.is_empty());
    let error = node
        .images
        .export("no:1", tokio::io::sink(), ArchiveFormat::Oci)
        .await
        .unwrap_err();
    assert!(matches!(error, ImageError::NoSuchImage { .. }), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_archives_leave_nothing() {
    let image = Published::of_files(&[("a", b"1")]);
    let good = docker_archive(&[(&image, &["x:1"])]);
    let mut lying = image.clone();
    lying.tars = vec![tar_of(&[("evil", b"x")])];
    let mut many = image.clone();
    many.tars = vec![image.tars[0].clone(), image.tars[0].clone()];
    let manifest = |text: &str| tar_of(&[("manifest.json", text.as_bytes())]);
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("nothing", vec![]),
        ("noise", noise(5, 10_000)),
        ("cut short", good[..good.len() / 2].to_vec()),
        ("no archive of images", tar_of(&[("hello", b"x")])),
        ("a layer that is another", docker_archive(&[(&lying, &["x:1"])])),
        ("more layers than the configuration", docker_archive(&[(&many, &["x:1"])])),
        ("no image", manifest("[]")),
        ("no json", manifest("{")),
        ("paths outside", manifest(r#"[{"Config":"../../etc/passwd","Layers":[]}]"#)),
        ("absolute paths", manifest(r#"[{"Config":"/etc/passwd","Layers":[]}]"#)),
        ("an index without blobs", tar_of(&[("index.json", br#"{"manifests":[{"digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":1}]}"#)])),
        ("a large manifest", tar_of(&[("manifest.json", &vec![b' '; 5 << 20])])),
    ];
    for (name, bytes) in cases {
        let node = Node::with_plain_hosts(&[]);
        let error = import(&node, bytes, &[]).await.unwrap_err();
        let expected = matches!(
            error,
            ImageError::Corrupt { .. } | ImageError::TooLarge { .. }
        );
        assert!(expected, "{name}: {error:?}");
        node.assert_untouched().await;
    }
    let node = Node::with(&[], |config| config.limits.archive_bytes = 1000);
    let error = import(&node, good, &[]).await.unwrap_err();
    assert!(matches!(error, ImageError::TooLarge { .. }), "{error:?}");
}
