//! Pulls of the large image, each by a fresh server, by the floor or by skopeo onto a brand-new filesystem, taking turns.

use std::{
    fs,
    pin::pin,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use pintle_test::{processes, registry, world::make_dirs};

use crate::{
    disk::Disk,
    floor,
    options::{Options, Who},
    results::Pull,
    servers::{self, Server},
    stage::{self, Stage},
};

/// Room for the unpacked image, its blobs and the filesystem's own needs.
const DISK_BYTES: u64 = 4 << 30;

/// The repository of the image.
const IMAGE: &str = "big";
/// The project's goal for an idle server, which is also the goal for one that has pulled.
pub(crate) const IDLE_KIB: u64 = 10 << 10;
/// How long a server may take to be below it.
const SETTLE: Duration = Duration::from_secs(20);
/// How often its memory is looked at.
const LOOK: Duration = Duration::from_millis(50);

/// Measures all.
pub(crate) async fn measure(_stage: &Stage, options: &Options) -> Result<Vec<Pull>> {
    let mut pulls: Vec<Pull> = options
        .who
        .iter()
        .map(|&who| Pull {
            who,
            image_bytes: 0,
            wall_s: Vec::new(),
            cpu_s: Vec::new(),
            peak_rss_kib: 0,
            peak_anonymous_kib: 0,
            settled_s: Vec::new(),
            remove_ms: Vec::new(),
        })
        .collect();
    for round in 0..options.pulls {
        for pull in &mut pulls {
            let one = once(pull, round, options).await;
            if one.is_err() {
                servers::show_logs();
            }
            one.with_context(|| format!("a pull by {}", pull.who.name()))?;
        }
        pulls.reverse();
    }
    pulls.sort_by_key(|pull| pull.who);
    Ok(pulls)
}

async fn once(pull: &mut Pull, round: u32, options: &Options) -> Result<()> {
    // On top of the disk of the other phases, which is seen again afterwards.
    let name = format!("pull-{}-{round}", pull.who.name());
    let root = stage::root(pull.who);
    let _disk = Disk::mount(&name, DISK_BYTES, root)?;
    match pull.who {
        Who::Floor => {
            let target = root.join("pull");
            make_dirs(&target)?;
            let pulled = tokio::task::spawn_blocking(move || {
                timed(std::process::id(), || floor::pull::run(IMAGE, &target))
            });
            pull.note(pulled.await??);
            Ok(())
        }
        Who::Skopeo => {
            pull.note(tokio::task::spawn_blocking(by_skopeo).await??);
            Ok(())
        }
        Who::Pintle | Who::Containerd => by_server(pull, options).await,
    }
}

async fn by_server(pull: &mut Pull, options: &Options) -> Result<()> {
    let server = Server::start_bare(pull.who, &options.runtimes).await?;
    let (client, pid) = (server.client.clone(), server.pid());
    let image = registry::name("big:latest");
    // What others have written must not have to be waited for.
    rustix::fs::sync();
    let cpu_before_s = cpu_s(pid)?;
    let begin = Instant::now();
    let mut pulling = pin!(client.pull(&image));
    let pulled = loop {
        if let Ok(pulled) = tokio::time::timeout(LOOK, &mut pulling).await {
            break pulled;
        }
        let anonymous_kib = processes::rollup_kib(pid, "Anonymous:")?;
        pull.peak_anonymous_kib = pull.peak_anonymous_kib.max(anonymous_kib);
    };
    pulled.context("PullImage")?;
    pull.note((begin.elapsed(), cpu_s(pid)? - cpu_before_s));
    pull.peak_rss_kib = pull.peak_rss_kib.max(peak_rss_kib(pid)?);

    let pulled = Instant::now();
    while processes::pss_kib(pid)? > IDLE_KIB && pulled.elapsed() < SETTLE {
        tokio::time::sleep(LOOK).await;
    }
    pull.settled_s.push(pulled.elapsed().as_secs_f64());

    let found = client.image(&image).await?;
    pull.image_bytes = found.context("the image is not there")?.size;
    let begin = Instant::now();
    client.remove_image(&image).await.context("RemoveImage")?;
    pull.remove_ms.push(begin.elapsed().as_secs_f64() * 1e3);
    server.stop().await
}

/// Into containers-storage, where CRI-O keeps its images too.
fn by_skopeo() -> Result<(Duration, f64)> {
    let root = stage::root(Who::Skopeo);
    let from = format!("docker://{}", registry::name("big:latest"));
    let to = format!(
        "containers-storage:[overlay@{}+/run/skopeo]{}",
        root.display(),
        registry::name("big:latest")
    );
    rustix::fs::sync();
    timed(std::process::id(), || {
        let output = Command::new("skopeo")
            .args([
                "--insecure-policy",
                "copy",
                "--quiet",
                "--src-tls-verify=false",
            ])
            .args([from, to])
            .output()
            .context("running skopeo")?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "skopeo: {said}");
        Ok(())
    })
}

/// How long something takes, and what CPU time a process and those that it waits for spend on it.
fn timed(pid: u32, work: impl FnOnce() -> Result<()>) -> Result<(Duration, f64)> {
    let cpu_before_s = cpu_s(pid)?;
    let begin = Instant::now();
    work()?;
    Ok((begin.elapsed(), cpu_s(pid)? - cpu_before_s))
}

impl Pull {
    fn note(&mut self, (wall, cpu_s): (Duration, f64)) {
        self.wall_s.push(wall.as_secs_f64());
        self.cpu_s.push(cpu_s);
    }
}

/// CPU time of a process, of threads that have ended and of children that it has waited for too: coarse, but pulls are long.
fn cpu_s(pid: u32) -> Result<f64> {
    let path = format!("/proc/{pid}/stat");
    let text = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
    // Behind the name, which may hold any character, utime, stime, cutime and cstime are the 12th to 15th field.
    let fields = text.rsplit_once(") ").context("a stat without a name")?.1;
    let ticks: u64 = fields
        .split(' ')
        .skip(11)
        .take(4)
        .filter_map(|ticks| ticks.parse::<u64>().ok())
        .sum();
    let per_second = rustix::param::clock_ticks_per_second();
    Ok(Duration::from_millis(ticks * 1000 / per_second).as_secs_f64())
}

fn peak_rss_kib(pid: u32) -> Result<u64> {
    let path = format!("/proc/{pid}/status");
    let text = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
    text.lines()
        .find_map(|line| line.strip_prefix("VmHWM:")?.split_whitespace().next())
        .and_then(|kib| kib.parse().ok())
        .with_context(|| format!("{path} has no VmHWM"))
}
