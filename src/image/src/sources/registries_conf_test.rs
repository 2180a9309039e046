#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use proptest::prelude::*;
use rstest::rstest;

use super::*;

fn parse(text: &str) -> RegistriesConf {
    let (conf, warnings) = RegistriesConf::parse(Path::new("/r.conf"), text).unwrap();
    assert_eq!(warnings, Vec::<String>::new());
    conf
}

#[test]
fn a_whole_file_is_read() {
    let conf = parse(
        r#"
unqualified-search-registries = ["Quay.io", "docker.io"]
short-name-mode = "enforcing"
credential-helpers = ["containers-auth.json"]

[[registry]]
prefix = "r.example/team"
location = "store.example:5000/copies/"
insecure = true
[[registry.mirror]]
location = "one.example"
[[registry.mirror]]
location = "two.example/x"
insecure = true
pull-from-mirror = "digest-only"

[[registry]]
location = "index.docker.io"
blocked = true
mirror-by-digest-only = true
[[registry.mirror]]
location = "three.example"

[aliases]
"fish" = "quay.io/sea/fish"
"none" = ""
"#,
    );
    assert_eq!(conf.search.unwrap().value, ["quay.io", "docker.io"]);
    assert_eq!(conf.mode, Some(ShortNameMode::Enforcing));
    let team = &conf.registries["r.example/team"];
    assert_eq!(team.location.as_deref(), Some("store.example:5000/copies"));
    assert!(team.insecure && !team.blocked);
    assert_eq!(team.place.line, 6);
    let mirrors: Vec<_> = team
        .mirrors
        .iter()
        .map(|mirror| {
            (
                mirror.location.as_str(),
                mirror.insecure,
                mirror.wanted_for,
                mirror.place.line,
            )
        })
        .collect();
    assert_eq!(
        mirrors,
        [
            ("one.example", false, WantedFor::All, 10),
            ("two.example/x", true, WantedFor::Digests, 12)
        ]
    );
    let hub = &conf.registries["docker.io"];
    assert!(hub.blocked);
    assert_eq!(hub.mirrors[0].wanted_for, WantedFor::Digests);
    assert_eq!(
        conf.aliases["fish"].as_ref().unwrap().value,
        "quay.io/sea/fish"
    );
    assert_eq!(conf.aliases["none"], None);
}

/// The block of `docs/registries.md` that holds these words, without its indentation.
pub(crate) fn documented(words: &str) -> String {
    let page = include_str!("../../../../docs/registries.md");
    let lines: Vec<&str> = page.lines().collect();
    let blocks = lines.split(|line| !line.is_empty() && !line.starts_with("    "));
    let block = blocks
        .map(|block| block.iter().map(|line| line.trim_start_matches("    ")))
        .map(|block| block.collect::<Vec<_>>().join("\n"))
        .find(|block| block.contains(words));
    block.unwrap()
}

#[test]
fn the_documented_file_is_one() {
    let conf = parse(&documented("[[registry.mirror]]"));
    assert!(conf.registries["registry.example/old"].blocked);
    let team = &conf.registries["registry.example/team"];
    assert_eq!(team.mirrors[0].wanted_for, WantedFor::Digests);
    assert!(conf.search.is_some() && conf.aliases.contains_key("app"));
    let error = RegistriesConf::parse(
        Path::new("/etc/containers/registries.conf"),
        "[[registry]]\nlocation = 'r.example'\nblocked = 'no'\n",
    );
    let words = error.unwrap_err().to_string();
    assert!(
        include_str!("../../../../docs/registries.md").contains(&words),
        "{words}"
    );
}

#[rstest]
#[case("[[registry]]\n", "/r.conf:1: this registry has neither")]
#[case(
    "\n[[registry]]\nlocation = 1",
    "/r.conf:3: `registry.location` has to be text"
)]
#[case(
    "[[registry]]\nlocation = 'r.example'\nblocked = 'yes'",
    "/r.conf:3: `registry.blocked` has to be `true` or `false`"
)]
#[case(
    "[[registry]]\nlocation = 'https://r.example'",
    "must not have a scheme"
)]
#[case("[[registry]]\nlocation = 'r.example/UPPER'", "is not a registry")]
#[case("[[registry]]\nprefix = '*example.com'", "is not a prefix")]
#[case(
    "[[registry]]\nprefix = 'r.example'\n[[registry]]\nprefix = 'r.example'",
    "/r.conf:3: the prefix r.example stands in line 1 already"
)]
#[case(
    "[[registry]]\nprefix = 'r.example'\n[[registry.mirror]]\n",
    "/r.conf:3: this mirror has no `location`"
)]
#[case(
    "[[registry]]\nprefix = 'r.example'\n[[registry.mirror]]\nlocation = 'm.example'\npull-from-mirror = 'never'",
    "/r.conf:5: `pull-from-mirror` has to be"
)]
#[case(
    "[[registry]]\nprefix = 'r.example'\nmirror-by-digest-only = true\n[[registry.mirror]]\nlocation = 'm.example'\npull-from-mirror = 'all'",
    "cannot stand beside"
)]
#[case(
    "[registry]\nlocation = 'r.example'",
    "`registry` has to be an array of tables"
)]
#[case("[registries.search]\nregistries = ['docker.io']", "old form")]
#[case("short-name-mode = 'maybe'", "/r.conf:1: `short-name-mode` has to be")]
#[case(
    "unqualified-search-registries = 'docker.io'",
    "has to be an array of texts"
)]
#[case(
    "unqualified-search-registries = ['https://docker.io']",
    "must not have a scheme"
)]
#[case("[aliases]\n'r.example/x' = 'r.example/y'", "is not a short name")]
#[case("[aliases]\n'x:1' = 'r.example/y'", "is not a short name")]
#[case("[aliases]\n'x' = 'y'", "is not a full name")]
#[case("[aliases]\n'x' = 'r.example/y:1'", "is not a full name")]
fn wrong_files_are_refused_by_line(#[case] text: &str, #[case] words: &str) {
    let error = RegistriesConf::parse(Path::new("/r.conf"), text).unwrap_err();
    assert!(error.to_string().contains(words), "{error}");
}

#[test]
fn unknown_keys_are_warned_about() {
    let text = "lost = 1\n[[registry]]\nlocation = 'r.example'\nmirrors = []\n";
    let (_, warnings) = RegistriesConf::parse(Path::new("/r.conf"), text).unwrap();
    assert_eq!(
        warnings,
        [
            "/r.conf:4: unknown key `registry.mirrors` is ignored",
            "/r.conf:1: unknown key `lost` is ignored"
        ]
    );
}

#[rstest]
#[case("r.example", "r.example/a:1", Some(9))]
#[case("r.example", "r.example:5000/a:1", Some(9))]
#[case("r.example", "r.example.com/a:1", None)]
#[case("r.example/a", "r.example/a:1", Some(11))]
#[case("r.example/a", "r.example/a/b:1", Some(11))]
#[case("r.example/a", "r.example/ab:1", None)]
#[case("r.example/a:1", "r.example/a:1", Some(13))]
#[case("r.example/a:1", "r.example/a:12", None)]
#[case("*.example", "r.example/a:1", Some(9))]
#[case("*.example", "x.r.example:5000/a:1", Some(11))]
#[case("*.example", "example/a:1", None)]
#[case("*.example", "r.example.com/a:1", None)]
#[case("*.example", "h.com/r.example/a:1", None)]
#[case("*.example", "x.example.example/a:1", Some(17))]
#[case("*.example.com", "x.example.community.example.com/a:1", Some(31))]
#[case("*.example/a", "r.example/a/b:1", Some(11))]
#[case("*.example/a", "r.example/b:1", None)]
fn prefixes(#[case] prefix: &str, #[case] name: &str, #[case] expected: Option<usize>) {
    assert_eq!(matched_bytes(prefix, name), expected);
}

#[rstest]
#[case("r.example/a/b:1", "r.example/a")]
#[case("r.example/c:1", "r.example")]
#[case("x.example/c:1", "*.example")]
#[case("r.example/exact:7", "r.example/exact:7")]
fn the_longest_prefix_wins(#[case] name: &str, #[case] expected: &str) {
    let conf = parse(
        "[[registry]]\nprefix = '*.example'\n[[registry]]\nprefix = 'r.example'\n\
         [[registry]]\nprefix = 'r.example/a'\n[[registry]]\nprefix = 'r.example/exact:7'\n",
    );
    let found = conf.find(&Reference::parse(name).unwrap()).unwrap();
    assert_eq!(found.prefix, expected);
}

#[rstest]
#[case(
    "r.example/a",
    "m.example/copies",
    "r.example/a/b:1",
    "m.example/copies/b:1"
)]
#[case(
    "r.example",
    "m.example:5000",
    "r.example/a/b:1",
    "m.example:5000/a/b:1"
)]
#[case("r.example", "mirror", "r.example/a/b:1", "mirror/a/b:1")]
#[case("r.example", "mirror/x", "r.example/a/b:1", "mirror/x/a/b:1")]
#[case("*.example", "m.test/all", "r.example/a/b:1", "m.test/all/a/b:1")]
#[case(
    "docker.io/library",
    "m.example",
    "docker.io/library/fish:1",
    "m.example/fish:1"
)]
#[case(
    "r.example/a",
    "m.example/b",
    "r.example/a@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "m.example/b@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
)]
fn rewriting(
    #[case] prefix: &str,
    #[case] location: &str,
    #[case] name: &str,
    #[case] expected: &str,
) {
    let conf = parse(&format!(
        "[[registry]]\nprefix = '{prefix}'\nlocation = '{location}'\n"
    ));
    let reference = Reference::parse(name).unwrap();
    let entry = conf.find(&reference).unwrap();
    let found = entry.rewritten(&reference, entry.location.as_deref().unwrap());
    assert_eq!(found.unwrap().to_string(), expected);
}

proptest! {
    /// A path that is a prefix by components matches, and what it covers is itself.
    #[test]
    fn prefixes_match_by_whole_components(
        host in "[a-z]{1,5}\\.[a-z]{2,3}(:[1-9][0-9]{1,3})?",
        path in prop::collection::vec("[a-z]{1,4}", 1..5),
        cut in 0usize..5,
    ) {
        let cut = cut.min(path.len());
        let name = format!("{host}/{}:tag", path.join("/"));
        let prefix = [std::slice::from_ref(&host), &path[..cut]].concat().join("/");
        prop_assert_eq!(matched_bytes(&prefix, &name), Some(prefix.len()));
        // Half a component is none.
        let longer = format!("{prefix}x");
        let covers = name[prefix.len()..].starts_with('x');
        prop_assert!(!covers && matched_bytes(&longer, &name).is_none());
        let below = format!("*.{host}");
        prop_assert_eq!(matched_bytes(&below, &name), None);
        prop_assert_eq!(matched_bytes(&below, &format!("sub.{name}")), Some(4 + host.len()));
    }

    /// Whatever is matched, rewriting puts the location in its place and keeps the rest.
    #[test]
    fn rewriting_keeps_what_follows(path in "[a-z]{1,4}(/[a-z]{1,4}){0,3}", tag in "[a-z]{1,4}") {
        let reference = Reference::parse(&format!("r.example/{path}:{tag}")).unwrap();
        for prefix in ["r.example", "*.example"] {
            let conf = parse(&format!("[[registry]]\nprefix = '{prefix}'\n"));
            let entry = conf.find(&reference).unwrap();
            let there = entry.rewritten(&reference, "m.test/x").unwrap();
            prop_assert_eq!(there.to_string(), format!("m.test/x/{path}:{tag}"));
        }
    }

    #[test]
    fn no_text_makes_the_parser_panic(text in "[\\[\\]a-z\"'=.\\n*/: -]{0,120}") {
        let _ = RegistriesConf::parse(Path::new("/r.conf"), &text);
    }
}
