//! Pulls that go on where they broke: over connections, hosts, cancellations and restarts of the server.

use std::collections::HashMap;
use std::os::unix::fs::{MetadataExt, symlink};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use image::{ImageError, ImagesConfig, LayerState, PullRequest};

use crate::faulty::{Faulty, Reply, Seen};
use crate::node::Node;
use crate::published::{Family, Packing, Published, noise, tar_of};

const MIB: usize = 1 << 20;

/// An image with one layer that hardly compresses.
fn large(seed: u64, mib: usize) -> Published {
    Published::of_files(&[("file", &noise(seed, mib * MIB))])
}

/// Counts the bytes of blobs that replies carry.
#[derive(Clone, Default)]
struct Sent(Arc<AtomicU64>);

impl Sent {
    fn count(&self, reply: &Reply) {
        let bytes = match reply {
            Reply::Full(_, _, body) | Reply::Paced { body, .. } => body.len(),
            _ => 0,
        };
        self.0.fetch_add(bytes as u64, Ordering::SeqCst);
    }

    fn bytes(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}

/// A registry whose layers are sent as `answer` says: the request, the blob, how often it was asked for before.
async fn registry(
    image: &Published,
    answer: impl Fn(&Seen, &[u8], usize) -> Reply + Send + Sync + 'static,
) -> (Faulty, Sent) {
    let layers: HashMap<String, Vec<u8>> = image
        .layers
        .iter()
        .map(|layer| (state::Digest::sha256_of(layer).to_string(), layer.clone()))
        .collect();
    let asked = Mutex::new(HashMap::<String, usize>::new());
    let sent = Sent::default();
    let faulty = Faulty::holding(&[("1", image)], {
        let sent = sent.clone();
        move |seen| {
            let name = seen.path.rsplit('/').next()?;
            let layer = layers.get(name)?;
            let before = {
                let mut asked = asked.lock().unwrap();
                let count = asked.entry(name.to_owned()).or_default();
                *count += 1;
                *count - 1
            };
            let reply = answer(seen, layer, before);
            sent.count(&reply);
            Some(reply)
        }
    })
    .await;
    (faulty, sent)
}

fn in_order(config: &mut ImagesConfig) {
    config.ranges.parallel = 1;
}

/// Waits until a pull under way has this much of its layers on the disk.
async fn until_kept(node: &Node, bytes: u64) {
    for _ in 0..2000 {
        let kept: u64 = node
            .partials()
            .iter()
            .filter_map(|path| std::fs::metadata(path).ok())
            .map(|file| file.len())
            .sum();
        if kept >= bytes {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("{bytes} bytes never came");
}

fn assert_whole(node: &Node, image: &image::Image, seed: u64, mib: usize) {
    assert!(node.read(image, "file").unwrap() == noise(seed, mib * MIB));
    assert!(node.partials().is_empty(), "{:?}", node.partials());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_download_goes_on_where_it_broke() {
    let image = large(1, 3);
    let size = image.layers[0].len() as u64;
    let (registry, sent) = registry(&image, |seen, layer, before| {
        let whole = Reply::part(seen, layer);
        match before {
            0..10 => whole.cut_after(200_000, MIB, Duration::ZERO),
            _ => whole,
        }
    })
    .await;
    let node = Node::with(&[&registry.host], |config| {
        in_order(config);
        // Far fewer than there are breaks.
        config.attempts = 2;
    });
    let pulled = node.pull(&registry.reference("app:1")).await.unwrap();
    assert_whole(&node, &pulled, 1, 3);
    assert_eq!(sent.bytes(), size, "no byte twice");
    assert_eq!(node.images.pull_totals().breaks, 10);
    assert_eq!(node.images.pull_totals().bytes_fetched, size);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stalled_host_is_followed_by_the_next_one_at_the_same_offset() {
    let image = large(2, 2);
    let size = image.layers[0].len();
    let (mirror, _) = registry(&image, move |_, layer, _| Reply::Stall {
        body: layer[..MIB].to_vec(),
        length: size,
    })
    .await;
    let (origin, sent) = registry(&image, |seen, layer, _| Reply::part(seen, layer)).await;
    let node = Node::with(&[&mirror.host, &origin.host], |config| {
        in_order(config);
        config.timeouts.stall = Duration::from_millis(300);
        config.registries.get_mut(&origin.host).unwrap().mirrors = vec![mirror.host.clone()];
    });
    let pulled = node.pull(&origin.reference("app:1")).await.unwrap();
    assert_whole(&node, &pulled, 2, 2);
    assert_eq!(sent.bytes(), (size - MIB) as u64);
    let totals = node.images.pull_totals();
    assert_eq!((totals.stalls, totals.host_changes), (1, 1), "{totals:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn registries_that_ignore_or_botch_ranges_are_coped_with() {
    type Botch = fn(&Seen, &[u8]) -> Reply;
    let botches: [(&str, Botch); 5] = [
        ("ignored", |_, layer| Reply::ok(layer)),
        ("416", |seen, layer| match seen.header("range") {
            Some(_) => Reply::status(416),
            None => Reply::ok(layer),
        }),
        ("a lie about the start", |seen, layer| {
            match seen.range(layer.len()) {
                Some(_) => Reply::Full(
                    206,
                    vec![("Content-Range", format!("bytes 0-{}/{0}", layer.len() - 1))],
                    layer.to_vec(),
                ),
                None => Reply::ok(layer),
            }
        }),
        ("a lie about the bytes", |seen, layer| {
            match seen.range(layer.len()) {
                Some((from, to)) => Reply::Full(
                    206,
                    vec![(
                        "Content-Range",
                        format!("bytes {from}-{}/{}", to - 1, layer.len()),
                    )],
                    noise(77, to - from),
                ),
                None => Reply::ok(layer),
            }
        }),
        ("another version", |seen, layer| {
            match seen.header("if-range") {
                Some(tag) => {
                    assert_eq!(tag, "\"one\"");
                    Reply::ok(layer)
                }
                None => Reply::Full(200, vec![("ETag", "\"one\"".to_owned())], layer.to_vec()),
            }
        }),
    ];
    for (name, botch) in botches {
        for parallel in [1, 3] {
            let image = large(3, 2);
            let (registry, _) = registry(&image, move |seen, layer, before| {
                let reply = botch(seen, layer);
                match before {
                    0 => reply.cut_after(MIB, MIB, Duration::ZERO),
                    _ => reply,
                }
            })
            .await;
            let node = Node::with(&[&registry.host], |config| {
                config.ranges.parallel = parallel;
                config.ranges.min_bytes = 1;
                config.attempts = 2;
            });
            let pulled = node.pull(&registry.reference("app:1")).await;
            let pulled = pulled.unwrap_or_else(|error| panic!("{name} {parallel}: {error}"));
            assert_whole(&node, &pulled, 3, 2);
            assert!(node.leftovers().await.is_empty(), "{name}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_layer_comes_in_pieces_at_the_same_time() {
    let image = large(4, 8);
    let size = image.layers[0].len() as u64;
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (registry, sent) = registry(&image, {
        let (now, most) = (Arc::clone(&now), Arc::clone(&most));
        move |seen, layer, _| {
            let here = now.fetch_add(1, Ordering::SeqCst) + 1;
            most.fetch_max(here, Ordering::SeqCst);
            std::thread::sleep(Duration::from_millis(30));
            now.fetch_sub(1, Ordering::SeqCst);
            Reply::part(seen, layer)
        }
    })
    .await;
    let node = Node::with(&[&registry.host], |config| {
        config.ranges.min_bytes = 1 << 20;
    });
    let pulled = node.pull(&registry.reference("app:1")).await.unwrap();
    assert_whole(&node, &pulled, 4, 8);
    assert_eq!(sent.bytes(), size, "no byte twice");
    assert!(most.load(Ordering::SeqCst) <= 3);
    assert!(registry.gets("/blobs/") > 8, "one for each piece");
}

#[tokio::test(flavor = "multi_thread")]
async fn pieces_survive_breaks_and_a_restart() {
    let image = large(5, 8);
    let size = image.layers[0].len() as u64;
    let slow = Arc::new(AtomicBool::new(true));
    let (registry, sent) = registry(&image, {
        let slow = Arc::clone(&slow);
        move |seen, layer, before| {
            let whole = Reply::part(seen, layer);
            if slow.load(Ordering::SeqCst) {
                whole.cut_after(700_000, 100_000, Duration::from_millis(20))
            } else if before % 3 == 0 {
                whole.cut_after(500_000, MIB, Duration::ZERO)
            } else {
                whole
            }
        }
    })
    .await;
    let node = Node::with(&[&registry.host], |config| {
        config.ranges.min_bytes = 1 << 20;
    });
    let name = registry.reference("app:1");
    let (images, request) = (node.images.clone(), PullRequest::anonymous(name.clone()));
    let pull = tokio::spawn(async move { images.pull(request).await });
    until_kept(&node, size / 2).await;
    pull.abort();
    let _ = pull.await;
    let node = node.restart().await;
    slow.store(false, Ordering::SeqCst);
    let pulled = node.pull(&name).await.unwrap();
    assert_whole(&node, &pulled, 5, 8);
    assert!(node.images.pull_totals().bytes_resumed >= size / 2);
    // What was on its way when it ended, and the pieces that were cut, announced what they did not send.
    assert!(
        node.images.pull_totals().bytes_fetched <= size / 2,
        "{:?}",
        node.images.pull_totals()
    );
    assert!(sent.bytes() >= size);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_that_is_given_up_leaves_what_it_has_to_the_next_one() {
    let image = large(6, 4);
    let size = image.layers[0].len() as u64;
    let slow = Arc::new(AtomicBool::new(true));
    let (registry, _) = registry(&image, {
        let slow = Arc::clone(&slow);
        move |seen, layer, _| {
            let whole = Reply::part(seen, layer);
            if slow.load(Ordering::SeqCst) {
                whole.cut_after(usize::MAX, 50_000, Duration::from_millis(10))
            } else {
                whole
            }
        }
    })
    .await;
    let node = Node::with(&[&registry.host], in_order);
    let name = registry.reference("app:1");
    let (images, request) = (node.images.clone(), PullRequest::anonymous(name.clone()));
    let pull = tokio::spawn(async move { images.pull(request).await });
    until_kept(&node, 2 << 20).await;
    let progress = node.images.pulls();
    assert_eq!(progress[0].reference, name);
    let layer = &progress[0].layers[0];
    assert_eq!((layer.size, layer.state), (size, LayerState::Downloading));
    assert!(layer.fetched >= 2 << 20 && layer.bytes_per_second > 0);
    assert_eq!(layer.host.as_deref(), Some(registry.host.as_str()));
    assert!(node.images.usage().bytes >= 2 << 20, "it is told of");
    for file in node.partials() {
        assert_eq!(file.metadata().unwrap().mode() & 0o7777, 0o600);
    }
    let dir = std::fs::metadata(node.root().join("partial")).unwrap();
    assert_eq!(dir.mode() & 0o7777, 0o700);
    pull.abort();
    let _ = pull.await;
    slow.store(false, Ordering::SeqCst);
    let before = node.images.pull_totals().bytes_fetched;
    // At once, while the threads of the first one may still be at it.
    let pulled = node.pull(&name).await.unwrap();
    assert_whole(&node, &pulled, 6, 4);
    let totals = node.images.pull_totals();
    assert!(totals.bytes_resumed >= 2 << 20, "{totals:?}");
    assert!(
        totals.bytes_fetched - before <= size - (2 << 20),
        "{totals:?}"
    );
    assert_eq!((totals.cancelled, totals.succeeded), (1, 1));
    assert!(node.images.pulls().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn cut_twenty_times_and_restarted_five_times_costs_a_tenth_more_at_most() {
    let image = large(7, 24);
    let size = image.layers[0].len() as u64;
    for parallel in [1, 3] {
        let cuts = Arc::new(AtomicUsize::new(0));
        let (registry, _) = registry(&image, {
            let cuts = Arc::clone(&cuts);
            move |seen, layer, before| {
                let whole = Reply::part(seen, layer);
                let at = usize::try_from(
                    u64::from_le_bytes(noise(before as u64 + 99, 8).try_into().unwrap())
                        % (2 * MIB as u64),
                )
                .unwrap();
                if cuts.fetch_add(1, Ordering::SeqCst) < 20 {
                    // Slow enough for the tests to end the server somewhere on the way.
                    whole.cut_after(at.max(100_000), 64 << 10, Duration::from_millis(2))
                } else {
                    whole.cut_after(usize::MAX, 64 << 10, Duration::from_millis(2))
                }
            }
        })
        .await;
        let mut node = Node::with(&[&registry.host], |config| {
            config.ranges.parallel = parallel;
            config.ranges.min_bytes = 1 << 20;
        });
        let name = registry.reference("app:1");
        let mut fetched = 0;
        for kill in 1..=5 {
            let (images, request) = (node.images.clone(), PullRequest::anonymous(name.clone()));
            let pull = tokio::spawn(async move { images.pull(request).await });
            until_kept(&node, kill * size / 7).await;
            pull.abort();
            let _ = pull.await;
            // Until its connections are gone: what they still bring counts, too.
            while registry.open_connections() > 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            fetched += node.images.pull_totals().bytes_fetched;
            node = node.restart().await;
        }
        let pulled = node.pull(&name).await.unwrap();
        fetched += node.images.pull_totals().bytes_fetched;
        assert_whole(&node, &pulled, 7, 24);
        assert!(cuts.load(Ordering::SeqCst) >= 20);
        println!("{parallel} connections: {size} bytes, {fetched} fetched");
        assert!(fetched * 10 <= size * 11, "{fetched} of {size}");
    }
}

/// Puts a file in the place of a layer's first bytes, as a former server would have left it.
fn plant(node: &Node, image: &Published, bytes: &[u8]) {
    let dir = node.root().join("partial");
    std::fs::create_dir_all(&dir).unwrap();
    let name = format!("sha256-{}.0", image.layer_digest(0).hex());
    std::fs::write(dir.join(name), bytes).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partial_file_that_lies_costs_one_more_download() {
    let image = large(8, 2);
    let layer = &image.layers[0];
    let mut flipped = layer[..MIB].to_vec();
    flipped[MIB / 2] ^= 1;
    let mut longer = layer.clone();
    longer.extend(b"more than there is");
    for lie in [
        noise(1, MIB),
        flipped,
        vec![0; MIB],
        noise(2, layer.len()),
        longer,
    ] {
        let (registry, _) = registry(&image, |seen, layer, _| Reply::part(seen, layer)).await;
        let node = Node::with(&[&registry.host], in_order);
        plant(&node, &image, &lie);
        let node = node.restart().await;
        let pulled = node.pull(&registry.reference("app:1")).await.unwrap();
        assert_whole(&node, &pulled, 8, 2);
        assert!(node.leftovers().await.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partial_file_is_no_right_to_a_layer() {
    let image = large(9, 2);
    let (registry, _) = registry(&image, |_, _, _| Reply::refusal(403, "DENIED")).await;
    // Half of it, and all of it.
    for bytes in [&image.layers[0][..MIB], &image.layers[0][..]] {
        let node = Node::with(&[&registry.host], in_order);
        plant(&node, &image, bytes);
        let node = node.restart().await;
        let error = node.pull(&registry.reference("app:1")).await.unwrap_err();
        assert!(
            matches!(error, ImageError::Unauthorized { .. }),
            "{error:?}"
        );
        assert!(node.layers_on_disk().is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_whole_but_was_not_committed_is_not_fetched_again() {
    let image = large(10, 2);
    let (registry, sent) = registry(&image, |seen, layer, _| Reply::part(seen, layer)).await;
    let node = Node::with(&[&registry.host], in_order);
    plant(&node, &image, &image.layers[0]);
    let node = node.restart().await;
    let pulled = node.pull(&registry.reference("app:1")).await.unwrap();
    assert_whole(&node, &pulled, 10, 2);
    assert_eq!(sent.bytes(), 1, "to see whether we may have it");
}

#[tokio::test(flavor = "multi_thread")]
async fn partial_files_are_bounded_by_size_and_age_and_links_are_not_followed() {
    let image = large(11, 2);
    let node = Node::with(&[], |config| config.partial.max_bytes = 1_500_000);
    let dir = node.root().join("partial");
    let name = |seed: &str| {
        let digest = state::Digest::sha256_of(seed.as_bytes());
        dir.join(format!("sha256-{}.0", digest.hex()))
    };
    std::fs::create_dir_all(dir.join("a directory/inside")).unwrap();
    std::fs::write(dir.join("something else"), b"x").unwrap();
    let (old, older, new) = (name("old"), name("older"), name("new"));
    for (path, hours) in [(&older, 30), (&old, 2), (&new, 1)] {
        std::fs::write(path, noise(1, MIB)).unwrap();
        let time = std::time::SystemTime::now() - Duration::from_hours(hours);
        let file = std::fs::File::options().write(true).open(path).unwrap();
        file.set_modified(time).unwrap();
    }
    let outside = node.root().join("outside");
    std::fs::write(&outside, noise(1, MIB)).unwrap();
    let link = name("link");
    symlink(&outside, &link).unwrap();
    let node = node.restart().await;
    assert_eq!(node.partials(), [new]);
    assert!(outside.exists() && image.layers.len() == 1);
    assert!(node.images.usage().bytes >= MIB as u64);
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_pods_fetch_an_image_once_and_one_that_leaves_harms_none() {
    let image = Published::of_tars(
        (0..4)
            .map(|seed| tar_of(&[("file", &noise(seed + 20, MIB))]))
            .collect(),
        Packing::Gzip,
        Family::Oci,
    );
    let size: u64 = image.layers.iter().map(|layer| layer.len() as u64).sum();
    let (registry, sent) = registry(&image, |seen, layer, _| {
        Reply::part(seen, layer).cut_after(usize::MAX, 64 << 10, Duration::from_millis(5))
    })
    .await;
    let node = Node::with_plain_hosts(&[&registry.host]);
    // By tag, and by the digest that the tag leads to.
    let names = [
        registry.reference("app:1"),
        registry.reference(&format!("app@{}", image.digest())),
    ];
    let mut pulls: Vec<_> = (0..50)
        .map(|number| {
            let (images, name) = (node.images.clone(), names[number % 2].clone());
            tokio::spawn(async move { images.pull(PullRequest::anonymous(name)).await })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(30)).await;
    for leaving in pulls.drain(..2) {
        leaving.abort();
    }
    for pull in pulls {
        assert_eq!(pull.await.unwrap().unwrap().id.digest(), &image.id());
    }
    assert_eq!(sent.bytes(), size);
    assert_eq!(node.images.pull_totals().bytes_fetched, size);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_image_does_not_keep_a_small_one_waiting() {
    let many = Published::of_tars(
        (0..20)
            .map(|seed| tar_of(&[("file", &noise(seed + 40, 200_000))]))
            .collect(),
        Packing::Gzip,
        Family::Oci,
    );
    let small = Published::of_files(&[("small", b"x")]);
    let (large, _) = registry(&many, |seen, layer, _| {
        Reply::part(seen, layer).cut_after(usize::MAX, 20_000, Duration::from_millis(20))
    })
    .await;
    let (other, _) = registry(&small, |seen, layer, _| Reply::part(seen, layer)).await;
    let node = Node::with(&[&large.host, &other.host], |config| {
        config.parallel_layers = 2;
        config.parallel_layers_per_pull = 2;
    });
    let pull = tokio::spawn({
        let (images, name) = (node.images.clone(), large.reference("app:1"));
        async move { images.pull(PullRequest::anonymous(name)).await }
    });
    while large.gets("/blobs/") < 3 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    node.pull(&other.reference("app:1")).await.unwrap();
    assert!(!pull.is_finished(), "it came in between");
    assert!(large.gets("/blobs/") < 15, "long before the end");
    pull.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_that_is_whole_is_not_fetched_again_for_an_image_that_is_not() {
    let image = Published::of_files(&[("whole", &noise(60, 2 * MIB)), ("late", &noise(61, MIB))]);
    let late = image.layers[1].clone();
    let open = Arc::new(AtomicBool::new(false));
    let (registry, _) = registry(&image, {
        let open = Arc::clone(&open);
        move |seen, layer, _| {
            if layer == late.as_slice() && !open.load(Ordering::SeqCst) {
                return Reply::Silence;
            }
            Reply::part(seen, layer)
        }
    })
    .await;
    let node = Node::with(&[&registry.host], in_order);
    let name = registry.reference("app:1");
    let (images, request) = (node.images.clone(), PullRequest::anonymous(name.clone()));
    let pull = tokio::spawn(async move { images.pull(request).await });
    while node
        .images
        .pulls()
        .first()
        .and_then(|pull| pull.layers.first())
        .is_none_or(|layer| layer.state != LayerState::Done)
    {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    pull.abort();
    let _ = pull.await;
    let node = node.restart().await;
    open.store(true, Ordering::SeqCst);
    node.pull(&name).await.unwrap();
    let late = image.layers[1].len() as u64;
    assert_eq!(node.images.pull_totals().bytes_fetched, late);
    assert!(node.partials().is_empty());
}
