use std::{fs, path::Path, time::Duration};

use proptest::prelude::*;
use rstest::rstest;

use super::{
    Sources, from_tree, load,
    node::Node,
    scalars::{ByteSize, parse_duration, show_duration},
};

fn problems(text: &str) -> String {
    match Node::parse(text, Path::new("/etc/pintle/config.yaml")) {
        Err(problem) => problem.to_string(),
        Ok(tree) => from_tree(&tree).unwrap_err().to_string(),
    }
}

#[rstest]
#[case::near(
    "root: /srv\n\nruntime_handler: runc\n",
    "unknown key `runtime_handler` at /etc/pintle/config.yaml:3:1; did you mean `runtimes`?"
)]
#[case::nested(
    "network:\n  cni:\n    conf_dirs: /x\n",
    "unknown key `network.cni.conf_dirs` at /etc/pintle/config.yaml:3:5; did you mean `network.cni.conf_dir`?"
)]
#[case::elsewhere(
    "bin_dirs: [/x]\n",
    "unknown key `bin_dirs` at /etc/pintle/config.yaml:1:1; did you mean `network.cni.bin_dirs`?"
)]
#[case::nothing_near("xyzzy: 1\n", "unknown key `xyzzy` at /etc/pintle/config.yaml:1:1")]
#[case::in_a_registry(
    "image:\n  registries:\n    r.example:5000:\n      plain_htpp: true\n",
    "unknown key `image.registries.\"r.example:5000\".plain_htpp` at /etc/pintle/config.yaml:4:7; did you mean \
     `image.registries.\"r.example:5000\".plain_http`?"
)]
#[case::duration_without_unit(
    "network: {cni: {plugin_timeout: 30}}",
    "`network.cni.plugin_timeout` at /etc/pintle/config.yaml:1:33: expected a duration such as `30s`, `1m30s` or \
     `500ms`, found the number 30"
)]
#[case::text_for_bool(
    "image: {registries: {r: {plain_http: yes}}}",
    "`image.registries.r.plain_http` at /etc/pintle/config.yaml:1:38: expected `true` or `false`, found \"yes\""
)]
#[case::url_of_a_mirror(
    "image: {registries: {r: {mirrors: ['http://m:5000']}}}",
    "`image.registries.r.mirrors[0]` at /etc/pintle/config.yaml:1:36: expected a host such as `registry.example` or \
     `10.0.0.1:5000`, without scheme and path, found \"http://m:5000\""
)]
#[case::url_of_a_registry(
    "image: {registries: {'https://r': {plain_http: true}}}",
    "`image.registries` at /etc/pintle/config.yaml:1:22: expected a host such as `registry.example` or \
     `10.0.0.1:5000`, without scheme and path, found \"https://r\""
)]
#[case::relative_path(
    "root: var/lib\n",
    "`root` at /etc/pintle/config.yaml:1:7: expected an absolute path, found \"var/lib\""
)]
#[case::wrong_word(
    "cgroup:\n  driver: cgroup\n",
    "`cgroup.driver` at /etc/pintle/config.yaml:2:11: expected `cgroupfs` or `systemd`, found \"cgroup\""
)]
#[case::level(
    "log: {level: inof}",
    "`log.level` at /etc/pintle/config.yaml:1:14: expected a level (error, warn, info, debug, trace) or a filter such as `info,pintle_image=debug`, found \"inof\""
)]
#[case::list_for_map(
    "log: [info]\n",
    "`log` at /etc/pintle/config.yaml:1:6: expected a map of keys, found a list"
)]
#[case::item(
    "runtimes: {runc: {args: [--debug, true]}}",
    "`runtimes.runc.args[1]` at /etc/pintle/config.yaml:1:35: expected text, found `true`"
)]
#[case::top_level_list(
    "- a\n",
    "/etc/pintle/config.yaml:1:1: expected a map of keys, found a list"
)]
#[case::zero(
    "image: {parallel_layers: 0}",
    "`image.parallel_layers` at /etc/pintle/config.yaml:1:26: expected a whole number from 1 on, found the number 0"
)]
#[case::negative(
    "containers: {pids_limit: -1}",
    "`containers.pids_limit` at /etc/pintle/config.yaml:1:26: expected a whole number, found the number -1"
)]
#[case::size(
    "image: {max_layer_size: 5 miles}",
    "`image.max_layer_size` at /etc/pintle/config.yaml:1:25: expected a size such as `16MiB`, found \"5 miles\""
)]
#[case::limit_upside_down(
    "containers: {default_ulimits: {nofile: '9:1'}}",
    "`containers.default_ulimits.nofile` at /etc/pintle/config.yaml:1:40: expected a limit such as `1024`, `1024:65536` or \
     `unlimited`, found \"9:1\""
)]
#[case::limit_name(
    "containers: {default_ulimits: {nofiles: 1}}",
    "unknown key `containers.default_ulimits.nofiles` at /etc/pintle/config.yaml:1:32; did you mean \
     `containers.default_ulimits.nofile`?"
)]
#[case::capability(
    "containers: {default_capabilities: [KILL, NET_ADMNI]}",
    "`containers.default_capabilities[1]` at /etc/pintle/config.yaml:1:43: expected a capability such as `NET_ADMIN`, \
     found \"NET_ADMNI\""
)]
#[case::sysctl(
    "containers: {default_sysctls: {vm.swappiness: 1}}",
    "`containers.default_sysctls.\"vm.swappiness\"` at /etc/pintle/config.yaml:1:47: belongs to the whole node, not to a namespace"
)]
#[case::unknown_default(
    "default_runtime: kata\n",
    "`default_runtime` at /etc/pintle/config.yaml:1:18: `runtimes` has no \"kata\", only: crun, runc"
)]
#[case::slice(
    "cgroup: {driver: systemd, parent: /pintle}",
    "`cgroup.parent` at /etc/pintle/config.yaml:1:35: the systemd driver needs a slice, such as pintle.slice"
)]
#[case::nested_roots(
    "run: /var/lib/pintle/r\n",
    "`run` at /etc/pintle/config.yaml:1:6: `root` and `run` cannot lie in each other"
)]
#[case::handler_name(
    "runtimes: {Kata!: {}}",
    "`runtimes.\"Kata!\"` at /etc/pintle/config.yaml:1:19: \"Kata!\" cannot be a handler: lower-case letters, digits, `-`, `_` and \
     `.`, at most 63 of them"
)]
#[case::address_without_port(
    "streaming: {listen: 127.0.0.1}",
    "`streaming.listen` at /etc/pintle/config.yaml:1:21: expected an address with a port, such as `127.0.0.1:0` or `[::1]:10010`, \
     found \"127.0.0.1\""
)]
#[case::advertised_path(
    "streaming: {advertise: 'https://node.example:10010/'}",
    "`streaming.advertise` at /etc/pintle/config.yaml:1:24: \"https://node.example:10010/\" is no scheme and authority: http:// or \
     https://, then a host and a port, without a path"
)]
#[case::certificate_without_key(
    "streaming: {tls: {certificate: /c.pem}}",
    "`streaming.tls.certificate` at /etc/pintle/config.yaml:1:32: needs `streaming.tls.key` beside it"
)]
#[case::key_without_certificate(
    "streaming: {tls: {key: /k.pem, client_ca: /ca.pem}}",
    "`streaming.tls.key` at /etc/pintle/config.yaml:1:24: needs `streaming.tls.certificate` beside it"
)]
#[case::clients_authority_alone(
    "streaming: {tls: {client_ca: /ca.pem}}",
    "`streaming.tls.client_ca` at /etc/pintle/config.yaml:1:30: needs `streaming.tls.certificate` beside it"
)]
#[case::proxy(
    "image: {proxy: {https: 'socks5://jane:s3cret@proxy.example'}}",
    "`image.proxy.https` at /etc/pintle/config.yaml:1:24: expected `environment`, `none` or the URL of an HTTP proxy, such as \
     `http://proxy.example:3128`, found something else"
)]
#[case::two_at_once(
    "rot: /a\nlog: {format: xml}\n",
    "unknown key `rot` at /etc/pintle/config.yaml:1:1; did you mean `root`?\n`log.format` at /etc/pintle/config.yaml:2:15: \
     expected `text` or `json`, found \"xml\""
)]
fn errors_name_the_place(#[case] text: &str, #[case] expected: &str) {
    assert_eq!(problems(text), expected);
}

#[test]
fn the_documented_registries_are_read() {
    let page = include_str!("../../../../docs/registries.md");
    let (_, block) = page.split_once("    image:\n").unwrap();
    let (block, _) = block.split_once("\n\n").unwrap();
    let text = format!("    image:\n{block}\n");
    let tree = Node::parse(&text, Path::new("/etc/pintle/config.yaml")).unwrap();
    let config = from_tree(&tree).unwrap();
    let shown = super::to_yaml(&config);
    assert!(
        shown.contains("https: \"http://***@proxy.example:3128\""),
        "{shown}"
    );
    assert!(!shown.contains("password@proxy"), "{shown}");
    assert!(config.image.registries["registry.example:5000"].plain_http);
}

#[rstest]
#[case::twice("root: /a\nroot: /b\n", "/etc/pintle/config.yaml:2:1: ", "root")]
#[case::not_yaml("root: [/a\n", "/etc/pintle/config.yaml:", "")]
#[case::tab("log:\n\tlevel: info\n", "/etc/pintle/config.yaml:2:", "")]
#[case::two_documents("root: /a\n---\nroot: /b\n", "/etc/pintle/config.yaml:", "document")]
fn syntax_errors_name_the_place(#[case] text: &str, #[case] start: &str, #[case] holds: &str) {
    let message = problems(text);
    assert!(
        message.starts_with(start) && message.contains(holds),
        "{message}"
    );
    assert_eq!(message.lines().count(), 1, "{message}");
}

#[test]
fn long_paths_leave_no_room_for_sockets() {
    let run = format!("/{}", "r".repeat(40));
    assert_eq!(
        problems(&format!("run: {run}\n")),
        "`run` at /etc/pintle/config.yaml:1:6: the path has 41 bytes, sockets below it leave room for 17"
    );
}

#[test]
fn drop_ins_are_merged_in_the_order_of_their_names() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("config.yaml");
    let conf_d = directory.path().join("conf.d");
    fs::create_dir(&conf_d).unwrap();
    fs::write(
        &file,
        "network:\n  default_network: a\n  cni: {bin_dirs: [/a, /b]}\nlog: {level: debug}\n",
    )
    .unwrap();
    fs::write(
        conf_d.join("20.yaml"),
        "network: {cni: {bin_dirs: [/c]}}\nlog: null\n",
    )
    .unwrap();
    fs::write(
        conf_d.join("10.yaml"),
        "network: {cni: {conf_dir: /d, bin_dirs: [/x]}}\n",
    )
    .unwrap();
    fs::write(conf_d.join("30.yaml.bak"), "no: yaml").unwrap();
    fs::write(conf_d.join(".40.yaml"), "no: yaml").unwrap();
    fs::write(conf_d.join("50.yaml"), "# nothing but a comment\n").unwrap();
    let config = load(&Sources::new(Some(&file))).unwrap();
    assert_eq!(config.network.default_network.as_deref(), Some("a"));
    assert_eq!(config.network.cni.conf_dir, Path::new("/d"));
    assert_eq!(config.network.cni.bin_dirs, [Path::new("/c")]);
    assert_eq!(config.log.level.0, "info");

    fs::write(conf_d.join("60.yaml"), "logs: {}\n").unwrap();
    let error = load(&Sources::new(Some(&file))).unwrap_err().to_string();
    let expected = format!(
        "unknown key `logs` at {}/60.yaml:1:1; did you mean `log`?",
        conf_d.display()
    );
    assert_eq!(error, expected);
}

#[test]
fn a_missing_file_is_an_error_only_when_it_was_named() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("config.yaml");
    let mut sources = Sources::new(Some(&file));
    let error = load(&sources).unwrap_err().to_string();
    assert_eq!(
        error,
        format!(
            "cannot read {}: No such file or directory (os error 2)",
            file.display()
        )
    );
    sources.file_required = false;
    assert_eq!(load(&sources).unwrap(), super::Config::default());
}

#[rstest]
#[case("0", Some(Duration::ZERO))]
#[case("0s", Some(Duration::ZERO))]
#[case("30s", Some(Duration::from_secs(30)))]
#[case("1m30s", Some(Duration::from_secs(90)))]
#[case("500ms", Some(Duration::from_millis(500)))]
#[case("1h", Some(Duration::from_hours(1)))]
#[case("90s", Some(Duration::from_secs(90)))]
#[case("", None)]
#[case("30", None)]
#[case("s", None)]
#[case("1.5s", None)]
#[case("30s1m", None)]
#[case("1s1s", None)]
#[case("-1s", None)]
#[case("1 s", None)]
#[case("1d", None)]
#[case("99999999999999999999s", None)]
#[case("18446744073709551615h", None)]
fn durations(#[case] text: &str, #[case] expected: Option<Duration>) {
    assert_eq!(parse_duration(text), expected);
}

#[rstest]
#[case("0", Some(0))]
#[case("1024", Some(1024))]
#[case("16MiB", Some(16 << 20))]
#[case("16 MiB", Some(16 << 20))]
#[case("16Mi", Some(16 << 20))]
#[case("2GB", Some(2_000_000_000))]
#[case("7B", Some(7))]
#[case("MiB", None)]
#[case("1.5GiB", None)]
#[case("16mib", None)]
#[case("99999999TiB", None)]
#[case("", None)]
fn sizes(#[case] text: &str, #[case] bytes: Option<u64>) {
    assert_eq!(ByteSize::parse(text), bytes.map(ByteSize));
}

proptest! {
    #[test]
    fn durations_print_and_read_back(ns in any::<u64>()) {
        let duration = Duration::from_nanos(ns);
        prop_assert_eq!(parse_duration(&show_duration(duration)), Some(duration));
    }

    #[test]
    fn sizes_print_and_read_back(bytes in any::<u64>()) {
        prop_assert_eq!(ByteSize::parse(&ByteSize(bytes).to_string()), Some(ByteSize(bytes)));
    }

    #[test]
    fn no_text_makes_the_reader_panic(text in "[a-z:\\[\\]{} \n\"'&*#|>~0-9-]{0,60}") {
        if let Ok(tree) = Node::parse(&text, Path::new("/c")) {
            drop(from_tree(&tree));
        }
    }
}
