#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use proptest::prelude::*;
use rstest::rstest;

use super::*;

const FILE: &str = "/certs.d/r.example/hosts.toml";

fn parse(text: &str) -> HostsFile {
    let (file, warnings) = HostsFile::parse(Path::new(FILE), text).unwrap();
    assert_eq!(warnings, Vec::<String>::new());
    file
}

#[test]
fn a_whole_file_is_read() {
    let file = parse(
        r#"
server = "https://r.example"
ca = "server.pem"

[host."https://z.example"]
capabilities = ["pull", "resolve"]
ca = ["/a.pem", "b.pem"]
client = [["c.cert", "c.key"], "/both.pem"]
dial_timeout = "1m1.5s"

[host."http://a.example:5000/v2/proxy"]
capabilities = ["pull"]
override_path = true
skip_verify = true

[host."a.example:5000/sub".header]
x-key = "secret"
x-list = ["1", "2"]
"#,
    );
    let urls: Vec<_> = file
        .hosts
        .iter()
        .chain([&file.server])
        .map(|host| {
            let url = host.url.as_ref().unwrap();
            (
                format!("{}://{}{}", url.scheme.word(), url.authority, url.path),
                host.place.line,
            )
        })
        .collect();
    let urls: Vec<_> = urls
        .iter()
        .map(|(url, line)| (url.as_str(), *line))
        .collect();
    assert_eq!(
        urls,
        [
            ("https://z.example/v2", 5),
            ("http://a.example:5000/v2/proxy", 11),
            ("https://a.example:5000/sub/v2", 16),
            ("https://r.example/v2", 2),
        ]
    );
    let first = &file.hosts[0];
    assert!(first.resolve && first.pull);
    assert_eq!(first.dial_timeout, Some(Duration::from_millis(61_500)));
    assert_eq!(
        first.tls,
        Tls {
            authorities: vec!["/a.pem".into(), "/certs.d/r.example/b.pem".into()],
            identities: vec![
                Identity {
                    certificate: "/certs.d/r.example/c.cert".into(),
                    key: Some("/certs.d/r.example/c.key".into()),
                },
                Identity {
                    certificate: "/both.pem".into(),
                    key: None,
                }
            ],
            skip_verify: false,
        }
    );
    assert!(!file.hosts[1].resolve && file.hosts[1].pull && file.hosts[1].tls.skip_verify);
    let names: Vec<_> = file.hosts[2]
        .headers
        .iter()
        .map(|(name, _)| name.as_str())
        .collect();
    assert_eq!(names, ["x-key", "x-list", "x-list"]);
    assert!(!format!("{:?}", file.hosts[2]).contains("secret"));
    assert_eq!(
        file.server.tls.authorities,
        [PathBuf::from("/certs.d/r.example/server.pem")]
    );
}

#[test]
fn the_documented_file_is_one() {
    let text = super::super::registries_conf::test::documented("override_path");
    let host = &parse(&text).hosts[0];
    assert_eq!(host.url.as_ref().unwrap().path, "/v2/proxy");
    assert_eq!(host.tls.identities.len(), 1);
    assert_eq!(host.headers.len(), 1);
}

#[test]
fn an_empty_file_means_the_registry_itself() {
    let file = parse("");
    assert_eq!(file.hosts, []);
    assert_eq!(file.server.url, None);
    assert!(file.server.resolve && file.server.pull);
}

#[rstest]
#[case("server = 1", "hosts.toml:1: `server` has to be text")]
#[case("server = 'ftp://r.example'", "neither https nor http")]
#[case(
    "server = 'https://u:p4ss@r.example'",
    "must not hold a user and a password"
)]
#[case(
    "server = 'https://u:p4ss@r.example:99999'",
    "\"…@r.example:99999\" is not a URL"
)]
#[case(
    "[host.'https://u:p4ss@r.example']\ncapabilities = 'https://u:p4ss@r.example'",
    "`host.…@r.example.capabilities` has to be an array of texts, not \"…@r.example\""
)]
#[case("server = 'https://r.example/?x=1'", "has more than a scheme")]
#[case(
    "[host]\n'https://r.example' = true",
    "hosts.toml:2: `host.https://r.example` has to be a table"
)]
#[case(
    "[host.'https://r.example']\ncapabilities = 'pull'",
    "hosts.toml:2: `host.https://r.example.capabilities` has to be an array"
)]
#[case(
    "[host.'https://r.example']\nclient = [['a']]",
    "hosts.toml:2: `host.https://r.example.client` has to be"
)]
#[case(
    "[host.'https://r.example']\nclient = ''",
    "`client` names no certificate"
)]
#[case(
    "[host.'https://r.example']\ndial_timeout = '3'",
    "has to be a duration"
)]
#[case(
    "[host.'https://r.example']\ndial_timeout = '0s'",
    "has to be a duration"
)]
#[case(
    "[host.'https://r.example'.header]\n'bad name' = 'x'",
    "is not the name of a header"
)]
#[case(
    "[host.'https://r.example'.header]\nx = \"a\\nb\"",
    "characters that cannot be sent"
)]
#[case("[host.'']", "is not a URL")]
fn wrong_files_are_refused_by_line(#[case] text: &str, #[case] words: &str) {
    let error = HostsFile::parse(Path::new(FILE), text)
        .unwrap_err()
        .to_string();
    assert!(error.contains(words), "{error}");
    assert!(!error.contains("p4ss"), "{error}");
}

#[test]
fn unknown_keys_and_capabilities_are_warned_about() {
    let text =
        "[host.'https://r.example']\ncapabilities = ['resovle', 'pull']\nskip-verify = true\n";
    let (file, warnings) = HostsFile::parse(Path::new(FILE), text).unwrap();
    assert!(!file.hosts[0].resolve && !file.hosts[0].tls.skip_verify);
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert!(warnings[0].contains("hosts.toml:2: the capability \"resovle\""));
    assert!(warnings[1].contains("hosts.toml:3: unknown key `host.https://r.example.skip-verify`"));
}

#[rstest]
#[case("r.example", &["/c/r.example"])]
#[case("r.example:5000", &["/c/r.example_5000_", "/c/r.example:5000"])]
#[case("[::1]", &["/c/[::1]"])]
#[case("[::1]:5000", &["/c/[::1]_5000_", "/c/[::1]:5000"])]
fn names_of_folders(#[case] host: &str, #[case] expected: &[&str]) {
    let expected: Vec<PathBuf> = expected.iter().map(PathBuf::from).collect();
    assert_eq!(folders(Path::new("/c"), host), expected);
}

proptest! {
    #[test]
    fn no_text_makes_the_parser_panic(text in "[\\[\\]a-z\"'=.\\n/:@ -]{0,120}") {
        let _ = HostsFile::parse(Path::new(FILE), &text);
    }

    #[test]
    fn no_text_makes_durations_panic(text in "[0-9.hmsuµ]{0,40}") {
        let _ = duration(&text);
    }
}
