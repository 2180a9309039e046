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
