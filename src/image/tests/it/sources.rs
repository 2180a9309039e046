//! The operator's files: who is asked for an image, under which name, how, and through which proxy.

use image::{Credentials, ImageError, ProxyConfig, ProxySetting, ProxyUrl, PullRequest};
use image::{RegistrySettings, SourcesError};

use crate::faulty::{Faulty, Reply};
use crate::node::Node;
use crate::published::Published;
use crate::secure::{Authority, Secure};

fn image() -> Published {
    Published::of_files(&[("a", b"1"), ("b", b"2")])
}

fn node() -> Node {
    Node::with(&[], |config| config.attempts = 1)
}

async fn holding(image: &Published) -> Faulty {
    Faulty::holding(&[("1", image)], |_| None).await
}

fn paths(registry: &Faulty) -> Vec<String> {
    let seen = registry.seen().into_iter();
    seen.map(|seen| format!("{} {}", seen.method, seen.path))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_has_the_image_under_a_rewritten_name() {
    let image = image();
    let mirror = holding(&image).await;
    let node = node();
    node.write_registries(&format!(
        "[[registry]]\nprefix = 'registry.invalid/team'\nlocation = 'registry.invalid/elsewhere'\n\
         [[registry.mirror]]\nlocation = '{}/copies/of'\ninsecure = true\n",
        mirror.host
    ));
    let pulled = node.pull("registry.invalid/team/app:1").await.unwrap();
    // The record keeps the name that was asked for.
    assert_eq!(pulled.repo_tags, ["registry.invalid/team/app:1"]);
    assert_eq!(node.read(&pulled, "a").unwrap(), b"1");
    let expected = format!("GET /v2/copies/of/app/blobs/{}", image.id());
    assert!(paths(&mirror).contains(&expected), "{:?}", paths(&mirror));
    assert_eq!(mirror.gets("/v2/copies/of/app/"), mirror.gets("/"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_location_takes_the_registrys_place_and_gets_no_credentials_of_it() {
    let image = image();
    let moved = Faulty::holding(&[("1", &image)], |seen| {
        (!seen.path.contains("/copies/app/")).then(|| Reply::status(404))
    })
    .await;
    let closed = Faulty::start(|_| {
        Reply::Full(
            401,
            vec![("WWW-Authenticate", "Basic realm=x".to_owned())],
            vec![],
        )
    })
    .await;
    let node = node();
    node.write_registries(&format!(
        "[[registry]]\nprefix = '*.invalid'\nlocation = '{}/copies'\ninsecure = true\n\
         [[registry.mirror]]\nlocation = '{}'\ninsecure = true\n",
        moved.host, closed.host
    ));
    let request = PullRequest {
        credentials: Some(Credentials::basic("jane", "secret")),
        ..PullRequest::anonymous("registry.invalid/app:1")
    };
    node.images.pull(request).await.unwrap();
    for registry in [&moved, &closed] {
        assert!(!registry.seen().is_empty());
        for seen in registry.seen() {
            assert_eq!(seen.header("authorization"), None, "{seen:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_toml_says_order_paths_headers_and_capabilities() {
    let image = image();
    let proxy = holding(&image).await;
    let blobs = holding(&image).await;
    let node = node();
    node.write_certs(
        "registry.invalid",
        "hosts.toml",
        format!(
            "[host.'http://{}']\ncapabilities = ['pull']\n\
             [host.'http://{}/proxy/path']\noverride_path = true\n\
             [host.'http://{1}/proxy/path'.header]\nx-key = 'abc'\nx-list = ['1', '2']\n",
            blobs.host, proxy.host
        ),
    );
    node.pull("registry.invalid/app:1").await.unwrap();
    // Where a tag leads, it may not be asked; what a digest names, it is asked first.
    assert_eq!(blobs.gets("/manifests/"), 0);
    assert_eq!(blobs.gets("/v2/app/blobs/"), 3);
    assert_eq!(proxy.gets("/blobs/"), 0);
    let seen = proxy.seen();
    assert_eq!(
        seen[0].path,
        "/proxy/path/app/manifests/1?ns=registry.invalid"
    );
    for seen in seen {
        assert_eq!(seen.header("x-key"), Some("abc"));
        let list: Vec<_> = seen
            .headers
            .iter()
            .filter(|(name, _)| name == "x-list")
            .collect();
        assert_eq!(list.len(), 2, "{seen:?}");
    }
    assert!(blobs.seen()[0].header("x-key").is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_do_not_follow_a_redirect_to_another_host() {
    let image = image();
    let store = holding(&image).await;
    let elsewhere = store.host.clone();
    let registry = Faulty::holding(&[("1", &image)], move |seen| {
        seen.path
            .contains("/blobs/")
            .then(|| Reply::redirect(format!("http://{elsewhere}{}", seen.path)))
    })
    .await;
    let node = node();
    let text = format!(
        "server = 'http://{}'\n[header]\nauthorization = 'Bearer mine'\n",
        registry.host
    );
    // The folder's name has an underscore in the place of the colon.
    let folder = format!("{}_", registry.host.replace(':', "_"));
    node.write_certs(&folder, "hosts.toml", text);
    node.pull(&registry.reference("app:1")).await.unwrap();
    let sent = registry.seen().into_iter();
    assert!(
        sent.map(|seen| seen.header("authorization").map(str::to_owned))
            .all(|sent| sent.as_deref() == Some("Bearer mine"))
    );
    assert!(!store.seen().is_empty());
    for seen in store.seen() {
        assert_eq!(seen.header("authorization"), None);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_for_digests_is_not_asked_for_tags() {
    let image = image();
    let mirror = holding(&image).await;
    let registry = holding(&image).await;
    let node = node();
    node.write_registries(&format!(
        "[[registry]]\nprefix = '{0}'\ninsecure = true\nmirror-by-digest-only = true\n\
         [[registry.mirror]]\nlocation = '{1}'\ninsecure = true\n",
        registry.host, mirror.host
    ));
    node.pull(&registry.reference("app:1")).await.unwrap();
    assert_eq!(paths(&mirror), Vec::<String>::new());
    let asked = registry.seen().len();
    node.images
        .remove(&registry.reference("app:1"))
        .await
        .unwrap();
    let name = registry.reference(&format!("app@{}", image.digest()));
    node.pull(&name).await.unwrap();
    assert_eq!(registry.seen().len(), asked);
    assert!(!mirror.seen().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blocked_image_is_not_asked_for() {
    let image = image();
    let registry = holding(&image).await;
    let node = Node::with_plain_hosts(&[&registry.host]);
    node.write_registries(&format!(
        "[[registry]]\nprefix = '{}/bad'\nblocked = true\n",
        registry.host
    ));
    let error = node.pull(&registry.reference("bad/app:1")).await;
    let error = error.unwrap_err();
    assert!(
        matches!(error, ImageError::Sources(SourcesError::Blocked { .. })),
        "{error:?}"
    );
    assert!(error.to_string().contains("registries.conf:1"), "{error}");
    assert_eq!(paths(&registry), Vec::<String>::new());
    node.pull(&registry.reference("good/app:1")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn http2_and_client_certificates() {
    let image = image();
    let (authority, clients) = (Authority::new(), Authority::new());
    let registry = Secure::holding(&authority, &image, Some(&clients)).await;
    let name = registry.reference("app:1");
    let node = node();
    let folder = format!("{}_", registry.host.replace(':', "_"));
    node.write_certs(&folder, "ca.pem", &authority.certificate);
    node.write_certs(&folder, "hosts.toml", "ca = 'ca.pem'\n");
    let error = node.pull(&name).await.unwrap_err();
    assert!(
        matches!(error, ImageError::RegistryUnavailable { .. }),
        "{error:?}"
    );
    assert!(error.to_string().contains("client certificate"), "{error}");
    assert_eq!(registry.requests(), 0);

    let client = clients.certify("node-1");
    node.write_certs(&folder, "client.pem", &client.certificate);
    node.write_certs(&folder, "client-key.pem", &client.key);
    node.write_certs(
        &folder,
        "hosts.toml",
        "ca = 'ca.pem'\nclient = [['client.pem', 'client-key.pem']]\n",
    );
    node.pull(&name).await.unwrap();
    // The manifest and three blobs, over what one connection multiplexes: this server speaks nothing but HTTP/2.
    assert!(registry.requests() >= 4);
    assert_eq!(registry.connections(), 1);
    let explained = node.images.explain(&name, None).await.unwrap();
    let tls = &explained.references[0].hosts[0].tls;
    assert!(
        tls.contains("ca.pem") && tls.contains("shows") && tls.contains("client.pem"),
        "{tls}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_in_the_form_that_docker_has() {
    let image = image();
    let (authority, clients) = (Authority::new(), Authority::new());
    let registry = Secure::holding(&authority, &image, Some(&clients)).await;
    let node = node();
    let client = clients.certify("node-1");
    node.write_certs(&registry.host, "ca.crt", &authority.certificate);
    node.write_certs(&registry.host, "client.cert", &client.certificate);
    let error = node.pull(&registry.reference("app:1")).await.unwrap_err();
    assert!(
        error.to_string().contains("client.key is not there"),
        "{error}"
    );
    node.write_certs(&registry.host, "client.key", &client.key);
    node.pull(&registry.reference("app:1")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn of_several_client_certificates_the_host_is_shown_one_that_it_takes() {
    let image = image();
    let authority = Authority::new();
    let (teams, nodes) = (Authority::named("teams"), Authority::named("nodes"));
    let registry = Secure::holding(&authority, &image, Some(&nodes)).await;
    let name = registry.reference("app:1");
    let node = node();
    node.write_certs(&registry.host, "ca.crt", &authority.certificate);
    for (file, authority) in [("a", &teams), ("c", &teams)] {
        let client = authority.certify(file);
        node.write_certs(&registry.host, &format!("{file}.cert"), &client.certificate);
        node.write_certs(&registry.host, &format!("{file}.key"), &client.key);
    }
    // Neither is of the authority that counts there.
    let error = node.pull(&name).await.unwrap_err();
    assert!(
        matches!(error, ImageError::RegistryUnavailable { .. }),
        "{error:?}"
    );
    assert!(error.to_string().contains("client certificate"), "{error}");
    assert_eq!(registry.requests(), 0);

    let client = nodes.certify("b");
    node.write_certs(&registry.host, "b.cert", &client.certificate);
    node.write_certs(&registry.host, "b.key", &client.key);
    node.pull(&name).await.unwrap();
    let explained = node.images.explain(&name, None).await.unwrap();
    let tls = &explained.references[0].hosts[0].tls;
    for (file, joint) in [("a.cert", "or"), ("b.cert", "or"), ("c.cert", "")] {
        assert!(
            tls.contains(&format!("{file} {joint}").trim().to_owned()),
            "{tls}"
        );
    }

    // All have to be usable, for it is not known beforehand which one is wanted.
    node.images.remove(&name).await.unwrap();
    node.write_certs(&registry.host, "c.key", &client.key);
    let error = node.pull(&name).await.unwrap_err().to_string();
    assert!(
        error.contains("c.cert and key do not belong together"),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn client_certificates_are_shown_to_a_host_that_nobody_verifies() {
    let image = image();
    let clients = Authority::new();
    let registry = Secure::holding(&Authority::new(), &image, Some(&clients)).await;
    let name = registry.reference("app:1");
    let node = node();
    let client = clients.certify("node-1");
    node.write_certs(
        &registry.host,
        "both.pem",
        format!("{}\n{}", client.certificate, client.key),
    );
    node.write_certs(&registry.host, "hosts.toml", "client = 'both.pem'\n");
    let error = node.pull(&name).await.unwrap_err().to_string();
    assert!(error.contains("not trusted"), "{error}");
    node.write_certs(
        &registry.host,
        "hosts.toml",
        "client = 'both.pem'\nskip_verify = true\n",
    );
    node.pull(&name).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewed_authority_is_taken_up() {
    let image = image();
    let (old, new) = (Authority::new(), Authority::new());
    let registry = Secure::holding(&new, &image, None).await;
    let node = node();
    node.write_certs(&registry.host, "ca.crt", &old.certificate);
    let error = node.pull(&registry.reference("app:1")).await.unwrap_err();
    assert!(error.to_string().contains("not trusted"), "{error}");
    node.write_certs(&registry.host, "ca.crt", &new.certificate);
    node.pull(&registry.reference("app:1")).await.unwrap();
}

fn through(proxy: &Faulty, no_proxy: &str) -> RegistrySettings {
    let url = format!("http://jane:s3cret@{}", proxy.host);
    RegistrySettings {
        registries: [(
            "registry.invalid".to_owned(),
            image::RegistryConfig {
                plain_http: true,
                ..image::RegistryConfig::default()
            },
        )]
        .into(),
        proxy: ProxyConfig {
            http: ProxySetting::Through(ProxyUrl::parse(&url).unwrap()),
            https: ProxySetting::Through(ProxyUrl::parse(&url).unwrap()),
            no_proxy: Some(no_proxy.to_owned()),
        },
        ..RegistrySettings::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_is_used_except_where_it_is_not_to_be() {
    let image = image();
    let proxy = Faulty::holding(&[("1", &image)], |seen| {
        (seen.method == "CONNECT").then(|| Reply::status(502))
    })
    .await;
    let node = node();
    node.images.set_registries(through(&proxy, "")).await;
    node.pull("registry.invalid/app:1").await.unwrap();
    let seen = proxy.seen();
    assert_eq!(seen[0].path, "http://registry.invalid/v2/app/manifests/1");
    // jane:s3cret
    assert_eq!(
        seen[0].header("proxy-authorization"),
        Some("Basic amFuZTpzM2NyZXQ=")
    );

    // TLS goes through it as it is.
    let error = node.pull("tls.invalid/app:1").await.unwrap_err();
    assert!(!format!("{error} {error:?}").contains("s3cret"), "{error}");
    let seen = proxy.seen();
    let last = seen.last().unwrap();
    assert_eq!(
        (last.method.as_str(), last.path.as_str()),
        ("CONNECT", "tls.invalid:443")
    );
    let explained = node
        .images
        .explain("tls.invalid/app:1", None)
        .await
        .unwrap();
    assert!(!format!("{explained:?}").contains("s3cret"));
    let host = &explained.references[0].hosts[0];
    assert_eq!(host.proxy, Some(format!("http://***@{}", proxy.host)));
    assert!(host.last_error.is_some());

    let asked = seen.len();
    node.images
        .set_registries(through(&proxy, "other.example,.invalid"))
        .await;
    let error = node.pull("registry.invalid/other:1").await.unwrap_err();
    assert!(
        matches!(error, ImageError::RegistryUnavailable { .. }),
        "{error:?}"
    );
    assert_eq!(proxy.seen().len(), asked);
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_read_again_when_they_change() {
    let image = image();
    let (one, two) = (holding(&image).await, holding(&image).await);
    let node = node();
    let name = "registry.invalid/app:1";
    assert!(node.pull(name).await.is_err());
    for mirror in [&one, &two] {
        node.write_registries(&format!(
            "[[registry]]\nprefix = 'registry.invalid'\n[[registry.mirror]]\nlocation = '{}'\ninsecure = true\n",
            mirror.host
        ));
        node.pull(name).await.unwrap();
        assert!(!mirror.seen().is_empty());
        node.images.remove(name).await.unwrap();
    }
    let asked = one.seen().len();
    // A wrong file is told by its line; the server goes on, and so does the next pull.
    node.write_registries("[[registry]]\nprefix = 'registry.invalid'\nblocked = 'no'\n");
    let error = node.pull(name).await.unwrap_err();
    assert!(
        error
            .to_string()
            .contains("registries.conf:3: `registry.blocked`"),
        "{error}"
    );
    node.write_registries("");
    node.write_certs(
        "registry.invalid",
        "hosts.toml",
        format!("[host.'http://{}']\n", two.host),
    );
    node.pull(name).await.unwrap();
    assert_eq!(one.seen().len(), asked);
}

#[tokio::test(flavor = "multi_thread")]
async fn short_names_mean_what_the_files_say() {
    let image = image();
    let (one, two) = (
        holding(&image).await,
        Faulty::start(|_| Reply::status(404)).await,
    );
    let node = Node::with(&[&one.host, &two.host], |config| config.attempts = 1);
    node.write_registries(&format!(
        "unqualified-search-registries = ['{}', '{}']\n[aliases]\nfish = '{1}/sea/fish'\n",
        two.host, one.host
    ));
    let pulled = node.pull("fish:1").await.unwrap();
    assert_eq!(pulled.repo_tags, [one.reference("sea/fish:1")]);
    // Nobody but the registry of the alias was asked.
    assert_eq!(paths(&two), Vec::<String>::new());

    let error = node.pull("crab:1").await.unwrap_err();
    assert!(
        matches!(error, ImageError::Sources(SourcesError::Ambiguous { .. })),
        "{error:?}"
    );

    // Also a server that has just been started knows the short name.
    let node = node.restart().await;
    assert_eq!(node.images.get("fish:1").unwrap().id, pulled.id);
    assert!(node.images.get("docker.io/library/fish:1").is_none());
    node.images.remove("fish:1").await.unwrap();
    assert!(node.images.list().is_empty());

    node.write_registries(&format!(
        "short-name-mode = 'permissive'\nunqualified-search-registries = ['{}', '{}']\n",
        two.host, one.host
    ));
    let pulled = node.pull("crab:1").await.unwrap();
    assert_eq!(pulled.repo_tags, [one.reference("crab:1")]);
    assert!(!two.seen().is_empty());
    assert_eq!(node.images.get("crab:1").unwrap().id, pulled.id);
}

#[tokio::test(flavor = "multi_thread")]
async fn explain_tells_the_hosts_in_order_and_what_they_did_last() {
    let image = image();
    let registry = holding(&image).await;
    let bad = Faulty::start(|_| Reply::refusal(404, "MANIFEST_UNKNOWN")).await;
    let node = node();
    node.write_registries(&format!(
        "unqualified-search-registries = ['{0}']\n[[registry]]\nprefix = '{0}'\ninsecure = true\n\
         [[registry.mirror]]\nlocation = '{1}/x'\ninsecure = true\n\
         [[registry.mirror]]\nlocation = '{1}/y'\npull-from-mirror = 'digest-only'\n",
        registry.host, bad.host
    ));
    node.pull("app:1").await.unwrap();
    let explained = node.images.explain("app:1", Some("shop")).await.unwrap();
    assert_eq!(explained.namespace.as_deref(), Some("shop"));
    assert!(explained.short_name.unwrap().ends_with("registries.conf:1"));
    let [found] = &explained.references[..] else {
        panic!("{:?}", explained.references);
    };
    assert_eq!(found.reference, registry.reference("app:1"));
    let [first, second, last] = &found.hosts[..] else {
        panic!("{:?}", found.hosts);
    };
    assert!(first.url.ends_with("/v2/x/app"), "{}", first.url);
    assert!(first.from.ends_with("registries.conf:5"), "{}", first.from);
    let error = first.last_error.as_ref().unwrap();
    assert!(error.words.contains("MANIFEST_UNKNOWN"), "{error:?}");
    assert!(error.at.elapsed().is_ok());
    assert!(second.skipped.is_some());
    assert!(last.origin && last.skipped.is_none());
    assert_eq!(last.capabilities, ["resolve", "pull"]);
    assert!(last.tls.contains("plain HTTP if"), "{}", last.tls);
}
