//! Container logs: the CRI format, long lines, rotation, bad disks and bad paths.

use std::{fs, os::unix::fs::symlink};

use anyhow::{Context, Result, bail, ensure};
use pintle_test::{cri::refused, node, settle, world};
use tonic::Code;

/// Bytes of a line after which it is cut into pieces.
const PIECE_BYTES: usize = 16 << 10;

#[test]
fn every_line_has_a_time_a_stream_and_a_tag() {
    world!(async |node| {
        let pod = node.run_pod("format").await?;
        let id = node
            .run(
                &pod,
                "c",
                "echo one; echo two >&2; echo; printf 'no newline'",
            )
            .await?;
        node.exited(&id).await?;
        let log = pod.raw_log("c")?;
        let mut said = Vec::new();
        let mut last = String::new();
        for line in log.lines() {
            let fields: Vec<_> = line.splitn(4, ' ').collect();
            let [time, stream, tag, message] = fields[..] else {
                bail!("no CRI log line: {line:?}");
            };
            ensure!(is_rfc3339_nano(time), "no time: {time:?}");
            ensure!(time >= last.as_str(), "{time} after {last}");
            time.clone_into(&mut last);
            said.push((stream, tag, message));
        }
        // The two streams are two pipes: only the order within each is certain.
        let of = |stream: &str| -> Vec<_> {
            said.iter()
                .filter(|line| line.0 == stream)
                .map(|line| (line.1, line.2))
                .collect()
        };
        ensure!(
            of("stdout") == [("F", "one"), ("F", ""), ("P", "no newline")]
                || of("stdout") == [("F", "one"), ("F", ""), ("F", "no newline")],
            "{said:?}"
        );
        ensure!(of("stderr") == [("F", "two")], "{said:?}");
        Ok(())
    });
}

#[test]
fn the_log_file_is_there_when_the_container_is_created() {
    world!(async |node| {
        let pod = node.run_pod("early").await?;
        node.image("busybox:latest").await?;
        node.cri()
            .create(&pod.id, &node::container("c", "true"), &pod.config)
            .await?;
        // kubelet links to it right after the start, and never again.
        ensure!(
            pod.log_file("c").is_file(),
            "no {}",
            pod.log_file("c").display()
        );
        Ok(())
    });
}

#[test]
fn long_lines_are_cut_into_partial_ones_and_nothing_is_lost() {
    world!(async |node| {
        let pod = node.run_pod("long").await?;
        let script = "head -c 100000 /dev/zero | tr '\\0' x; echo; echo short; head -c 16384 /dev/zero | tr '\\0' y; echo";
        let id = node.run(&pod, "c", script).await?;
        node.exited(&id).await?;
        for line in pod.raw_log("c")?.lines() {
            ensure!(
                line.len() < PIECE_BYTES + 100,
                "a line of {} bytes",
                line.len()
            );
        }
        let expected = format!(
            "{}\nshort\n{}\n",
            "x".repeat(100_000),
            "y".repeat(PIECE_BYTES)
        );
        ensure!(
            pod.output("c")? == expected,
            "put together it is something else"
        );
        Ok(())
    });
}

#[test]
fn bytes_that_are_no_text_are_logged_as_they_are() {
    world!(async |node| {
        let pod = node.run_pod("binary").await?;
        let id = node.run(&pod, "c", r"printf '\377\376 \000 end\n'").await?;
        node.exited(&id).await?;
        let log = fs::read(pod.log_file("c"))?;
        ensure!(log.ends_with(b" stdout F \xff\xfe \0 end\n"), "{log:?}");
        Ok(())
    });
}

#[test]
fn a_terminal_is_logged_as_standard_output() {
    world!(async |node| {
        let pod = node.run_pod("tty").await?;
        node.image("busybox:latest").await?;
        let mut config =
            node::container("c", "test -t 0 && test -t 1 && echo terminal; echo err >&2");
        config.tty = true;
        let id = node.start_container(&pod, &config).await?;
        let ended = node.exited(&id).await?;
        ensure!(ended.exit_code == 0, "exit code {}", ended.exit_code);
        let log = pod.raw_log("c")?;
        ensure!(log.contains("terminal") && log.contains("err"), "{log}");
        ensure!(
            !log.contains(" stderr "),
            "a terminal has one stream: {log}"
        );
        Ok(())
    });
}

#[test]
fn a_renamed_log_is_reopened_under_its_name_and_no_line_is_lost() {
    world!(async |node| {
        let pod = node.run_pod("rotated").await?;
        let script =
            "i=0; while [ $i -lt 3000 ]; do echo line $i; i=$((i+1)); done; echo done; sleep 100";
        let id = node.run(&pod, "c", script).await?;
        let path = pod.log_file("c");
        let mut pieces = Vec::new();
        for number in 0..5 {
            let rotated = path.with_extension(format!("log.{number}"));
            fs::rename(&path, &rotated).context("rotating")?;
            node.cri().reopen_log(&id).await?;
            ensure!(path.is_file(), "no new file");
            pieces.push(rotated);
        }
        pieces.push(path);
        let lines = settle::until("the last line", async || {
            let mut text = String::new();
            for piece in &pieces {
                text += &fs::read_to_string(piece)?;
            }
            Ok(text.contains(" done\n").then_some(text))
        })
        .await?;
        let numbers: Vec<_> = lines
            .lines()
            .filter_map(|line| line.split_once(" line "))
            .collect();
        ensure!(numbers.len() == 3000, "{} lines", numbers.len());
        for (expected, (_, number)) in numbers.iter().enumerate() {
            ensure!(
                *number == expected.to_string(),
                "line {number} instead of {expected}"
            );
        }
        Ok(())
    });
}

#[test]
fn the_log_of_what_does_not_run_is_not_reopened_and_no_file_is_made() {
    world!(async |node| {
        let pod = node.run_pod("ended").await?;
        let id = node.run(&pod, "c", "true").await?;
        node.exited(&id).await?;
        fs::remove_file(pod.log_file("c"))?;
        if node.cri().reopen_log(&id).await.is_err() {
            ensure!(!pod.log_file("c").exists(), "an error, and yet a file");
        }
        refused(
            node.cri().reopen_log("no-such-container").await,
            Code::NotFound,
        )?;
        Ok(())
    });
}

#[test]
fn a_full_disk_of_logs_does_not_stop_the_container() {
    world!(async |node| {
        let mut config = node.pod_config("full")?;
        config.log_directory = "/run/test/small".to_owned();
        world::make_dirs(&config.log_directory)?;
        world::mount_fs("tmpfs", &config.log_directory, "size=64k")?;
        let pod = node.run_pod_as(config).await?;
        let script = "i=0; while [ $i -lt 5000 ]; do echo a line that fills the disk $i; i=$((i+1)); done; touch /tmp/through; sleep 100";
        let id = node.run(&pod, "c", script).await?;
        let cri = node.cri();
        settle::until_true("the container writes on", async || {
            Ok(cri
                .exec(&id, &["test", "-e", "/tmp/through"], 10)
                .await?
                .exit_code
                == 0)
        })
        .await?;
        cri.remove_pod(&pod.id).await?;
        rustix::mount::unmount("/run/test/small", rustix::mount::UnmountFlags::DETACH)?;
        Ok(())
    });
}

#[test]
fn a_link_in_the_place_of_a_log_file_is_not_followed() {
    world!(async |node| {
        let pod = node.run_pod("linked").await?;
        node.image("busybox:latest").await?;
        let victim = "/run/test/victim";
        world::write(victim, "precious\n")?;
        symlink(victim, pod.log_file("c"))?;
        let created = node
            .cri()
            .create(
                &pod.id,
                &node::container("c", "echo overwritten"),
                &pod.config,
            )
            .await;
        if let Ok(id) = created {
            node.cri().start(&id).await?;
            node.exited(&id).await?;
        }
        ensure!(
            fs::read_to_string(victim)? == "precious\n",
            "the link was followed"
        );
        Ok(())
    });
}

#[test]
fn log_paths_that_leave_the_pods_directory_are_refused() {
    world!(async |node| {
        let pod = node.run_pod("climbing").await?;
        node.image("busybox:latest").await?;
        for path in ["../../escaped.log", "/run/test/escaped.log"] {
            let mut config = node::container("c", "true");
            config.log_path = path.to_owned();
            let answer = node.cri().create(&pod.id, &config, &pod.config).await;
            refused(answer, Code::InvalidArgument)?;
        }
        ensure!(!std::path::Path::new("/run/test/escaped.log").exists());
        Ok(())
    });
}

#[test]
fn logs_go_on_while_the_server_is_away() {
    world!(async |node| -> Result<()> {
        let pod = node.run_pod("alone").await?;
        let id = node
            .run(
                &pod,
                "c",
                "while [ ! -e /tmp/stop ]; do echo tick; sleep 0.05; done; echo end",
            )
            .await?;
        pod.output_with("c", "tick").await?;
        node.kill_server()?;
        let before = pod.output("c")?.lines().count();
        settle::until_true("more lines come", async || {
            Ok(pod.output("c")?.lines().count() > before + 5)
        })
        .await?;
        node.start_server().await?;
        node.cri().sh(&id, "touch /tmp/stop").await?;
        let ended = node.exited(&id).await?;
        ensure!(ended.exit_code == 0, "exit code {}", ended.exit_code);
        ensure!(
            pod.output("c")?.ends_with("end\n"),
            "the last line is missing"
        );
        Ok(())
    });
}

/// Whether this is a time with nanoseconds, always nine digits, as in 2026-11-23T20:15:00.000000001Z.
fn is_rfc3339_nano(text: &str) -> bool {
    let pattern = "dddd-dd-ddTdd:dd:dd.ddddddddd";
    let (head, zone) = text.split_at(text.len().min(pattern.len()));
    head.len() == pattern.len()
        && head
            .chars()
            .zip(pattern.chars())
            .all(|(c, p)| if p == 'd' { c.is_ascii_digit() } else { c == p })
        && (zone == "Z" || (zone.len() == 6 && zone.starts_with(['+', '-'])))
}
