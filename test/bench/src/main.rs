//! The benchmark: what a pod costs with Pintle, beside the floor and beside Debian's containerd, in one run.
//!
//! All of it happens in one world of [`mod@pintle_test::world`]: network, mount, PID and cgroup namespaces that vanish with
//! the run, a registry with images made here, one CNI network. In it stand Pintle, containerd and the [`floor`] (the same
//! OCI runtime and CNI plugins called by hand), each with its files on an ext4 with a journal of its own. Whatever is
//! compared is interleaved: A, B, C, then A, B, C again, so that the machine's other load meets all of them.
//!
//! The way of a run: [`options`] → [`stage`] sets up → the phases [`life`], [`memory`], [`lists`], [`mod@stats`], [`pull`] measure →
//! [`goals`] judges → [`report`] and [`chart`] write.

#![forbid(unsafe_code)]

mod big_image;
mod chart;
mod disk;
mod floor;
mod goals;
mod life;
mod lists;
mod machine;
mod memory;
mod options;
mod pull;
mod report;
mod requests;
mod results;
mod samples;
mod servers;
mod stage;
mod stats;

use std::{env, process::ExitCode};

use anyhow::{Context, Result};
use clap::Parser;
use pintle_test::world;

use crate::{
    options::{Options, Phase},
    results::Results,
    stage::Stage,
};

fn main() -> ExitCode {
    let options = Options::parse();
    match run(&options) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("bench: {error:?}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<ExitCode> {
    if !world::inside() {
        let status = world::again(env::args_os().skip(1))?;
        return Ok(if status.success() {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        });
    }
    // Before /run and /var/lib are hidden: the results have to outlive the world.
    let out = options.out()?;
    world::furnish()?;
    let results = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("starting tokio")?
        .block_on(measure(options))?;
    report::write(&out, &results)?;
    print!("{}", report::markdown(&results));
    println!(
        "\nWritten to {}: report.md, results.json, pods.svg",
        out.display()
    );
    Ok(ExitCode::SUCCESS)
}

async fn measure(options: &Options) -> Result<Results> {
    let stage = Stage::set_up(options).await?;
    let mut results = Results::new(machine::Machine::look()?, options);
    // Memory first: its servers have to be fresh, and the machine's caches are emptier than they will be.
    for phase in [
        Phase::Memory,
        Phase::Start,
        Phase::List,
        Phase::Stats,
        Phase::Pull,
    ] {
        if !options.wants(phase) {
            continue;
        }
        eprintln!("bench: {}", phase.title());
        match phase {
            Phase::Start | Phase::Stop => results.lives = life::measure(&stage, options).await?,
            Phase::Memory => results.memory = memory::measure(&stage, options).await?,
            Phase::List => results.lists = lists::measure(&stage, options).await?,
            Phase::Stats => results.stats = stats::measure(&stage, options).await?,
            Phase::Pull => results.pulls = pull::measure(&stage, options).await?,
        }
    }
    results.machine.look_again()?;
    Ok(results)
}
