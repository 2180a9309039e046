#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio::time::sleep;

use super::{MAX_STDOUT_BYTES, PluginError, Run, Subject, Verb, quote, run};

struct Script {
    dir: TempDir,
    path: PathBuf,
}

impl Script {
    fn new(body: &str) -> Self {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("plugin");
        // Written by a shell: a descriptor of ours, open for writing, could be in a child that another test starts at
        // this very moment, and executing the file would fail with ETXTBSY.
        let written = std::process::Command::new("sh")
            .args([
                "-c",
                r#"printf '#!/bin/sh\ncd %s\n%s\n' "$1" "$2" > "$1/plugin"; chmod 755 "$1/plugin""#,
                "sh",
            ])
            .arg(dir.path())
            .arg(body)
            .status();
        assert!(written.unwrap().success());
        Self { dir, path }
    }

    async fn run(&self, input: &[u8], limit: Duration) -> Result<Vec<u8>, PluginError> {
        let result = run(Run {
            network: "pods",
            plugin: "plugin",
            binary: &self.path,
            verb: Verb::Add,
            subject: Subject {
                container_id: "ab12",
                netns: Some(Path::new("/run/netns/ab12")),
                ifname: "eth0",
                args: "A=1;B=2",
            },
            search_path: OsStr::new("/opt/cni/bin"),
            input,
            limit,
        })
        .await;
        result.map_err(|failure| {
            assert!(
                failure
                    .to_string()
                    .starts_with("network pods: plugin plugin ADD: "),
                "{failure}"
            );
            failure.error
        })
    }

    async fn output(&self, input: &[u8]) -> String {
        String::from_utf8(self.run(input, LONG).await.unwrap()).unwrap()
    }

    async fn error(&self) -> String {
        self.run(b"{}", LONG).await.unwrap_err().to_string()
    }

    async fn file(&self, name: &str) -> String {
        let path = self.dir.path().join(name);
        for _ in 0..500 {
            if let Ok(text) = fs::read_to_string(&path)
                && text.ends_with('\n')
            {
                return text.trim().to_owned();
            }
            sleep(Duration::from_millis(10)).await;
        }
        panic!("{} does not appear", path.display());
    }
}

const LONG: Duration = Duration::from_secs(20);

async fn ends(pid: &str) {
    let stat = PathBuf::from(format!("/proc/{pid}/stat"));
    for _ in 0..300 {
        // A zombie has ended; who reaps it is not the question.
        match fs::read_to_string(&stat) {
            Ok(text) if !text.contains(") Z ") => sleep(Duration::from_millis(10)).await,
            _ => return,
        }
    }
    panic!("process {pid} is still running");
}

#[tokio::test]
async fn a_plugin_gets_its_input_and_nothing_but_cnis_environment() {
    let plugin = Script::new(
        "cat; env | grep -v -e ^PWD= -e ^OLDPWD= -e ^_= -e ^SHLVL= | sort | sed s/^PATH=.*/PATH/",
    );
    let output = plugin.output(b"input ").await;
    assert_eq!(
        output,
        "input CNI_ARGS=A=1;B=2\nCNI_COMMAND=ADD\nCNI_CONTAINERID=ab12\nCNI_IFNAME=eth0\n\
         CNI_NETNS=/run/netns/ab12\nCNI_PATH=/opt/cni/bin\nPATH\n"
    );
}

#[tokio::test]
async fn an_input_larger_than_a_pipe_passes() {
    let plugin = Script::new("cat");
    let input = vec![b'x'; 600 << 10];
    assert_eq!(plugin.run(&input, LONG).await.unwrap(), input);
}

#[tokio::test]
async fn a_plugin_need_not_read_its_input() {
    let plugin = Script::new("exec <&-; echo done");
    assert_eq!(plugin.output(&vec![b'x'; 600 << 10]).await, "done\n");
}

#[tokio::test]
async fn a_plugin_that_hangs_is_killed_with_all_it_started() {
    let plugin = Script::new("sleep 60 & echo $! > child; echo waiting for the API >&2; wait");
    let begun = Instant::now();
    let error = plugin
        .run(b"{}", Duration::from_millis(400))
        .await
        .unwrap_err();
    assert!(begun.elapsed() < Duration::from_secs(3));
    assert!(matches!(error, PluginError::Deadline { .. }));
    assert_eq!(
        error.to_string(),
        "killed after 400ms without an answer; stderr: \"waiting for the API\""
    );
    ends(&plugin.file("child").await).await;
}

#[tokio::test]
async fn a_plugin_that_nobody_waits_for_any_more_is_killed() {
    let plugin = Script::new("sleep 60 & echo $! > child; wait");
    tokio::select! {
        _ = plugin.run(b"{}", LONG) => panic!("the plugin ended"),
        _ = plugin.file("child") => {}
    }
    ends(&plugin.file("child").await).await;
}

#[tokio::test]
async fn endless_output_is_cut_off() {
    let plugin = Script::new("echo begin; yes");
    let begun = Instant::now();
    let error = plugin.run(b"{}", LONG).await.unwrap_err();
    assert!(begun.elapsed() < Duration::from_secs(10));
    let message = error.to_string();
    let expected = format!(
        "killed after printing more than {MAX_STDOUT_BYTES} bytes, beginning with \"begin\\ny"
    );
    assert!(message.starts_with(&expected), "{message}");
}

#[tokio::test]
async fn endless_stderr_is_read_and_only_its_end_is_kept() {
    let plugin = Script::new("yes | head -c 3000000 >&2; echo the cause >&2; exit 3");
    let message = plugin.error().await;
    assert!(
        message.starts_with("exit status: 3; it printed \"\"; stderr: "),
        "{message}"
    );
    assert!(message.ends_with("the cause\""), "{message}");
    assert!(message.len() < 20_000, "{}", message.len());
}

#[tokio::test]
async fn a_daemon_that_keeps_the_pipes_open_is_not_waited_for() {
    let plugin = Script::new("echo '{}'; sleep 3 & echo $! > child");
    let begun = Instant::now();
    assert_eq!(plugin.output(b"{}").await, "{}\n");
    assert!(begun.elapsed() < Duration::from_secs(2));
    let child = plugin.file("child").await;
    assert!(Path::new(&format!("/proc/{child}")).exists(), "it may stay");
}

#[tokio::test]
async fn a_refusal_in_cnis_words_is_passed_on() {
    let plugin = Script::new(
        r#"echo '{"cniVersion":"1.0.0","code":7,"msg":"no such bridge","details":"cni9"}'; echo hint >&2; exit 1"#,
    );
    assert_eq!(
        plugin.error().await,
        "no such bridge: cni9 (code 7); stderr: \"hint\""
    );
}

#[tokio::test]
async fn a_failure_in_other_words_is_quoted() {
    let plugin = Script::new("echo 'panic: oh'; exit 2");
    assert_eq!(
        plugin.error().await,
        "exit status: 2; it printed \"panic: oh\\n\""
    );
    let plugin = Script::new("kill -SEGV $$");
    assert!(plugin.error().await.starts_with("signal: 11 (SIGSEGV)"));
}

#[tokio::test]
async fn an_executable_that_is_none_is_named() {
    let plugin = Script::new("");
    fs::remove_file(&plugin.path).unwrap();
    let message = plugin.error().await;
    assert!(message.starts_with("execute /"), "{message}");
    assert!(message.contains("No such file"), "{message}");
}

#[test]
fn a_quotation_is_short_and_printable() {
    assert_eq!(quote(b"a\x1b[31m\xff"), "\"a\\u{1b}[31m\u{fffd}\"");
    let long = quote(&[b'x'; 5000]);
    assert!(long.ends_with("x\"…") && long.len() < 220);
}
