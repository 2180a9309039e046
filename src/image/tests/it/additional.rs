//! Images and layers of additional stores: found, shared, never fetched, never removed, and away at any moment.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use image::{ArchiveFormat, Image, ImageError, Prune, Verified, VerifySummary};
use tempfile::TempDir;

use crate::faulty::{Faulty, honest};
use crate::node::Node;
use crate::published::{Published, noise};

/// A store that has pulled this image, under this name.
async fn store(registry: &Faulty, name: &str) -> TempDir {
    let node = Node::with_plain_hosts(&[&registry.host]);
    node.pull(&registry.reference(name)).await.unwrap();
    node.into_store().await
}

fn root(store: &TempDir) -> PathBuf {
    store.path().join("root")
}

async fn node_with(registry: &Faulty, stores: &[PathBuf]) -> Node {
    let node = Node::with(&[&registry.host], |config| {
        config.additional_stores = stores.to_vec();
    });
    look(&node, stores).await;
    node.images.sweep().await.unwrap();
    node
}

async fn look(node: &Node, stores: &[PathBuf]) {
    node.images.set_additional_stores(stores.to_vec()).await;
}

/// Everything below a directory: names, modes, sizes and times.
fn listing(dir: &Path) -> Vec<String> {
    use std::os::unix::fs::MetadataExt as _;
    let mut found = Vec::new();
    let mut left = vec![dir.to_owned()];
    while let Some(dir) = left.pop() {
        for entry in std::fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            let stat = std::fs::symlink_metadata(&path).unwrap();
            found.push(format!(
                "{} {:o} {} {}.{}",
                path.display(),
                stat.mode(),
                stat.size(),
                stat.mtime(),
                stat.mtime_nsec()
            ));
            if stat.is_dir() {
                left.push(path);
            }
        }
    }
    found.sort();
    found
}

fn tags(image: &Image) -> Vec<String> {
    image.repo_tags.clone()
}

fn app() -> Published {
    Published::of_files(&[("a", &noise(1, 10_000)), ("b", &noise(2, 10_000))])
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_of_another_store_is_here_and_stays() {
    let image = app();
    let registry = Faulty::holding(&[("1", &image), ("2", &image)], |_| None).await;
    let store = store(&registry, "app:1").await;
    let before = listing(store.path());
    let node = node_with(&registry, &[root(&store)]).await;
    let (one, two) = (registry.reference("app:1"), registry.reference("app:2"));

    let found = node.images.get(&one).unwrap();
    assert_eq!(node.images.list().len(), 1);
    assert!(found.pinned);
    assert_eq!(found.store.as_deref(), Some(root(&store).as_path()));
    assert_eq!(tags(&found), [one.as_str()]);
    assert_eq!(node.images.document(&found).await.unwrap(), image.config);
    assert_eq!(node.images.usage().bytes, 0);
    let disk = node.images.disk(&found);
    assert_eq!(disk.reclaimable_bytes, 0);
    assert!(disk.used_bytes >= 20_000);
    let layers = node.images.layers(&found);
    assert!(layers.iter().all(|layer| layer.store == found.store));
    let states = node.images.additional_stores();
    assert_eq!((states[0].images, states[0].layers), (1, 2));
    assert!(states[0].problem.is_none());
    let lease = node.images.lease(&found.id).unwrap();
    assert!(lease.is_whole());

    // What is known is not fetched.
    let blobs = registry.gets("/blobs/");
    let pulled = node.pull(&one).await.unwrap();
    assert!(Arc::ptr_eq(&pulled, &found));
    assert_eq!(registry.gets("/blobs/"), blobs);

    // Nothing takes it away.
    for name in [one.as_str(), found.id.as_str()] {
        let refused = node.images.remove(name).await.unwrap_err();
        assert!(
            matches!(refused, ImageError::ReadOnlyStore { .. }),
            "{refused}"
        );
        assert!(
            refused.to_string().contains("root, from which"),
            "{refused}"
        );
    }
    drop(lease);
    let pruned = node.images.prune(Prune::All, false, |_| false);
    assert!(pruned.await.unwrap().is_empty());
    let (mut theirs, ours) = tokio::io::duplex(1 << 20);
    let exporting = node.images.export(&one, ours, ArchiveFormat::Oci);
    let reading = async {
        let mut bytes = Vec::new();
        tokio::io::AsyncReadExt::read_to_end(&mut theirs, &mut bytes)
            .await
            .unwrap();
        bytes
    };
    let (exported, bytes) = tokio::join!(exporting, reading);
    exported.unwrap();
    let other = Node::with_plain_hosts(&[]);
    let imported = other.images.import(std::io::Cursor::new(bytes), &[]).await;
    assert_eq!(imported.unwrap()[0].id, found.id);

    // Another name needs a record of our own, and no layer.
    let renamed = node.pull(&two).await.unwrap();
    assert_eq!(renamed.id, found.id);
    assert_eq!(tags(&renamed), [one.clone(), two.clone()]);
    assert!(renamed.store.is_none() && !renamed.pinned);
    assert_eq!(node.images.usage().bytes, 0);
    assert!(node.layers_on_disk().is_empty());
    assert_eq!(node.images.list().len(), 1);
    // Its removal takes that away, and what the other store has is seen again.
    node.images.remove(&two).await.unwrap();
    let again = node.images.get(&one).unwrap();
    assert_eq!(again.store, found.store);
    assert_eq!(tags(&again), [one.as_str()]);
    assert!(node.images.get(&two).is_none());

    look(&node, &[]).await;
    assert!(node.images.list().is_empty());
    assert!(node.images.additional_stores().is_empty());
    assert_eq!(listing(store.path()), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn single_layers_are_shared_and_may_go_and_come() {
    let (a, b) = (noise(1, 50_000), noise(2, 50_000));
    let base = Published::of_files(&[("a", &a)]);
    let image = Published::of_files(&[("a", &a), ("b", &b)]);
    let registry = Faulty::holding(&[("base", &base), ("1", &image)], |_| None).await;
    let store = store(&registry, "app:base").await;
    let before = listing(store.path());
    let stores = [root(&store)];
    let node = node_with(&registry, &stores).await;
    let name = registry.reference("app:1");

    let blobs = registry.gets("/blobs/");
    let pulled = node.pull(&name).await.unwrap();
    // The configuration and the upper layer.
    assert_eq!(registry.gets("/blobs/"), blobs + 2);
    assert_eq!(node.layers_on_disk().len(), 1);
    assert!(pulled.store.is_none() && !pulled.pinned);
    let layers = node.images.layers(&pulled);
    assert_eq!(layers[0].store.as_deref(), Some(stores[0].as_path()));
    assert_eq!(layers[1].store, None);
    let disk = node.images.disk(&pulled);
    assert_eq!(disk.reclaimable_bytes, layers[1].row.size_bytes);
    assert_eq!(node.images.usage().bytes, layers[1].row.size_bytes);

    // A container runs on it, the server goes, and when it is back the store is not.
    let lease = node.images.lease(&pulled.id).unwrap();
    let leased = lease.layers().to_vec();
    std::mem::forget(lease);
    let away = store.path().join("away");
    std::fs::rename(root(&store), &away).unwrap();
    let node = node.restart().await;
    look(&node, &stores).await;
    let problem = node.images.additional_stores()[0].problem.clone();
    assert!(problem.unwrap().to_string().contains("is it mounted?"));
    let lease = node.images.lease_layers(&leased);
    assert!(!lease.is_whole());
    node.images.sweep().await.unwrap();
    assert!(node.images.get(&name).is_none());
    assert!(node.images.list().is_empty());
    assert!(node.images.lease(&pulled.id).is_none());
    assert_eq!(node.layers_on_disk().len(), 1);
    drop(lease);
    assert_eq!(node.layers_on_disk().len(), 1);

    // It comes back by itself, as it was.
    std::fs::rename(&away, root(&store)).unwrap();
    node.images.look_at_stores().await;
    let back = node.images.get(&name).unwrap();
    assert_eq!(back.id, pulled.id);
    assert_eq!(tags(&back), [name.as_str()]);
    assert_eq!(back.repo_digests, pulled.repo_digests);
    assert_eq!(node.images.list().len(), 2);

    // Or a pull brings what is missing, and then nothing of the store is needed.
    std::fs::rename(root(&store), &away).unwrap();
    let blobs = registry.gets("/blobs/");
    let pulled = node.pull(&name).await.unwrap();
    assert_eq!(registry.gets("/blobs/"), blobs + 2);
    assert_eq!(node.layers_on_disk().len(), 2);
    std::fs::rename(&away, root(&store)).unwrap();
    node.images.look_at_stores().await;
    let layers = node.images.layers(&pulled);
    assert!(layers.iter().all(|layer| layer.store.is_none()));
    node.images.remove(&name).await.unwrap();
    assert_eq!(node.images.usage().bytes, 0);
    assert_eq!(node.images.list().len(), 1);

    // What waits can be removed, by whoever knows its name.
    node.pull(&name).await.unwrap();
    std::fs::rename(root(&store), &away).unwrap();
    node.images.look_at_stores().await;
    assert_eq!(node.layers_on_disk().len(), 1);
    node.images.remove(&name).await.unwrap();
    node.assert_untouched().await;
    std::fs::rename(&away, root(&store)).unwrap();
    node.images.look_at_stores().await;
    node.pull(&name).await.unwrap();
    look(&node, &[]).await;
    let pruned = node.images.prune(Prune::All, false, |_| false).await;
    assert_eq!(tags(&pruned.unwrap()[0].image), [name.as_str()]);
    node.assert_untouched().await;
    assert_eq!(listing(store.path()), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn our_own_image_comes_first_then_the_order_of_the_list() {
    let (old, new) = (
        Published::of_files(&[("v", b"old")]),
        Published::of_files(&[("v", b"new")]),
    );
    // The same name leads elsewhere later.
    let is_later = Arc::new(AtomicBool::new(false));
    let registry = Faulty::start({
        let [old, new] = [old, new].map(|image| [("1".to_owned(), image)]);
        let is_later = Arc::clone(&is_later);
        move |seen| {
            let images = if is_later.load(Ordering::SeqCst) {
                &new
            } else {
                &old
            };
            honest(images, seen)
        }
    })
    .await;
    let one = store(&registry, "app:1").await;
    let name = registry.reference("app:1");
    is_later.store(true, Ordering::SeqCst);
    let two = store(&registry, "app:1").await;
    let (one, two) = (root(&one), root(&two));
    let node = node_with(&registry, &[one.clone(), two.clone()]).await;
    let found = node.images.get(&name).unwrap();
    assert_eq!(found.store.as_deref(), Some(one.as_path()));
    // The second one is there, without the name that means the first one.
    let list = node.images.list();
    assert_eq!(list.len(), 2);
    let other = list.iter().find(|image| image.id != found.id).unwrap();
    assert!(other.repo_tags.is_empty() && other.pinned);
    look(&node, &[two.clone(), one.clone()]).await;
    let found = node.images.get(&name).unwrap();
    assert_eq!(found.store.as_deref(), Some(two.as_path()));
    // Ours: nothing but a record.
    look(&node, &[one.clone(), two.clone()]).await;
    let pulled = node.pull(&name).await.unwrap();
    assert_eq!(pulled.id, other.id);
    assert!(pulled.store.is_none());
    assert!(node.layers_on_disk().is_empty());
    assert_eq!(node.images.get(&name).unwrap().id, pulled.id);
    node.images.remove(&name).await.unwrap();
    assert_eq!(node.images.get(&name).unwrap().id, found_first(&node, &one));
}

fn found_first(node: &Node, store: &Path) -> state::ImageId {
    let list = node.images.list().into_iter();
    let of_store = |image: &Arc<Image>| image.store.as_deref() == Some(store);
    list.filter(of_store)
        .map(|image| image.id.clone())
        .next()
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_cannot_be_used_is_told_of_and_may_be_mended() {
    let image = app();
    let registry = Faulty::holding(&[("1", &image)], |_| None).await;
    let store = store(&registry, "app:1").await;
    let database = root(&store).join("images.db");
    let name = registry.reference("app:1");
    let sound = std::fs::read(&database).unwrap();
    let node = node_with(&registry, &[root(&store)]).await;
    let problem = || {
        let states = node.images.additional_stores();
        let problem = states[0].problem.as_deref();
        let mut words = String::new();
        let mut next = problem.map(|it| it as &dyn std::error::Error);
        while let Some(error) = next {
            words.push_str(&error.to_string());
            words.push_str("; ");
            next = error.source();
        }
        words
    };
    assert!(node.images.get(&name).is_some());

    // Cut short, overwritten, with changes beside it: each is said, and mended by the sound file.
    let log = root(&store).join("images.db-wal");
    let write = |bytes: &[u8]| std::fs::write(&database, bytes).unwrap();
    let damage: [(&str, &dyn Fn()); 3] = [
        ("malformed", &|| write(&sound[..sound.len() - 4096])),
        ("not a database", &|| write(&[7; 9000])),
        ("not closed by the server", &|| {
            std::fs::write(&log, "x").unwrap();
            // As a file of another time it is looked at again.
            std::fs::write(&database, &sound).unwrap();
        }),
    ];
    for (words, damage) in damage {
        damage();
        node.images.look_at_stores().await;
        assert!(problem().contains(words), "{words}: {}", problem());
        assert!(node.images.list().is_empty());
        let _ = std::fs::remove_file(&log);
        tokio::time::sleep(Duration::from_millis(5)).await;
        std::fs::write(&database, &sound).unwrap();
        node.images.look_at_stores().await;
        assert_eq!(problem(), "");
        assert!(node.images.get(&name).is_some());
    }

    // A record with another configuration than its id says is not believed; a layer that is missing is missed.
    let changed = String::from_utf8_lossy(&sound).contains("amd64");
    assert!(changed, "the test wants a configuration to change");
    let position = sound.windows(5).rposition(|it| it == b"amd64").unwrap();
    let mut other = sound.clone();
    other[position..position + 5].copy_from_slice(b"amd65");
    std::fs::write(&database, &other).unwrap();
    node.images.look_at_stores().await;
    let state = &node.images.additional_stores()[0];
    assert_eq!((state.images, state.unusable_images), (0, 1));
    assert!(node.images.list().is_empty());
    let layers = root(&store).join("layers");
    std::fs::rename(&layers, store.path().join("layers")).unwrap();
    std::fs::create_dir(&layers).unwrap();
    std::fs::write(&database, &sound).unwrap();
    node.images.look_at_stores().await;
    let state = &node.images.additional_stores()[0];
    assert_eq!(
        (state.images, state.unusable_images, state.layers),
        (0, 1, 0)
    );
    assert!(node.images.list().is_empty());
    // And fetched.
    node.pull(&name).await.unwrap();
    assert_eq!(node.layers_on_disk().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_does_not_answer_holds_up_nothing_twice() {
    let image = app();
    let registry = Faulty::holding(&[("1", &image)], |_| None).await;
    let folder = tempfile::tempdir().unwrap();
    let dead = folder.path().to_owned();
    // Whoever opens it waits for a writer.
    let database = dead.join("images.db");
    let made = std::process::Command::new("mkfifo").arg(&database).status();
    assert!(made.unwrap().success());
    let sound = store(&registry, "app:1").await;
    let node = node_with(&registry, &[dead.clone(), root(&sound)]).await;
    let name = registry.reference("app:1");
    let states = node.images.additional_stores();
    let problem = states[0].problem.as_ref().unwrap().to_string();
    assert!(problem.ends_with("does not answer"), "{problem}");
    assert_eq!(states[1].images, 1);
    assert!(node.images.get(&name).is_some());
    // Nobody waits for it again.
    let looking = tokio::time::timeout(Duration::from_secs(4), async {
        for _ in 0..10 {
            node.images.look_at_stores().await;
        }
        node.pull(&name).await
    });
    looking.await.expect("it waits for the dead store").unwrap();
    // It wakes up, as something else.
    let writer = std::fs::File::options().write(true).open(&database);
    drop(writer.unwrap());
    std::fs::remove_file(&database).unwrap();
    std::fs::remove_dir(&dead).unwrap();
    std::fs::rename(root(&sound), &dead).unwrap();
    let mut answers = false;
    for _ in 0..100 {
        node.images.look_at_stores().await;
        let states = node.images.additional_stores();
        answers = states[0].problem.is_none() && states[1].problem.is_some();
        if answers {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(answers, "{:?}", node.images.additional_stores());
    let found = node.images.get(&name).unwrap();
    assert_eq!(found.store.as_deref(), Some(dead.as_path()));
}

#[tokio::test(flavor = "multi_thread")]
async fn layers_of_other_stores_are_verified_and_not_mended() {
    let image = app();
    let registry = Faulty::holding(&[("1", &image)], |_| None).await;
    let store = store(&registry, "app:1").await;
    let node = node_with(&registry, &[root(&store)]).await;
    let name = registry.reference("app:1");
    let found = node.images.get(&name).unwrap();
    let verify = async |repair| {
        let (told, mut news) = tokio::sync::mpsc::channel(100);
        let summary = node.images.verify(None, repair, &told).await.unwrap();
        drop(told);
        let mut damaged = Vec::new();
        while let Some(news) = news.recv().await {
            if let Verified::Damaged(layer) = news {
                damaged.push(layer);
            }
        }
        (damaged, summary)
    };
    let whole = VerifySummary {
        layers: 2,
        ..VerifySummary::default()
    };
    assert_eq!(verify(true).await.1, whole);
    let layer = root(&store).join("layers").join(found.layers[1].hex());
    std::fs::write(layer.join("b"), "evil").unwrap();
    let blobs = registry.gets("/blobs/");
    let (damaged, summary) = verify(true).await;
    assert_eq!((summary.damaged, summary.mended), (1, 0));
    assert_eq!(damaged[0].store, found.store);
    assert_eq!(damaged[0].images, [name]);
    let mended = damaged[0].mended.as_ref().unwrap();
    let words = mended.as_ref().unwrap_err().to_string();
    assert!(words.contains("which is only read"), "{words}");
    assert_eq!(registry.gets("/blobs/"), blobs);
    assert_eq!(std::fs::read(layer.join("b")).unwrap(), b"evil");
}
