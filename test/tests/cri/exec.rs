//! ExecSync: output, exit codes, deadlines that end the whole tree, bounds on what is kept.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use api::cri;
use pintle_test::{
    cri::{refused, request_within, words},
    node, processes, settle, world,
};
use tonic::Code;

/// What is kept of each stream.
const CAP_BYTES: usize = 16 << 20;

#[test]
fn both_streams_and_the_exit_code_come_back() {
    world!(async |node| {
        let (_, id) = node.sleeper("exec").await?;
        let cri = node.cri();
        let answer = cri
            .exec(&id, &["sh", "-c", "echo out; echo err >&2; exit 7"], 30)
            .await?;
        ensure!(
            answer.stdout == b"out\n" && answer.stderr == b"err\n",
            "{answer:?}"
        );
        ensure!(answer.exit_code == 7, "exit code {}", answer.exit_code);
        let binary = cri.exec(&id, &["printf", r"\000\377\n"], 0).await?;
        ensure!(binary.stdout == [0, 0xff, b'\n'], "{:?}", binary.stdout);
        let killed = cri.exec(&id, &["sh", "-c", "kill -KILL $$"], 30).await?;
        ensure!(killed.exit_code == 137, "exit code {}", killed.exit_code);
        Ok(())
    });
}

#[test]
fn an_executed_command_is_in_the_containers_world() {
    world!(async |node| {
        let pod = node.run_pod("inside").await?;
        node.image("busybox:latest").await?;
        let mut config = node::container("c", node::SLEEP);
        config.envs.push(cri::KeyValue {
            key: "COLOUR".to_owned(),
            value: b"blue".to_vec(),
        });
        config.working_dir = "/usr".to_owned();
        node::security(&mut config).run_as_user = Some(cri::Int64Value { value: 1000 });
        let id = node.start_container(&pod, &config).await?;
        let cri = node.cri();
        ensure!(
            cri.sh(&id, "echo $COLOUR; pwd; id -u; hostname").await?
                == "blue\n/usr\n1000\ninside\n"
        );
        for kind in ["pid", "mnt", "net", "ipc", "uts"] {
            let pair = cri
                .sh(
                    &id,
                    &format!("readlink /proc/1/ns/{kind} /proc/self/ns/{kind}"),
                )
                .await;
            // Of a process of another capability set these links cannot be read: then there is nothing to compare.
            if let Ok(pair) = pair {
                let mut links = pair.lines();
                ensure!(links.next() == links.next(), "{kind}: {pair}");
            }
        }
        Ok(())
    });
}

#[test]
fn a_deadline_kills_the_command_and_everything_it_started() {
    world!(async |node| {
        let (_, id) = node.sleeper("deadline").await?;
        let cri = node.cri();
        let script = "setsid sleep 876543 & sleep 876543 & echo started; wait";
        let began = Instant::now();
        refused(
            cri.exec(&id, &["sh", "-c", script], 1).await,
            Code::DeadlineExceeded,
        )?;
        ensure!(
            began.elapsed() >= Duration::from_secs(1),
            "it did not wait for the deadline"
        );
        settle::until_true("nothing is left of it", async || {
            Ok(processes::with_command("876543").is_empty())
        })
        .await?;
        // The container itself goes on.
        ensure!(cri.sh(&id, "echo alive").await? == "alive\n");
        Ok(())
    });
}

#[test]
fn a_deadline_covers_a_command_that_holds_its_output_open() {
    world!(async |node| {
        let (_, id) = node.sleeper("held").await?;
        // The command ends at once; what it leaves behind keeps the pipe.
        let script = "sleep 765432 & echo done";
        match node.cri().exec(&id, &["sh", "-c", script], 2).await {
            Ok(answer) => ensure!(answer.stdout == b"done\n", "{answer:?}"),
            Err(status) => ensure!(status.code() == Code::DeadlineExceeded, "{status}"),
        }
        Ok(())
    });
}

#[test]
fn sixteen_mebibytes_of_each_stream_are_kept_and_the_rest_is_thrown_away() {
    world!(async |node| {
        let (_, id) = node.sleeper("loud").await?;
        // A message may have 16 MiB too, so no more than one of both can come back whole: what matters is that the
        // command is never blocked and that the answer is a success.
        let script = "yes 0123456789abcde | head -c 40000000; echo end >&2";
        let message = cri::ExecSyncRequest {
            container_id: id.clone(),
            cmd: words(&["sh", "-c", script]),
            timeout: 60,
        };
        let answer = node
            .cri()
            .runtime
            .clone()
            .max_decoding_message_size(64 << 20)
            .exec_sync(request_within(message, Duration::from_secs(90)))
            .await?
            .into_inner();
        ensure!(answer.exit_code == 0, "exit code {}", answer.exit_code);
        ensure!(answer.stderr == b"end\n", "{:?}", answer.stderr);
        ensure!(
            answer.stdout.len() <= CAP_BYTES,
            "{} bytes",
            answer.stdout.len()
        );
        ensure!(
            answer.stdout.len() > CAP_BYTES / 2,
            "{} bytes",
            answer.stdout.len()
        );
        ensure!(
            answer.stdout.starts_with(b"0123456789abcde\n"),
            "not its beginning"
        );
        Ok(())
    });
}

#[test]
fn what_does_not_run_cannot_execute() {
    world!(async |node| {
        let pod = node.run_pod("idle").await?;
        let cri = node.cri();
        let ended = node.run(&pod, "ended", "true").await?;
        node.exited(&ended).await?;
        let created = cri
            .create(&pod.id, &node::container("created", "true"), &pod.config)
            .await?;
        for id in [&ended, &created] {
            let status = cri.exec(id, &["true"], 5).await.err();
            let code = status.map(|status| status.code());
            ensure!(
                matches!(code, Some(Code::NotFound | Code::FailedPrecondition)),
                "{code:?}"
            );
        }
        refused(
            cri.exec("no-such-container", &["true"], 5).await,
            Code::NotFound,
        )?;
        let id = node.run(&pod, "running", node::SLEEP).await?;
        refused(cri.exec(&id, &[], 5).await, Code::InvalidArgument)?;
        Ok(())
    });
}

#[test]
fn a_missing_program_is_an_error_or_an_exit_code_in_words() {
    world!(async |node| {
        let (_, id) = node.sleeper("missing").await?;
        match node.cri().exec(&id, &["/no/such/program"], 10).await {
            Ok(answer) => {
                let said = String::from_utf8_lossy(&answer.stderr).into_owned();
                ensure!(
                    answer.exit_code != 0 && said.contains("/no/such/program"),
                    "{answer:?}"
                );
            }
            Err(status) => ensure!(status.message().contains("/no/such/program"), "{status}"),
        }
        Ok(())
    });
}

#[test]
fn many_commands_at_once_keep_their_outputs_apart() {
    world!(async |node| {
        let (_, id) = node.sleeper("busy").await?;
        let mut group = tokio::task::JoinSet::new();
        for number in 0..16 {
            let (cri, id) = (node.cri(), id.clone());
            group.spawn(async move {
                let script = format!("echo {number}; exit {number}");
                let answer = cri.exec(&id, &["sh", "-c", &script], 60).await?;
                anyhow::Ok((number, answer))
            });
        }
        while let Some(result) = group.join_next().await {
            let (number, answer) = result??;
            ensure!(answer.exit_code == number, "{number}: {answer:?}");
            ensure!(
                answer.stdout == format!("{number}\n").as_bytes(),
                "{number}: {answer:?}"
            );
        }
        Ok(())
    });
}

#[test]
fn a_client_that_gives_up_leaves_no_command_running() {
    world!(async |node| -> Result<()> {
        let (_, id) = node.sleeper("given-up").await?;
        let message = cri::ExecSyncRequest {
            container_id: id.clone(),
            cmd: words(&["sleep", "654321"]),
            timeout: 2,
        };
        let answer = node
            .cri()
            .runtime
            .clone()
            .exec_sync(request_within(message, Duration::from_millis(500)))
            .await;
        ensure!(answer.is_err(), "it was answered");
        settle::until_true("the command is gone", async || {
            Ok(processes::with_command("sleep 654321").is_empty())
        })
        .await
    });
}
