#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::collections::HashMap;
use std::path::Path;

use rstest::rstest;

use super::*;
use crate::sources::proxy::{ProxyConfig, ProxySetting};

/// A node's files, as values.
#[derive(Default)]
struct Node {
    own: BTreeMap<String, RegistryConfig>,
    registries: RegistriesConf,
    folders: HashMap<&'static str, Folder>,
    proxies: Proxies,
}

impl Node {
    fn registries(mut self, text: &str) -> Self {
        self.registries = RegistriesConf::parse(Path::new("/r.conf"), text).unwrap().0;
        self
    }

    fn hosts(mut self, host: &'static str, text: &str) -> Self {
        let file = HostsFile::parse(Path::new("/h.toml"), text).unwrap().0;
        self.folders.entry(host).or_default().hosts = Some(file);
        self
    }

    fn own(mut self, host: &str, config: RegistryConfig) -> Self {
        self.own.insert(host.to_owned(), config);
        self
    }

    fn plan(&self, reference: &str) -> Plan {
        let reference = Reference::parse(reference).unwrap();
        let known = Knowledge {
            own: &self.own,
            registries: &self.registries,
            folder: &|host| Ok(self.folders.get(host).cloned().unwrap_or_default()),
            default_hosts: &|| {
                Ok(self
                    .folders
                    .get("_default")
                    .and_then(|folder| folder.hosts.clone()))
            },
            proxies: &self.proxies,
        };
        plan(&reference, &known).unwrap()
    }

    /// The URLs in order; skipped ones in brackets, the origin with a star.
    fn urls(&self, reference: &str) -> Vec<String> {
        let shown = |host: &PlannedHost| {
            let star = if host.origin { "*" } else { "" };
            match host.skipped {
                Some(_) => format!("({}{star})", host.url()),
                None => format!("{}{star}", host.url()),
            }
        };
        self.plan(reference).hosts.iter().map(shown).collect()
    }
}

fn mirrors(names: &[&str]) -> RegistryConfig {
    RegistryConfig {
        mirrors: names.iter().map(|name| (*name).to_owned()).collect(),
        ..RegistryConfig::default()
    }
}

const DIGEST: &str = "@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

#[rstest]
#[case::nothing_said(Node::default(), "fish", &["https://registry-1.docker.io/v2/library/fish*"])]
#[case::own_mirrors(
    Node::default()
        .own("r.example", mirrors(&["M.example:5000"]))
        .own("m.example:5000", RegistryConfig { plain_http: true, ..RegistryConfig::default() }),
    "r.example/a/b:1",
    &["http://m.example:5000/v2/a/b", "https://r.example/v2/a/b*"]
)]
#[case::mirrors_and_a_rewritten_prefix(
    Node::default().registries(
        "[[registry]]\nprefix = 'r.example/a'\nlocation = 's.example/x'\n[[registry.mirror]]\nlocation = 'm.example/y'\n"
    ),
    "r.example/a/b:1",
    &["https://m.example/v2/y/b", "https://s.example/v2/x/b"]
)]
#[case::other_repositories_are_not_rewritten(
    Node::default().registries("[[registry]]\nprefix = 'r.example/a'\nlocation = 's.example/x'\n"),
    "r.example/ab:1",
    &["https://r.example/v2/ab*"]
)]
#[case::a_wildcard_without_a_location(
    Node::default().registries("[[registry]]\nprefix = '*.example'\n[[registry.mirror]]\nlocation = 'm.test'\n"),
    "r.example/a:1",
    &["https://m.test/v2/a", "https://r.example/v2/a*"]
)]
#[case::hosts_in_the_order_of_the_file(
    Node::default().hosts("r.example", "[host.'https://z.test']\n[host.'http://a.test:5000/p']\n"),
    "r.example/a:1",
    &["https://z.test/v2/a", "http://a.test:5000/p/v2/a", "https://r.example/v2/a*"]
)]
#[case::a_path_that_is_taken_as_it_is(
    Node::default().hosts("r.example", "[host.'https://z.test/v2/proxy']\noverride_path = true\n"),
    "r.example/a:1",
    &["https://z.test/v2/proxy/a", "https://r.example/v2/a*"]
)]
#[case::another_server(
    Node::default().hosts("r.example", "server = 'https://s.test/base'\n"),
    "r.example/a:1",
    &["https://s.test/base/v2/a"]
)]
#[case::the_server_under_another_spelling(
    Node::default().hosts("docker.io", "server = 'https://registry-1.docker.io'\n"),
    "fish",
    &["https://registry-1.docker.io/v2/library/fish*"]
)]
#[case::the_usual_port_is_no_other_host(
    Node::default().hosts("r.example:443", "server = 'https://r.example:443'\n"),
    "r.example:443/a:1",
    &["https://r.example/v2/a*"]
)]
#[case::hosts_toml_wins_over_registries_conf(
    Node::default()
        .registries("[[registry]]\nprefix = 'r.example'\n[[registry.mirror]]\nlocation = 'm.test'\n")
        .hosts("r.example", "[host.'https://h.test']\n"),
    "r.example/a:1",
    &["https://h.test/v2/a", "https://r.example/v2/a*"]
)]
#[case::own_mirrors_win_over_both(
    Node::default()
        .own("r.example", mirrors(&["o.test"]))
        .registries("[[registry]]\nprefix = 'r.example'\n[[registry.mirror]]\nlocation = 'm.test'\n")
        .hosts("r.example", "[host.'https://h.test']\n"),
    "r.example/a:1",
    &["https://o.test/v2/a", "https://r.example/v2/a*"]
)]
#[case::the_default_folder_counts_where_nobody_else_speaks(
    Node::default()
        .registries("[[registry]]\nprefix = 'r.example'\n[[registry.mirror]]\nlocation = 'm.test'\n")
        .hosts("_default", "[host.'https://d.test']\n"),
    "x.example/a:1",
    &["https://d.test/v2/a", "https://x.example/v2/a*"]
)]
#[case::registries_conf_wins_over_the_default_folder(
    Node::default()
        .registries("[[registry]]\nprefix = 'r.example'\n[[registry.mirror]]\nlocation = 'm.test'\n")
        .hosts("_default", "[host.'https://d.test']\n"),
    "r.example/a:1",
    &["https://m.test/v2/a", "https://r.example/v2/a*"]
)]
fn whom_to_ask(#[case] node: Node, #[case] reference: &str, #[case] expected: &[&str]) {
    assert_eq!(node.urls(reference), expected);
}

#[rstest]
#[case("", "", "https://m.test/v2/a")]
#[case("", DIGEST, "https://m.test/v2/a")]
#[case("pull-from-mirror = 'digest-only'", "", "(https://m.test/v2/a)")]
#[case("pull-from-mirror = 'digest-only'", DIGEST, "https://m.test/v2/a")]
#[case("pull-from-mirror = 'tag-only'", "", "https://m.test/v2/a")]
#[case("pull-from-mirror = 'tag-only'", DIGEST, "(https://m.test/v2/a)")]
fn mirrors_for_tags_and_for_digests(
    #[case] key: &str,
    #[case] digest: &str,
    #[case] expected: &str,
) {
    let node = Node::default().registries(&format!(
        "[[registry]]\nprefix = 'r.example'\n[[registry.mirror]]\nlocation = 'm.test'\n{key}\n"
    ));
    assert_eq!(
        node.urls(&format!("r.example/a{digest}")),
        [expected, "https://r.example/v2/a*"]
    );
}

#[test]
fn mirrors_of_a_registry_can_be_for_digests_only() {
    let node = Node::default().registries(
        "[[registry]]\nprefix = 'r.example'\nmirror-by-digest-only = true\n[[registry.mirror]]\nlocation = 'm.test'\n",
    );
    assert_eq!(node.urls("r.example/a:1")[0], "(https://m.test/v2/a)");
    assert_eq!(
        node.urls(&format!("r.example/a{DIGEST}"))[0],
        "https://m.test/v2/a"
    );
}

#[test]
fn a_prohibition_holds_whatever_names_the_hosts() {
    let blocked = "[[registry]]\nprefix = 'r.example/bad'\nblocked = true\n";
    let nodes = [
        Node::default(),
        Node::default().own("r.example", mirrors(&["o.test"])),
        Node::default().hosts("r.example", "[host.'https://h.test']\n"),
    ];
    for node in nodes {
        let node = node.registries(blocked);
        assert_eq!(
            node.plan("r.example/bad/x").blocked.as_deref(),
            Some("/r.conf:1")
        );
        assert_eq!(node.plan("r.example/good").blocked, None);
    }
}

#[test]
fn what_is_said_of_connections_adds_up() {
    let own = RegistryConfig {
        ca: Some("/own.pem".into()),
        ..RegistryConfig::default()
    };
    let mut node = Node::default().own("h.test", own).hosts(
        "r.example",
        "[host.'https://h.test']\nca = '/hosts.pem'\nclient = '/c.pem'\ndial_timeout = '3s'\n",
    );
    node.folders.entry("h.test").or_default().tls.authorities = vec!["/docker.crt".into()];
    let plan = node.plan("r.example/a");
    let transport = &plan.hosts[0].transport;
    let authorities: Vec<_> = transport
        .tls
        .authorities
        .iter()
        .map(|path| path.to_str().unwrap())
        .collect();
    assert_eq!(authorities, ["/own.pem", "/docker.crt", "/hosts.pem"]);
    assert_eq!(transport.tls.identities.len(), 1);
    assert_eq!(transport.dial_timeout, Some(Duration::from_secs(3)));
    assert!(!transport.tls.skip_verify);
    // The registry itself has nothing of it.
    assert_eq!(plan.hosts[1].transport.tls, Tls::default());
}

#[test]
fn an_insecure_host_may_do_without_tls() {
    let node = Node::default().registries(
        "[[registry]]\nprefix = 'r.example'\ninsecure = true\n[[registry.mirror]]\nlocation = 'm.test'\n",
    );
    let plan = node.plan("r.example/a");
    assert!(plan.hosts[0].plain.is_none() && !plan.hosts[0].transport.tls.skip_verify);
    let origin = &plan.hosts[1];
    assert!(origin.transport.tls.skip_verify);
    assert_eq!(origin.plain.as_ref().unwrap().base(), "http://r.example");
}

#[test]
fn a_stand_in_is_told_for_whom_it_stands() {
    let node = Node::default().hosts("_default", "[host.'http://m.test:5000']\n");
    let plan = node.plan("fish");
    let told: Vec<_> = plan
        .hosts
        .iter()
        .map(|host| host.stands_for.as_deref())
        .collect();
    assert_eq!(told, [Some("docker.io"), None]);
}

#[rstest]
#[case("['pull']", "a", [false, true], None)]
#[case("['resolve']", "a", [true, false], None)]
#[case("['push']", "a", [false, false], Some("neither"))]
#[case("[]", "a", [true, true], None)]
fn capabilities(
    #[case] list: &str,
    #[case] name: &str,
    #[case] expected: [bool; 2],
    #[case] skipped: Option<&str>,
) {
    let node = Node::default().hosts(
        "r.example",
        &format!("[host.'https://m.test']\ncapabilities = {list}\n"),
    );
    let plan = node.plan(&format!("r.example/{name}"));
    let host = &plan.hosts[0];
    assert_eq!([host.resolve, host.pull], expected);
    match skipped {
        Some(words) => assert!(host.skipped.unwrap().contains(words)),
        None => assert_eq!(host.skipped, None),
    }
}

#[test]
fn proxies_are_chosen_for_each_host() {
    let config = ProxyConfig {
        https: ProxySetting::Through(ProxyUrl::parse("tls-proxy").unwrap()),
        http: ProxySetting::Through(ProxyUrl::parse("plain-proxy").unwrap()),
        no_proxy: Some("direct.test".to_owned()),
    };
    let mut node = Node::default().hosts(
        "r.example",
        "[host.'https://direct.test']\n[host.'http://m.test']\n",
    );
    node.proxies = Proxies::new(&config, |_| None);
    let plan = node.plan("r.example/a");
    let found: Vec<_> = plan
        .hosts
        .iter()
        .map(|host| host.transport.proxy.as_ref().map(ToString::to_string))
        .collect();
    let proxy = |name: &str| Some(format!("http://{name}"));
    assert_eq!(found, [None, proxy("plain-proxy"), proxy("tls-proxy")]);
}
