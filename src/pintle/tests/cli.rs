//! The program as a shell sees it: what it prints, and its exit codes.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use rstest::rstest;

fn pintle(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_pintle"))
        .args(arguments)
        .env_remove("PINTLE_CONFIG")
        .env_remove("PINTLE_SOCKET")
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

fn with_config(config: &str, check: impl FnOnce(&Path, &str)) {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("config.yaml");
    fs::write(&file, config).unwrap();
    check(directory.path(), file.to_str().unwrap());
}

#[rstest]
#[case::nothing(&[], 64)]
#[case::unknown_command(&["fly"], 64)]
#[case::unknown_option(&["version", "--fast"], 64)]
#[case::no_configuration(&["--config", "/nonexistent/config.yaml", "config"], 64)]
#[case::serve_without_configuration(&["--config", "/nonexistent/config.yaml", "serve"], 64)]
#[case::no_server(&["image", "list", "--socket", "/nonexistent.sock"], 69)]
#[case::run_without_server(&["run", "--socket", "/nonexistent.sock", "busybox"], 125)]
#[case::wrong_run(&["run", "--socket", "/nonexistent.sock", "-v", "x", "busybox"], 64)]
#[case::help(&["--help"], 0)]
#[case::version(&["--version"], 0)]
fn exit_codes(#[case] arguments: &[&str], #[case] expected: i32) {
    let output = pintle(arguments);
    assert_eq!(output.status.code(), Some(expected), "{output:?}");
    assert_eq!(output.stderr.is_empty(), expected == 0, "{output:?}");
}

#[test]
fn the_effective_configuration_is_printed_and_right() {
    with_config("log: {format: json}\n", |directory, file| {
        fs::create_dir(directory.join("conf.d")).unwrap();
        fs::write(directory.join("conf.d/1.yaml"), "run: /run/other\n").unwrap();
        let printed = pintle(&["config", "--config", file]);
        assert!(printed.status.success());
        fs::remove_dir_all(directory.join("conf.d")).unwrap();
        fs::write(file, &printed.stdout).unwrap();
        let again = pintle(&["config", "--config", file]);
        assert_eq!(text(&again.stdout), text(&printed.stdout));
        assert!(text(&again.stdout).contains("\nrun: /run/other\n"));
        assert!(text(&again.stdout).contains("\n  format: json\n"));
        let checked = pintle(&["config", "--check", "--config", file]);
        assert_eq!(text(&checked.stdout), "the configuration is right\n");
    });
}

#[test]
fn every_error_of_the_configuration_is_printed_with_its_place() {
    with_config("rot: /a\nlog: {level: 3}\n", |_, file| {
        let output = pintle(&["--config", file, "config", "--check"]);
        assert_eq!(output.status.code(), Some(64));
        let expected = format!(
            "pintle: unknown key `rot` at {file}:1:1; did you mean `root`?\n\
             pintle: `log.level` at {file}:2:14: expected a level (error, warn, info, debug, trace) or a filter such as \
             `info,pintle_image=debug`, found the number 3\n"
        );
        assert_eq!(text(&output.stderr), expected);
    });
}

#[test]
fn the_socket_comes_from_the_configuration() {
    with_config("run: /nonexistent/run\n", |_, file| {
        let output = pintle(&["--config", file, "image", "list"]);
        assert_eq!(
            text(&output.stderr),
            "pintle: no server answers at /nonexistent/run/pintle.sock: No such file or directory (os error 2)\n"
        );
    });
}

#[test]
fn a_version_for_programs() {
    let output = pintle(&["version", "--json"]);
    let version: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(version["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(version["cri"], "v1");
}

#[test]
fn a_check_for_programs_leaves_no_trace() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("root");
    let config = format!(
        "root: {0}/root\nrun: /run/pintle-cli-test\nnetwork: {{cni: {{conf_dir: {0}/none}}}}\n",
        directory.path().display()
    );
    let file = directory.path().join("config.yaml");
    fs::write(&file, config).unwrap();
    let output = pintle(&["--config", file.to_str().unwrap(), "check", "--json"]);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let findings = report["findings"].as_array().unwrap();
    let failed = findings.iter().any(|finding| finding["level"] == "fail");
    assert_eq!(output.status.code(), Some(i32::from(failed)), "{output:?}");
    for finding in findings {
        assert_eq!(
            finding["mend"].is_string(),
            finding["level"] != "ok",
            "{finding}"
        );
    }
    assert!(
        findings
            .iter()
            .any(|finding| finding["area"] == "cni" && finding["level"] == "warn")
    );
    assert!(!root.exists() && fs::read_dir(directory.path()).unwrap().count() == 1);
}
