#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::time::Instant;

use rstest::rstest;
use tempfile::TempDir;

use super::*;

/// A folder with a helper `docker-credential-it` that is this script.
fn helper(script: &str) -> (TempDir, Helpers) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("docker-credential-it");
    std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    let mut helpers = Helpers::new(
        &[dir.path().to_owned(), "/usr/bin".into(), "/bin".into()],
        Duration::from_secs(20),
    );
    helpers.limit = Duration::from_secs(20);
    (dir, helpers)
}

/// Runs a fresh script. Another test's fork may hold a script open for writing for a moment, and the kernel then refuses it.
async fn ask(helpers: &Helpers, server: &str) -> Result<Option<Credentials>, HelperFault> {
    loop {
        match helpers.get("it", server).await {
            Err(HelperFault::Run(std::io::ErrorKind::ExecutableFileBusy)) => {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            answer => return answer,
        }
    }
}

#[rstest]
#[case::user(
    r#"echo '{"ServerURL":"x","Username":"u","Secret":"p"}'"#,
    Ok(Some(Credentials::basic("u", "p")))
)]
#[case::token(
    r#"echo '{"Username":"<token>","Secret":"id"}'"#,
    Ok(Some(Credentials::of_identity_token(Secret::new("id"))))
)]
#[case::empty(r#"echo '{"Username":"","Secret":""}'"#, Ok(None))]
#[case::none("echo credentials not found in native keychain; exit 1", Ok(None))]
#[case::nameless("echo no credentials server URL; exit 1", Ok(None))]
#[case::garbage("echo hunter2", Err(HelperFault::Garbage))]
#[case::silent("exit 0", Err(HelperFault::Garbage))]
#[case::failure(
    "echo hunter2; echo hunter2 >&2; exit 3",
    Err(HelperFault::Failed { status: "exit status: 3".into(), server: "quay.io".into() })
)]
#[case::death(
    "kill -9 $$",
    Err(HelperFault::Failed { status: "signal: 9 (SIGKILL)".into(), server: "quay.io".into() })
)]
#[case::not_found_on_stderr(
    "echo credentials not found in native keychain >&2; exit 1",
    Err(HelperFault::Failed { status: "exit status: 1".into(), server: "quay.io".into() })
)]
#[case::flood("exec head -c 104857600 /dev/zero", Err(HelperFault::TooMuchOutput))]
#[tokio::test]
async fn answers(#[case] script: &str, #[case] expected: Result<Option<Credentials>, HelperFault>) {
    let (_dir, helpers) = helper(script);
    let answer = ask(&helpers, "quay.io").await;
    if let Err(fault) = &answer {
        assert!(!fault.to_string().contains("hunter2"), "{fault}");
    }
    assert_eq!(answer, expected);
}

#[tokio::test]
async fn it_is_told_the_registry_and_nothing_of_the_server() {
    let (dir, helpers) = helper(
        r#"[ "$*" = get ] || exit 9
           printf '{"Username":"%s %s","Secret":"p"}' "$(cat)" "$(env | sed 's/=.*//' | grep -v _ | sort | tr '\n' ' ')""#,
    );
    let credentials = ask(&helpers, "quay.io:5000").await.unwrap().unwrap();
    let told = credentials.username().reveal();
    let mut words = told.split_whitespace();
    assert_eq!(words.next(), Some("quay.io:5000"));
    let known = ["HOME", "LANG", "PATH", "PWD", "SHLVL", "OLDPWD"];
    for name in words {
        assert!(known.contains(&name), "{told}");
    }
    drop(dir);
}

#[tokio::test]
async fn one_that_hangs_is_killed_with_its_children() {
    let (dir, mut helpers) = helper("cd \"$(dirname \"$0\")\"; sleep 1000 & echo $! > pid; wait");
    // On a busy machine it takes a while until the helper has a child.
    let mut limit = Duration::from_millis(250);
    let pid = loop {
        limit *= 2;
        assert!(limit < Duration::from_mins(1), "it never starts its child");
        helpers.limit = limit;
        let fault = ask(&helpers, "quay.io").await.unwrap_err();
        assert_eq!(fault, HelperFault::Deadline { limit });
        if let Ok(pid) = std::fs::read_to_string(dir.path().join("pid"))
            && pid.ends_with('\n')
        {
            break pid;
        }
    };
    let until = Instant::now() + Duration::from_secs(10);
    while runs(pid.trim()) {
        assert!(Instant::now() < until, "its child still runs");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn one_that_nobody_waits_for_is_killed() {
    let (dir, helpers) =
        helper("cd \"$(dirname \"$0\")\"; echo $$ > started; mv started pid; sleep 1000");
    let asked = tokio::spawn(async move { ask(&helpers, "quay.io").await });
    let until = Instant::now() + Duration::from_secs(10);
    let pid = loop {
        match std::fs::read_to_string(dir.path().join("pid")) {
            Ok(pid) => break pid,
            Err(_) => assert!(Instant::now() < until, "it does not start"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    asked.abort();
    while runs(pid.trim()) {
        assert!(Instant::now() < until, "it still runs");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_child_that_keeps_the_pipe_does_not_hold_us_up() {
    let (_dir, helpers) =
        helper(r#"echo '{"Username":"u","Secret":"p"}'; sleep 15 2>/dev/null & exit 0"#);
    let begun = Instant::now();
    let answer = ask(&helpers, "quay.io").await;
    assert_eq!(answer, Ok(Some(Credentials::basic("u", "p"))));
    assert!(begun.elapsed() < Duration::from_secs(10));
}

#[rstest]
#[case("")]
#[case("../it")]
#[case("/bin/sh")]
#[case("a b")]
#[case("it\0")]
#[case("it\n")]
#[case("ä")]
#[tokio::test]
async fn names_lead_nowhere_else(#[case] name: &str) {
    let (_dir, helpers) = helper("exit 0");
    assert_eq!(
        helpers.get(name, "quay.io").await,
        Err(HelperFault::BadName)
    );
}

#[tokio::test]
async fn programs_are_found_in_absolute_folders_only() {
    let (dir, helpers) = helper("exit 0");
    let fault = helpers.get("other", "quay.io").await.unwrap_err();
    assert!(
        fault.to_string().contains(dir.path().to_str().unwrap()),
        "{fault}"
    );
    std::fs::write(dir.path().join("docker-credential-plain"), "").unwrap();
    let fault = helpers.get("plain", "quay.io").await.unwrap_err();
    assert!(matches!(fault, HelperFault::Missing { .. }), "{fault}");
    let relative = Helpers::new(&[".".into(), "".into()], Duration::ZERO);
    assert_eq!(relative.dirs, Vec::<PathBuf>::new());
}

/// Whether a process runs: a zombie does not.
fn runs(pid: &str) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
        let state = stat.rsplit(')').next().unwrap_or_default().trim_start();
        !state.starts_with(['Z', 'X'])
    })
}
