//! Pulls of the large image, each by a fresh server onto a brand-new filesystem, the servers taking turns.

use std::{fs, time::Instant};

use anyhow::{Context, Result};
use pintle_test::registry;

use crate::{
    disk::Disk,
    options::{Options, Who},
    results::Pull,
    servers::{self, Server},
    stage::{self, Stage},
};

/// Room for the unpacked image, its blobs and the filesystem's own needs.
const DISK_BYTES: u64 = 4 << 30;

/// Measures all servers.
pub(crate) async fn measure(_stage: &Stage, options: &Options) -> Result<Vec<Pull>> {
    let mut pulls: Vec<Pull> = [Who::Pintle, Who::Containerd]
        .into_iter()
        .filter(|who| options.who.contains(who))
        .map(|who| Pull {
            who,
            image_bytes: 0,
            wall_s: Vec::new(),
            cpu_s: Vec::new(),
            peak_rss_kib: 0,
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
    let _disk = Disk::mount(&name, DISK_BYTES, stage::root(pull.who))?;
    let server = Server::start_bare(pull.who, &options.runtimes).await?;
    let image = registry::name("big:latest");
    // What others have written must not have to be waited for.
    rustix::fs::sync();
    let cpu_before_s = cpu_s(server.pid())?;
    let begin = Instant::now();
    server.client.pull(&image).await.context("PullImage")?;
    pull.wall_s.push(begin.elapsed().as_secs_f64());
    pull.cpu_s.push(cpu_s(server.pid())? - cpu_before_s);
    pull.peak_rss_kib = pull.peak_rss_kib.max(peak_rss_kib(server.pid())?);
    let pulled = server.client.image(&image).await?;
    pull.image_bytes = pulled.context("the image is not there")?.size;
    server.stop().await
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
    Ok(std::time::Duration::from_millis(ticks * 1000 / per_second).as_secs_f64())
}

fn peak_rss_kib(pid: u32) -> Result<u64> {
    let path = format!("/proc/{pid}/status");
    let text = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
    text.lines()
        .find_map(|line| line.strip_prefix("VmHWM:")?.split_whitespace().next())
        .and_then(|kib| kib.parse().ok())
        .with_context(|| format!("{path} has no VmHWM"))
}
