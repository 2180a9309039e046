#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use bytes::Bytes;

use super::*;

fn record(seed: &str) -> ImageRecord {
    record_with_id(Digest::sha256_of(seed.as_bytes()))
}

fn record_with_id(digest: Digest) -> ImageRecord {
    ImageRecord {
        seals: Vec::new(),
        id: digest.into(),
        kind: crate::artifact::ImageKind::Container,
        layers: vec![],
        size_bytes: 1,
        config: Arc::default(),
        manifest_digest: None,
        raw_config: Bytes::new(),
    }
}

fn names(reference: &str, manifest: &str) -> Vec<String> {
    names_of(
        &Reference::parse(reference).unwrap(),
        Some(&Digest::sha256_of(manifest.as_bytes())),
    )
}

fn find<'a>(catalogue: &'a Catalogue, name: &str) -> Option<&'a Arc<Image>> {
    let names: Vec<Reference> = Reference::parse(name).into_iter().collect();
    catalogue.find(name, &names)
}

#[test]
fn a_pull_by_tag_gives_a_tag_and_a_digest() {
    let mut catalogue = Catalogue::default();
    let a = record("a");
    catalogue.insert(&a, &names("busybox", "m"));
    let image = catalogue.by_id(&a.id).unwrap();
    assert_eq!(image.repo_tags, ["docker.io/library/busybox:latest"]);
    let digest = format!("docker.io/library/busybox@{}", Digest::sha256_of(b"m"));
    assert_eq!(image.repo_digests, [digest.as_str()]);
    for name in [
        "busybox",
        "docker.io/busybox",
        "busybox:latest",
        &digest,
        &format!("busybox:other@{}", Digest::sha256_of(b"m")),
        a.id.as_str(),
        a.id.hex(),
        &a.id.hex()[..6],
        &a.id.as_str()[..20],
    ] {
        let found = find(&catalogue, name);
        assert_eq!(found.map(|image| &image.id), Some(&a.id), "{name}");
    }
    for name in [
        "busybox:1",
        "quay.io/busybox",
        &a.id.hex()[..5],
        "",
        "sha256:",
        "sha256:zz",
    ] {
        assert!(find(&catalogue, name).is_none(), "{name}");
    }
}

#[test]
fn a_pull_by_digest_gives_no_tag() {
    let mut catalogue = Catalogue::default();
    let a = record("a");
    let reference = format!("quay.io/app:1@{}", Digest::sha256_of(b"m"));
    catalogue.insert(&a, &names(&reference, "m"));
    let image = catalogue.by_id(&a.id).unwrap();
    assert!(image.repo_tags.is_empty());
    assert_eq!(
        image.repo_digests,
        [format!("quay.io/app@{}", Digest::sha256_of(b"m"))]
    );
}

#[test]
fn many_names_are_one_entry() {
    let mut catalogue = Catalogue::default();
    let a = record("a");
    for name in ["r.io/x:1", "r.io/x:2", "r.io/x:3", "other.io/y:1"] {
        catalogue.insert(&a, &names(name, "m"));
    }
    let list = catalogue.list();
    assert_eq!(list.len(), 1);
    assert_eq!(
        list[0].repo_tags,
        ["other.io/y:1", "r.io/x:1", "r.io/x:2", "r.io/x:3"]
    );
    assert_eq!(list[0].repo_digests.len(), 2);
    catalogue.remove(&a.id);
    assert!(catalogue.list().is_empty());
    assert!(find(&catalogue, "r.io/x:1").is_none());
}

#[test]
fn a_moved_tag_leaves_its_old_image() {
    let mut catalogue = Catalogue::default();
    let (old, new) = (record("old"), record("new"));
    catalogue.insert(&old, &names("app", "m1"));
    let before = Arc::clone(find(&catalogue, "app").unwrap());
    catalogue.insert(&new, &names("app", "m2"));
    assert_eq!(find(&catalogue, "app").unwrap().id, new.id);
    let old = catalogue.by_id(&old.id).unwrap();
    assert!(old.repo_tags.is_empty());
    assert_eq!(old.repo_digests.len(), 1);
    assert_eq!(before.repo_tags.len(), 1, "a snapshot does not change");
}

#[test]
fn an_ambiguous_start_of_an_id_names_nothing() {
    let mut catalogue = Catalogue::default();
    let with = |last: char| {
        format!("sha256:{}{last}", "ab".repeat(31) + "c")
            .parse::<Digest>()
            .unwrap()
    };
    catalogue.insert(&record_with_id(with('1')), &[]);
    assert!(find(&catalogue, "ababab").is_some());
    catalogue.insert(&record_with_id(with('2')), &[]);
    assert!(find(&catalogue, "ababab").is_none());
    assert!(find(&catalogue, with('2').as_str()).is_some());
    let named = record("named");
    catalogue.insert(&named, &names("ababab", "m"));
    assert_eq!(
        find(&catalogue, "ababab").unwrap().id,
        named.id,
        "a name wins"
    );
}

#[test]
fn images_are_pinned_by_name() {
    let mut catalogue = Catalogue::new(vec!["registry.k8s.io/pause:3.10".parse().unwrap()]);
    let a = record("a");
    catalogue.insert(&a, &names("registry.k8s.io/pause:3.9", "m"));
    assert!(!catalogue.by_id(&a.id).unwrap().pinned);
    catalogue.insert(&a, &names("registry.k8s.io/pause:3.10", "m"));
    assert!(catalogue.by_id(&a.id).unwrap().pinned);
}

#[test]
fn other_patterns_pin_what_is_there_and_let_go_of_it() {
    let mut catalogue = Catalogue::default();
    let (a, b) = (record("a"), record("b"));
    catalogue.insert(&a, &names("registry.k8s.io/pause:3.9", "m1"));
    catalogue.insert(&b, &names("app", "m2"));
    let pinned = |catalogue: &Catalogue| [&a, &b].map(|it| catalogue.by_id(&it.id).unwrap().pinned);
    let untouched = Arc::clone(catalogue.by_id(&b.id).unwrap());
    catalogue.set_pinned(vec!["registry.k8s.io/*".parse().unwrap()]);
    assert_eq!(pinned(&catalogue), [true, false]);
    assert!(Arc::ptr_eq(&untouched, catalogue.by_id(&b.id).unwrap()));
    catalogue.set_pinned(vec!["*APP*".parse().unwrap()]);
    assert_eq!(pinned(&catalogue), [false, true]);
    catalogue.set_pinned(Vec::new());
    assert_eq!(pinned(&catalogue), [false, false]);
}

/// A store in a directory of this name, with images by the seeds of their records, which name their one layer, too.
fn store(root: &str, images: &[(&str, &[&str])]) -> Arc<StoreContents> {
    let root: Arc<Path> = Path::new(root).into();
    let stored = |(seed, names): &(&str, &[&str])| {
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        let image = Catalogue::default().image(&with_layer(seed), names, Some(Arc::clone(&root)));
        Arc::new(image)
    };
    Arc::new(StoreContents {
        images: images.iter().map(stored).collect(),
        root: Arc::clone(&root),
        layers: Vec::new(),
        unreadable: 0,
    })
}

fn layer(seed: &str) -> ChainId {
    ChainId::child(
        None,
        &state::DiffId::from(Digest::sha256_of(seed.as_bytes())),
    )
}

fn with_layer(seed: &str) -> ImageRecord {
    ImageRecord {
        layers: vec![layer(seed)],
        ..record(seed)
    }
}

/// Which image a name leads to, and in which store that is.
fn leads_to(catalogue: &Catalogue, name: &str) -> Option<(ImageId, String)> {
    let image = catalogue.by_reference(name)?;
    let store = image.store.as_ref();
    let store = store.map_or_else(String::new, |store| store.display().to_string());
    Some((image.id.clone(), store))
}

#[test]
fn what_is_ours_hides_what_others_have_and_uncovers_it_when_it_goes() {
    let mut catalogue = Catalogue::default();
    let (a, b, c) = (with_layer("a"), with_layer("b"), with_layer("c"));
    let to = |record: &ImageRecord, store: &str| Some((record.id.clone(), store.to_owned()));
    let stores = [
        store("/1", &[("a", &["r/x:1", "r/y:1"])]),
        store("/2", &[("b", &["r/x:1", "r/z:1"]), ("a", &["r/only:2"])]),
    ];
    catalogue.set_stores(&stores, |_| true);
    assert_eq!(leads_to(&catalogue, "r/x:1"), to(&a, "/1"));
    assert_eq!(leads_to(&catalogue, "r/z:1"), to(&b, "/2"));
    // An image is that of the first store that has it, whoever named it.
    assert_eq!(leads_to(&catalogue, "r/only:2"), to(&a, "/1"));
    let names = |catalogue: &Catalogue, record: &ImageRecord| {
        let image = catalogue.by_id(&record.id).unwrap();
        image.repo_tags.join(" ")
    };
    assert_eq!(names(&catalogue, &a), "r/only:2 r/x:1 r/y:1");
    assert_eq!(names(&catalogue, &b), "r/z:1");
    assert!(catalogue.list().iter().all(|image| image.pinned));
    assert!(!catalogue.owns(&a.id) && !catalogue.owns_name("r/x:1"));

    catalogue.insert(&c, &["r/x:1".to_owned()]);
    assert_eq!(leads_to(&catalogue, "r/x:1"), to(&c, ""));
    assert_eq!(names(&catalogue, &a), "r/only:2 r/y:1");
    catalogue.insert(&a, &["r/own:1".to_owned()]);
    assert_eq!(leads_to(&catalogue, "r/y:1"), to(&a, ""));
    assert_eq!(names(&catalogue, &a), "r/only:2 r/own:1 r/y:1");
    assert!(!catalogue.by_id(&a.id).unwrap().pinned);
    assert!(catalogue.owns(&a.id) && catalogue.owns_name("r/own:1"));
    // Nothing of ours changes with the stores.
    let before = catalogue.by_id(&c.id).cloned().unwrap();
    catalogue.set_stores(&stores[1..], |_| true);
    assert!(Arc::ptr_eq(catalogue.by_id(&c.id).unwrap(), &before));
    assert_eq!(names(&catalogue, &a), "r/only:2 r/own:1");
    catalogue.set_stores(&stores, |_| true);

    catalogue.remove(&c.id);
    assert_eq!(leads_to(&catalogue, "r/x:1"), to(&a, ""));
    catalogue.remove(&a.id);
    assert_eq!(leads_to(&catalogue, "r/x:1"), to(&a, "/1"));
    assert_eq!(names(&catalogue, &a), "r/only:2 r/x:1 r/y:1");
    assert_eq!(leads_to(&catalogue, "r/own:1"), None);
    catalogue.set_stores(&[], |_| true);
    assert!(catalogue.list().is_empty() && catalogue.references.is_empty());
}

#[test]
fn an_image_that_lacks_layers_waits_with_the_names_that_nobody_else_got() {
    let mut catalogue = Catalogue::default();
    let (a, b) = (with_layer("a"), with_layer("b"));
    let two: Vec<String> = ["r/x:1", "r/y:1"].map(str::to_owned).into();
    catalogue.insert(&a, &two);
    let is_there = |there: bool| move |chain: &ChainId| there || *chain != layer("a");
    catalogue.set_stores(&[], is_there(false));
    assert!(catalogue.list().is_empty());
    assert_eq!(leads_to(&catalogue, "r/x:1"), None);
    assert!(catalogue.owns(&a.id) && catalogue.owns_name("r/x:1"));
    let find = |catalogue: &Catalogue, name: &str| {
        let names: Vec<Reference> = Reference::parse(name).into_iter().collect();
        catalogue.find_waiting(name, &names).map(|it| it.id.clone())
    };
    assert_eq!(find(&catalogue, a.id.as_str()), Some(a.id.clone()));

    // An image of a store that lacks a layer is not there either.
    let other = store("/1", &[("a", &["r/z:1"]), ("b", &["r/x:1"])]);
    catalogue.set_stores(std::slice::from_ref(&other), is_there(false));
    assert_eq!(catalogue.list().len(), 1);
    assert_eq!(
        leads_to(&catalogue, "r/x:1"),
        Some((b.id.clone(), "/1".into()))
    );
    // Back, its name is ours again; what another image of ours got is that one's.
    catalogue.set_stores(std::slice::from_ref(&other), is_there(true));
    assert_eq!(
        leads_to(&catalogue, "r/x:1"),
        Some((a.id.clone(), String::new()))
    );
    catalogue.set_stores(std::slice::from_ref(&other), is_there(false));
    catalogue.insert(&b, &["r/x:1".to_owned()]);
    catalogue.set_stores(&[], is_there(true));
    assert_eq!(
        leads_to(&catalogue, "r/x:1"),
        Some((b.id.clone(), String::new()))
    );
    assert_eq!(
        leads_to(&catalogue, "r/y:1"),
        Some((a.id.clone(), String::new()))
    );
    // A pull of it brings all its names back.
    catalogue.set_stores(&[], is_there(false));
    catalogue.insert(&a, &["r/new:1".to_owned()]);
    let tags = catalogue.by_id(&a.id).unwrap().repo_tags.join(" ");
    assert_eq!(tags, "r/new:1 r/y:1");
    assert!(catalogue.waiting().next().is_none());
    catalogue.set_stores(&[], is_there(false));
    catalogue.remove(&a.id);
    catalogue.set_stores(&[], is_there(true));
    assert!(!catalogue.owns(&a.id) && !catalogue.owns_name("r/y:1"));
}
