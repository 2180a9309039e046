//! Removing what nobody uses.

use image::Prune;

use crate::faulty::Faulty;
use crate::node::Node;
use crate::published::{Family, Packing, Published, tar_of};

fn with(name: &str) -> Published {
    let base = tar_of(&[("base", &vec![7; 50_000])]);
    Published::of_tars(
        vec![base, tar_of(&[(name, name.as_bytes())])],
        Packing::Gzip,
        Family::Oci,
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn pinned_used_and_leased_images_stay() {
    let tags = ["used", "leased", "pinned", "idle", "idle-too"];
    let images = tags.map(with);
    let tagged: Vec<(&str, &Published)> = tags.into_iter().zip(&images).collect();
    let registry = Faulty::holding(&tagged, |_| None).await;
    let pinned = registry.reference("app:pinned");
    let node = Node::with(&[&registry.host], |config| {
        config.pinned = vec![pinned.parse().unwrap()];
    });
    node.images.sweep().await.unwrap();
    for tag in tags {
        node.pull(&registry.reference(&format!("app:{tag}")))
            .await
            .unwrap();
    }
    let find = |tag: &str| node.images.get(&registry.reference(&format!("app:{tag}")));
    let used = find("used").unwrap().id.clone();
    let is_used = move |id: &state::ImageId| *id == used;
    let _lease = node.images.lease(&find("leased").unwrap().id).unwrap();

    let pruned = node
        .images
        .prune(Prune::Nameless, false, is_used.clone())
        .await
        .unwrap();
    assert!(pruned.is_empty(), "all have names");
    let planned = node
        .images
        .prune(Prune::All, true, is_used.clone())
        .await
        .unwrap();
    assert_eq!(node.images.list().len(), 5, "only told");
    let before = node.images.usage().bytes;
    let pruned = node.images.prune(Prune::All, false, is_used).await.unwrap();
    let names = |pruned: &[image::Pruned]| -> Vec<String> {
        let mut names: Vec<_> = pruned
            .iter()
            .map(|it| it.image.repo_tags[0].clone())
            .collect();
        names.sort();
        names
    };
    let idle = ["idle", "idle-too"].map(|tag| registry.reference(&format!("app:{tag}")));
    assert_eq!(names(&pruned), idle);
    assert_eq!(names(&planned), idle);
    let freed: u64 = pruned.iter().map(|it| it.freed_bytes).sum();
    assert_eq!(before - node.images.usage().bytes, freed);
    assert_eq!(planned.iter().map(|it| it.freed_bytes).sum::<u64>(), freed);
    assert!(freed > 0);
    for tag in ["used", "leased", "pinned"] {
        assert!(find(tag).is_some(), "{tag}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_images_of_a_layer_give_it_back() {
    let (one, two) = (with("one"), with("two"));
    let registry = Faulty::holding(&[("one", &one), ("two", &two)], |_| None).await;
    let node = Node::with_plain_hosts(&[&registry.host]);
    node.images.sweep().await.unwrap();
    let first = node.pull(&registry.reference("app:one")).await.unwrap();
    let alone = node.images.disk(&first);
    assert_eq!(alone.used_bytes, alone.reclaimable_bytes);
    assert_eq!(alone.used_bytes, node.images.usage().bytes);
    node.pull(&registry.reference("app:two")).await.unwrap();
    let shared = node.images.disk(&first);
    assert_eq!(shared.used_bytes, alone.used_bytes);
    assert!(shared.reclaimable_bytes + 50_000 < shared.used_bytes);
    let before = node.images.usage().bytes;
    node.images.remove(first.id.as_str()).await.unwrap();
    assert_eq!(before - node.images.usage().bytes, shared.reclaimable_bytes);
    let rest = node.images.usage().bytes;
    let pruned = node
        .images
        .prune(Prune::All, false, |_| false)
        .await
        .unwrap();
    assert_eq!(pruned[0].freed_bytes, rest);
    node.assert_untouched().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn images_without_a_name_are_pruned_without_asking_for_all() {
    let (old, new) = (with("old"), with("new"));
    let node = Node::with_plain_hosts(&[]);
    node.images.sweep().await.unwrap();
    for image in [&old, &new] {
        let archive = docker_archive(image, "app:1");
        node.images
            .import(std::io::Cursor::new(archive), &[])
            .await
            .unwrap();
    }
    assert_eq!(node.images.list().len(), 2);
    let pruned = node
        .images
        .prune(Prune::Nameless, false, |_| false)
        .await
        .unwrap();
    assert_eq!(pruned.len(), 1);
    assert_eq!(pruned[0].image.id.digest(), &old.id());
    assert_eq!(node.images.list()[0].id.digest(), &new.id());
}

/// As `docker save` writes it: no manifest, so no name by digest is left when the tag goes to another.
pub(crate) fn docker_archive(image: &Published, tag: &str) -> Vec<u8> {
    let layers: Vec<String> = (0..image.tars.len()).map(|n| format!("{n}.tar")).collect();
    let manifest = serde_json::json!([
        {"Config": "config.json", "RepoTags": [tag], "Layers": layers}
    ]);
    let manifest = manifest.to_string();
    let mut files: Vec<(&str, &[u8])> = vec![
        ("manifest.json", manifest.as_bytes()),
        ("config.json", &image.config),
    ];
    for (name, tar) in layers.iter().zip(&image.tars) {
        files.push((name, tar));
    }
    tar_of(&files)
}
