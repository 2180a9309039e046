//! Starting a monitor.

use std::{
    env, fs, io,
    os::{
        fd::OwnedFd,
        unix::{
            fs::{OpenOptionsExt as _, PermissionsExt as _},
            net::UnixListener,
        },
    },
    path::PathBuf,
    process::Stdio,
};

use tokio::process::Command;

use crate::RuntimeError;

/// The monitor's `PATH`, and so that of runtimes and hooks, if the server has none.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A monitor to be started.
#[derive(Clone, Debug)]
pub struct MonitorSpawn {
    /// The `pintle-monitor` binary.
    pub binary: PathBuf,
    /// Pod id: shows in the process list.
    pub pod_id: String,
    /// Its socket; must not exist. Limited to 107 bytes, as every Unix socket.
    pub socket: PathBuf,
    /// Where its own complaints go (appended); `None` is nowhere.
    pub log: Option<PathBuf>,
}

impl MonitorSpawn {
    /// Listens in the monitor's place and hands the listener over as its stdin: whoever connects from now on is served,
    /// so that nothing has to be awaited.
    ///
    /// Answers its process id.
    pub(crate) fn start(&self) -> Result<u32, RuntimeError> {
        let io = |doing, path: &PathBuf| {
            let path = path.clone();
            move |source: io::Error| RuntimeError::Io {
                doing,
                path,
                source,
            }
        };
        let log = |path: &PathBuf| {
            let file = fs::File::options()
                .append(true)
                .create(true)
                .mode(0o640)
                .open(path);
            file.map_err(io("open monitor log", path))
        };
        let (stdout, stderr) = match &self.log {
            None => (Stdio::null(), Stdio::null()),
            Some(path) => {
                let file = log(path)?;
                let copy = file.try_clone().map_err(io("open monitor log", path))?;
                (file.into(), copy.into())
            }
        };
        let listener = UnixListener::bind(&self.socket).map_err(io("listen", &self.socket))?;
        // The monitor checks who connects; this keeps others from trying.
        fs::set_permissions(&self.socket, fs::Permissions::from_mode(0o600))
            .map_err(io("protect", &self.socket))?;
        // Nothing of the server's environment: a monitor lives longer than what it says, and runtimes would take
        // NOTIFY_SOCKET and LISTEN_FDS for their own.
        let child = Command::new(&self.binary)
            .arg(&self.pod_id)
            .stdin(OwnedFd::from(listener))
            .stdout(stdout)
            .stderr(stderr)
            .env_clear()
            .env(
                "PATH",
                env::var_os("PATH").unwrap_or_else(|| DEFAULT_PATH.into()),
            )
            .spawn();
        let mut child = child.map_err(|source| {
            // Nobody would ever answer there.
            let _ = fs::remove_file(&self.socket);
            RuntimeError::Spawn {
                program: self.binary.clone(),
                source,
            }
        })?;
        let pid = child.id().unwrap_or_default();
        // As long as the server lives it is the monitor's parent and has to reap it.
        let pod_id = self.pod_id.clone();
        tokio::spawn(async move {
            match child.wait().await {
                Ok(status) if status.success() => tracing::debug!(pod_id, "monitor ended"),
                Ok(status) => tracing::warn!(pod_id, %status, "monitor died"),
                Err(error) => tracing::warn!(pod_id, %error, "cannot await monitor"),
            }
        });
        Ok(pid)
    }
}
