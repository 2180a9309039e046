//! The servers: their configuration, start and end. Both get the same network, registry, kind of disk and requests.

mod containerd;
mod pintle;

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use anyhow::{Context, Result, bail};
use api::cri;
use pintle_test::{
    cri::{Client, request},
    places, settle,
    world::make_dirs,
};
use rustix::process::{Pid, Signal, kill_process};

use crate::{options::Who, requests, stage};

/// Lines of a server's log that are shown when it does not start.
const LOG_TAIL_LINES: usize = 20;

/// A running server. Dropping it kills it.
#[derive(Debug)]
pub(crate) struct Server {
    /// Which one.
    pub(crate) who: Who,
    /// Its socket's client.
    pub(crate) client: Client,
    process: Child,
}

/// Where a server's files are.
#[derive(Clone, Debug)]
struct Places {
    /// What lasts: images, layers.
    root: PathBuf,
    /// What does not.
    run: PathBuf,
    socket: PathBuf,
    config: PathBuf,
    log: PathBuf,
}

impl Places {
    fn of(who: Who) -> Self {
        let name = who.name().to_lowercase();
        let run = match who {
            Who::Pintle => PathBuf::from(places::RUN),
            _ => Path::new("/run").join(&name),
        };
        Self {
            root: stage::root(who).to_owned(),
            socket: run.join(format!("{name}.sock")),
            run,
            config: Path::new(places::SCRATCH).join(format!("{name}.conf")),
            log: Path::new(places::SCRATCH).join(format!("{name}.log")),
        }
    }
}

impl Server {
    /// Starts one and waits until it is ready. It has the image of the pods.
    pub(crate) async fn start(who: Who, runtimes: &[String]) -> Result<Self> {
        let server = Self::start_bare(who, runtimes).await?;
        let image = requests::image();
        server
            .client
            .pull(&image)
            .await
            .with_context(|| format!("{}: pulling {image}", who.name()))?;
        Ok(server)
    }

    /// Starts one and waits until it is ready.
    pub(crate) async fn start_bare(who: Who, runtimes: &[String]) -> Result<Self> {
        let places = Places::of(who);
        make_dirs(&places.run)?;
        let mut command = match who {
            Who::Pintle => pintle::command(&places, runtimes)?,
            Who::Containerd => containerd::command(&places, runtimes)?,
            Who::Floor | Who::Skopeo => bail!("{} is no server", who.name()),
        };
        let (client, process) = ready(&mut command, &places).await?;
        Ok(Self {
            who,
            client,
            process,
        })
    }

    /// Its PID.
    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Ends it and waits until it is gone.
    pub(crate) async fn stop(mut self) -> Result<()> {
        let pid = i32::try_from(self.pid()).ok().and_then(Pid::from_raw);
        kill_process(pid.context("no PID")?, Signal::TERM).context("ending a server")?;
        settle::until("the server ends after SIGTERM", async || {
            Ok(self.process.try_wait()?)
        })
        .await?;
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

async fn ready(command: &mut Command, places: &Places) -> Result<(Client, Child)> {
    let log = File::options()
        .create(true)
        .append(true)
        .open(&places.log)
        .with_context(|| format!("opening {}", places.log.display()))?;
    let mut process = command
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .with_context(|| format!("running {command:?}"))?;
    let client = settle::until("the server is ready", async || {
        if let Some(status) = process.try_wait()? {
            bail!("{command:?} ended with {status}");
        }
        let Ok(client) = Client::connect(&places.socket).await else {
            return Ok(None);
        };
        let status = cri::StatusRequest { verbose: false };
        let answer = client.runtime.clone().status(request(status)).await;
        let status = answer.ok().and_then(|answer| answer.into_inner().status);
        // A server may answer before it has seen the network's configuration.
        let ready = status.is_some_and(|status| status.conditions.iter().all(|all| all.status));
        Ok(ready.then_some(client))
    });
    match client.await {
        Ok(client) => Ok((client, process)),
        Err(error) => {
            show_log(&places.log);
            let _ = process.kill();
            let _ = process.wait();
            Err(error)
        }
    }
}

/// Shows the end of every server's log that there is, for a run that failed.
pub(crate) fn show_logs() {
    for who in [Who::Pintle, Who::Containerd] {
        show_log(&Places::of(who).log);
    }
}

fn show_log(path: &Path) {
    let text = fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<_> = text.lines().collect();
    if !lines.is_empty() {
        eprintln!("--- end of {}", path.display());
    }
    for line in &lines[lines.len().saturating_sub(LOG_TAIL_LINES)..] {
        eprintln!("{line}");
    }
}
