//! What a monitor costs, beside calling the runtime by hand. Measures and prints, asserts nothing:
//!
//! ```text
//! PINTLE_MONITOR=…/pintle-monitor cargo test -p pintle-monitor --test monitor --release -- --ignored --nocapture cost
//! ```

use std::{
    fs,
    os::unix::process::CommandExt as _,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use runtime::{Monitor, MonitorSpawn};

use crate::pod::{LONG, Pod, Wanted};

const MONITORS: usize = 50;
const ROUNDS: usize = 40;

#[tokio::test]
#[ignore = "a measurement"]
async fn memory_with_fifty_containers() {
    let pod = Pod::new("crun").await;
    let mut monitors = Vec::new();
    for n in 0..MONITORS {
        let spawn = MonitorSpawn {
            binary: Pod::binary(),
            pod_id: format!("cost-{n}"),
            socket: pod.path(&format!("m{n}.sock")),
            log: None,
        };
        let runtime::SpawnedMonitor {
            monitor, events, ..
        } = Monitor::spawn(&spawn).await.unwrap();
        let id = format!("c{n}");
        let request = pod.request(
            &id,
            &Wanted {
                args: &["/bin/sleep", "1000"],
                ..Wanted::default()
            },
        );
        let pid = monitor.create(&request).await.unwrap().pid;
        pod.start(&id).await;
        monitors.push((monitor, events, id, pid));
    }
    let mut sums = [0; 3];
    for (_, _, _, pid) in &monitors {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let parent = status
            .lines()
            .find_map(|line| line.strip_prefix("PPid:"))
            .unwrap()
            .trim();
        let rollup = fs::read_to_string(format!("/proc/{parent}/smaps_rollup")).unwrap();
        let kib = |name: &str| -> u64 {
            let line = rollup
                .lines()
                .find_map(|line| line.strip_prefix(name))
                .unwrap();
            line.trim().trim_end_matches(" kB").parse().unwrap()
        };
        for (sum, value) in sums.iter_mut().zip([
            kib("Pss:"),
            kib("Private_Clean:") + kib("Private_Dirty:"),
            kib("Rss:"),
        ]) {
            *sum += value;
        }
    }
    let [pss, private, rss] = sums.map(|sum| sum / 50);
    println!(
        "each of {MONITORS} monitors with one container: PSS {pss} KiB, private {private} KiB, RSS {rss} KiB"
    );
    for (monitor, _events, id, _) in monitors {
        pod.runtime.delete(&id, true, LONG).await.unwrap();
        monitor.forget(&id).await.unwrap();
        monitor.end().await.unwrap();
    }
    pod.finish().await;
}

#[tokio::test]
#[ignore = "a measurement"]
async fn time_beside_the_runtime_by_hand() {
    for runtime in ["crun", "runc"] {
        let pod = Pod::new(runtime).await;
        let wanted = Wanted {
            args: &["/bin/sleep", "1000"],
            ..Wanted::default()
        };
        let (mut by_hand, mut ours, mut spawns) = (Vec::new(), Vec::new(), Vec::new());
        let (mut start_by_hand, mut start_ours) = (Vec::new(), Vec::new());
        let (mut exec_by_hand, mut exec_ours) = (Vec::new(), Vec::new());
        for round in 0..ROUNDS {
            let bundle = pod.bundle("h", &wanted);
            let hand = |arguments: &[&str]| {
                let mut command = Command::new(pod.runtime.path());
                command
                    .arg("--root")
                    .arg(pod.runtime.root())
                    .args(arguments);
                // A session of its own, as under a monitor: the scheduler shares a busy node out by sessions (autogroup).
                // SAFETY: setsid is safe between fork and exec.
                unsafe { command.pre_exec(|| Ok(rustix::process::setsid().map(drop)?)) };
                command
                    .stdin(Stdio::null())
                    .stdout(Stdio::null())
                    .stderr(Stdio::null());
                assert!(command.status().unwrap().success(), "{arguments:?}");
            };
            let start = Instant::now();
            hand(&["create", "--bundle", bundle.to_str().unwrap(), "h"]);
            by_hand.push(start.elapsed());
            let start = Instant::now();
            hand(&["start", "h"]);
            start_by_hand.push(start.elapsed());
            let start = Instant::now();
            hand(&["exec", "h", "/bin/true"]);
            exec_by_hand.push(start.elapsed());
            hand(&["delete", "--force", "h"]);

            let request = pod.request("c", &wanted);
            let start = Instant::now();
            pod.monitor.create(&request).await.unwrap();
            ours.push(start.elapsed());
            let start = Instant::now();
            pod.start("c").await;
            start_ours.push(start.elapsed());
            let start = Instant::now();
            pod.exec("c", &["/bin/true"], None).await.unwrap();
            exec_ours.push(start.elapsed());
            pod.remove("c").await;

            let spawn = MonitorSpawn {
                binary: Pod::binary(),
                pod_id: "cost".to_owned(),
                socket: pod.path(&format!("s{round}.sock")),
                log: None,
            };
            let start = Instant::now();
            let runtime::SpawnedMonitor { monitor, .. } = Monitor::spawn(&spawn).await.unwrap();
            monitor.state().await.unwrap();
            spawns.push(start.elapsed());
            monitor.end().await.unwrap();
        }
        for (what, by_hand, ours) in [
            ("create", &mut by_hand, &mut ours),
            ("start", &mut start_by_hand, &mut start_ours),
            ("exec", &mut exec_by_hand, &mut exec_ours),
        ] {
            println!(
                "{runtime} {what}: by hand {:?}, through the monitor {:?}",
                median(by_hand),
                median(ours)
            );
        }
        println!("monitor spawned and answering: {:?}", median(&mut spawns));
        pod.finish().await;
    }
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}
