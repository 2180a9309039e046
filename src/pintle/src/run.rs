//! `pintle run`: one container in a pod of its own, as a plain client of the CRI.
//!
//! Image, pod, container, start; then the log is followed until the container ends, and its exit code is ours. Whatever
//! happens on the way, a failure or a signal, the pod is taken down again. A signal ends the container as `kubectl
//! delete` would; a second one does not wait for it.

mod follow;
mod log;
mod request;
mod timings;

use std::{
    env,
    error::Error as _,
    fs, io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use api::cri::{
    self, image_service_client::ImageServiceClient, runtime_service_client::RuntimeServiceClient,
};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tonic::{Code, Status, transport::Channel};

use self::{follow::Follower, request::Requests, timings::Timings};
use crate::{
    args::{Pull, RunArguments},
    client::{self, Asked, ClientError},
    exit::{Exit, Failure, OrExit},
};

/// What a signalled container gets before it is killed.
const STOP_GRACE_SECONDS: i64 = 10;
/// How long the server may be away, as for a restart, before we give up.
const PATIENCE: Duration = Duration::from_secs(30);
/// The pauses between two looks at the container: short for a short one, longer with its age.
const LOOK_PAUSE_MIN: Duration = Duration::from_millis(2);
const LOOK_PAUSE_MAX: Duration = Duration::from_millis(50);

/// Runs the container and returns its exit code.
pub(crate) async fn run(
    config_file: Option<&Path>,
    arguments: &RunArguments,
) -> Result<Exit, Failure> {
    let id = state::PodId::random().short().to_owned();
    let logs = LogDirectory::new(&id);
    let requests = request::requests(arguments, &id, &logs.0, |name| env::var_os(name))
        .or_exit(Exit::Usage)?;
    let socket = client::socket(&arguments.connected, config_file).or_exit(Exit::Usage)?;
    let channel = client::connect(&socket).await.or_exit(Exit::RunFailed)?;
    logs.make().or_exit(Exit::RunFailed)?;
    let mut run = Run {
        runtime: RuntimeServiceClient::new(channel.clone())
            .max_decoding_message_size(api::MAX_MESSAGE_BYTES),
        images: ImageServiceClient::new(channel).max_decoding_message_size(api::MAX_MESSAGE_BYTES),
        requests,
        follower: Follower::new(logs.0.join(request::LOG_FILE)),
        signals: Signals::new().or_exit(Exit::Internal)?,
        timings: Timings::default(),
        pod_id: None,
    };
    let outcome = run.up_to_the_end(arguments).await;
    let cleaned = run.take_down().await;
    if arguments.timings {
        eprint!("{}", run.timings.table());
    }
    // What went wrong first is what the operator wants to know.
    let exit = outcome.or_exit(Exit::RunFailed)?;
    cleaned.or_exit(Exit::RunFailed)?;
    Ok(exit)
}

/// Why there is no exit code of a container.
#[derive(Debug, thiserror::Error)]
enum RunError {
    /// The server refused a step or is gone.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// `--pull never`, and there is no such image.
    #[error("image {0:?} is not here, and --pull never keeps it from being pulled")]
    NoImage(String),
    /// The log cannot be read, or our own output not written.
    #[error("cannot pass on the container's output: {0}")]
    Output(#[source] io::Error),
}

/// How far a sequence of steps came.
enum Progress<T> {
    /// To its end.
    Went(T),
    /// A signal came first.
    Interrupted(StopSignal),
}

struct Run {
    runtime: RuntimeServiceClient<Channel>,
    images: ImageServiceClient<Channel>,
    requests: Requests,
    follower: Follower,
    signals: Signals,
    timings: Timings,
    pod_id: Option<String>,
}

impl Run {
    async fn up_to_the_end(&mut self, arguments: &RunArguments) -> Result<Exit, RunError> {
        // Nothing is there yet that would have to be taken down, so here a signal ends us at once.
        let stopped = {
            let Self {
                signals,
                images,
                timings,
                requests,
                ..
            } = self;
            tokio::select! {
                signal = signals.next() => Some(signal),
                pulled = provide_image(images, timings, &requests.image, arguments.pull) => {
                    pulled?;
                    None
                }
            }
        };
        if let Some(signal) = stopped {
            return Ok(Exit::Passed(signal.exit_code()));
        }
        let container_id = match self.start(&arguments.runtime).await? {
            Progress::Went(container_id) => container_id,
            Progress::Interrupted(signal) => return Ok(Exit::Passed(signal.exit_code())),
        };
        let started = Instant::now();
        let status = self.until_it_ends(&container_id).await;
        self.timings.add("container", started.elapsed());
        let status = status?;
        if !matches!(status.reason.as_str(), "" | "Completed" | "Error") {
            eprintln!(
                "pintle run: the container ended: {} {}",
                status.reason, status.message
            );
        }
        Ok(Exit::Passed(
            u8::try_from(status.exit_code).unwrap_or(u8::MAX),
        ))
    }

    async fn start(&mut self, handler: &str) -> Result<Progress<String>, ClientError> {
        let request = cri::RunPodSandboxRequest {
            config: Some(self.requests.pod.clone()),
            runtime_handler: handler.to_owned(),
        };
        let mut runtime = self.runtime.clone();
        let step = Box::pin(runtime.run_pod_sandbox(request));
        let (pod, interrupted) = self.attend("RunPodSandbox", step).await?;
        let Some(pod) = pod else {
            return Ok(Progress::Interrupted(
                interrupted.unwrap_or(StopSignal::Interrupt),
            ));
        };
        self.pod_id = Some(pod.pod_sandbox_id.clone());
        if let Some(signal) = interrupted {
            return Ok(Progress::Interrupted(signal));
        }
        let request = cri::CreateContainerRequest {
            pod_sandbox_id: pod.pod_sandbox_id,
            config: Some(self.requests.container.clone()),
            sandbox_config: Some(self.requests.pod.clone()),
        };
        let step = Box::pin(runtime.create_container(request));
        let created = match self.attend("CreateContainer", step).await? {
            (Some(created), None) => created,
            (_, signal) => {
                return Ok(Progress::Interrupted(
                    signal.unwrap_or(StopSignal::Interrupt),
                ));
            }
        };
        let request = cri::StartContainerRequest {
            container_id: created.container_id.clone(),
        };
        let step = Box::pin(runtime.start_container(request));
        match self.attend("StartContainer", step).await? {
            (Some(_), None) => Ok(Progress::Went(created.container_id)),
            (_, signal) => Ok(Progress::Interrupted(
                signal.unwrap_or(StopSignal::Interrupt),
            )),
        }
    }

    /// Waits for a step. After a signal too: what it makes has to be taken down. Only a second signal leaves at once,
    /// and then there is no answer.
    async fn attend<T>(
        &mut self,
        name: &'static str,
        step: impl Future<Output = Result<tonic::Response<T>, Status>>,
    ) -> Result<(Option<T>, Option<StopSignal>), ClientError> {
        let signals = &mut self.signals;
        let attended = async {
            let mut step = std::pin::pin!(step);
            let mut interrupted = None;
            loop {
                tokio::select! {
                    answer = &mut step => return (Some(answer), interrupted),
                    signal = signals.next() => {
                        if interrupted.replace(signal).is_some() {
                            return (None, interrupted);
                        }
                        eprintln!("pintle run: waiting for {name}, to undo it; a second signal leaves at once");
                    }
                }
            }
        };
        let (answer, interrupted) = self.timings.time(name, attended).await;
        let answer = answer.map(|answer| answer.asked(name)).transpose()?;
        Ok((answer, interrupted))
    }

    /// Passes on the container's output until it has ended; signals and a closed output end it.
    async fn until_it_ends(&mut self, id: &str) -> Result<cri::ContainerStatus, RunError> {
        let mut pause = LOOK_PAUSE_MIN;
        let mut away_since: Option<Instant> = None;
        let mut stopping: Option<tokio::task::JoinHandle<()>> = None;
        loop {
            let request = cri::ContainerStatusRequest {
                container_id: id.to_owned(),
                verbose: false,
            };
            let status = match self.runtime.container_status(request).await {
                Ok(answer) => Some(answer.into_inner().status.ok_or(ClientError::Incomplete {
                    step: "ContainerStatus",
                    lacks: "status",
                })?),
                Err(status) if may_come_back(&status, &mut away_since) => None,
                Err(status) => return Err(refused("ContainerStatus", status).into()),
            };
            if status.is_some() {
                away_since = None;
            }
            // After the look at its state: what it wrote before its end is then in the file.
            match self.follower.catch_up().await {
                Ok(true) => pause = LOOK_PAUSE_MIN,
                Ok(false) => {}
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                    // As if we were the container: a program whose reader is gone gets SIGPIPE.
                    self.stop(id.to_owned(), 0).await;
                    return Ok(cri::ContainerStatus {
                        exit_code: i32::from(StopSignal::Pipe.exit_code()),
                        ..cri::ContainerStatus::default()
                    });
                }
                Err(error) => return Err(RunError::Output(error)),
            }
            if let Some(status) = status
                && status.state() == cri::ContainerState::ContainerExited
            {
                return Ok(status);
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                _ = self.signals.next() => {
                    let grace = if stopping.is_some() { 0 } else { STOP_GRACE_SECONDS };
                    let stop = self.stop(id.to_owned(), grace);
                    stopping = Some(tokio::spawn(stop));
                }
            }
            pause = (pause * 2).min(LOOK_PAUSE_MAX);
        }
    }

    fn stop(&self, container_id: String, timeout: i64) -> impl Future<Output = ()> + use<> {
        let mut runtime = self.runtime.clone();
        async move {
            let request = cri::StopContainerRequest {
                container_id,
                timeout,
            };
            if let Err(status) = runtime.stop_container(request).await {
                eprintln!("pintle run: {}", refused("StopContainer", status));
            }
        }
    }

    /// Takes down what was set up.
    async fn take_down(&mut self) -> Result<(), ClientError> {
        let Some(pod_sandbox_id) = self.pod_id.take() else {
            return Ok(());
        };
        let request = cri::StopPodSandboxRequest {
            pod_sandbox_id: pod_sandbox_id.clone(),
        };
        let runtime = &self.runtime;
        let step = patiently(|| {
            let mut runtime = runtime.clone();
            let request = request.clone();
            async move { runtime.stop_pod_sandbox(request).await }
        });
        let stopped = self.timings.time("StopPodSandbox", step).await;
        let request = cri::RemovePodSandboxRequest { pod_sandbox_id };
        let step = patiently(|| {
            let mut runtime = runtime.clone();
            let request = request.clone();
            async move { runtime.remove_pod_sandbox(request).await }
        });
        let removed = self.timings.time("RemovePodSandbox", step).await;
        stopped.asked("StopPodSandbox")?;
        removed.asked("RemovePodSandbox")?;
        Ok(())
    }
}

async fn provide_image(
    images: &mut ImageServiceClient<Channel>,
    timings: &mut Timings,
    image: &cri::ImageSpec,
    pull: Pull,
) -> Result<(), RunError> {
    if pull != Pull::Always {
        let request = cri::ImageStatusRequest {
            image: Some(image.clone()),
            verbose: false,
        };
        let found = images.image_status(request).await.asked("ImageStatus")?;
        match (found.image, pull) {
            (Some(_), _) => return Ok(()),
            (None, Pull::Never) => return Err(RunError::NoImage(image.image.clone())),
            (None, _) => {}
        }
    }
    let request = cri::PullImageRequest {
        image: Some(image.clone()),
        ..cri::PullImageRequest::default()
    };
    let step = images.pull_image(request);
    timings.time("PullImage", step).await.asked("PullImage")?;
    Ok(())
}

/// Repeats a request while the server is away.
async fn patiently<T, F: Future<Output = Result<T, Status>>>(
    request: impl Fn() -> F,
) -> Result<T, Status> {
    let mut away_since = None;
    loop {
        match request().await {
            Err(status) if may_come_back(&status, &mut away_since) => {
                tokio::time::sleep(LOOK_PAUSE_MAX).await;
            }
            answer => return answer,
        }
    }
}

/// Whether the server is away, and has not been for too long. What has a source was not said by a server: a connection that ends
/// under a call has codes of many kinds.
fn may_come_back(status: &Status, away_since: &mut Option<Instant>) -> bool {
    (status.code() == Code::Unavailable || status.source().is_some())
        && away_since.get_or_insert_with(Instant::now).elapsed() < PATIENCE
}

fn refused(step: &'static str, status: Status) -> ClientError {
    ClientError::Refused {
        step,
        status: Box::new(status),
    }
}

/// The signals that end a run.
#[derive(Debug)]
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

#[derive(Clone, Copy, Debug)]
enum StopSignal {
    Interrupt,
    Terminate,
    Hangup,
    Pipe,
}

impl StopSignal {
    /// What a shell shows for a program that this signal ended.
    fn exit_code(self) -> u8 {
        128 + match self {
            Self::Hangup => 1,
            Self::Interrupt => 2,
            Self::Pipe => 13,
            Self::Terminate => 15,
        }
    }
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> StopSignal {
        tokio::select! {
            _ = self.interrupt.recv() => StopSignal::Interrupt,
            _ = self.terminate.recv() => StopSignal::Terminate,
            _ = self.hangup.recv() => StopSignal::Hangup,
        }
    }
}

/// The directory of the log file; removed at the end.
#[derive(Debug)]
struct LogDirectory(PathBuf);

impl LogDirectory {
    /// Below the directory for temporary files; the server has to see the same one.
    fn new(id: &str) -> Self {
        Self(env::temp_dir().join(format!("pintle-run-{id}")))
    }

    fn make(&self) -> Result<(), LogDirectoryError> {
        // Not recursive: a directory that is there already is somebody else's.
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&self.0)
            .map_err(|source| LogDirectoryError {
                path: self.0.clone(),
                source,
            })
    }
}

impl Drop for LogDirectory {
    fn drop(&mut self) {
        // It may never have been made.
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[derive(Debug, thiserror::Error)]
#[error("cannot make {path}: {source}", path = .path.display())]
struct LogDirectoryError {
    path: PathBuf,
    source: io::Error,
}
