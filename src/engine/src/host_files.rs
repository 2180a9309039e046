//! What a container's request names on the node: volumes, devices, a seccomp profile.
//!
//! These are the user's paths: a dead file server behind one must hold up nothing but this request. `sys::host_path` sees to
//! that.

use std::{
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use spec::model::{ContainerConfig, Mount, Propagation, SecurityProfile};
use sys::SysError;

use crate::{error::EngineError, node::Node, stop::Stop, teardown::joined};

/// A volume of the request.
#[derive(Debug)]
pub(crate) struct HostVolume {
    /// With links of its host path followed, so that the runtime mounts what was looked at. Without a host path yet if it
    /// is an image's.
    pub(crate) mount: Mount,
    /// The file or directory; `None` for an image's.
    pub(crate) held: Option<OwnedFd>,
}

/// What is left of the time that the look-ups of one request may take together: those of one dead server would each take as
/// long.
#[derive(Debug)]
pub(crate) struct Patience {
    /// In all, as the configuration says and errors repeat.
    within: Duration,
    left: Duration,
}

/// One part of the look-ups, in a thread that may block.
struct Waiting {
    deadline: Instant,
    within: Duration,
    stop: Stop,
}

impl Waiting {
    /// How much time there still is; an error once nobody waits for the answer.
    fn left(&self) -> Result<Duration, EngineError> {
        self.stop.go_on()?;
        Ok(self.deadline.saturating_duration_since(Instant::now()))
    }
}

impl Patience {
    pub(crate) fn new(within: Duration) -> Self {
        Self {
            within,
            left: within,
        }
    }

    /// Has something looked up in a thread that may block, and takes the time off what is left.
    async fn spend<T, F>(&mut self, look: F) -> Result<T, EngineError>
    where
        T: Send + 'static,
        F: FnOnce(&Waiting) -> Result<T, EngineError> + Send + 'static,
    {
        let (within, left) = (self.within, self.left);
        let stop = Stop::new("a look at the node's files");
        let _when_given_up = stop.on_drop();
        let looking = tokio::task::spawn_blocking(move || {
            let begin = Instant::now();
            let waiting = Waiting {
                deadline: begin + left,
                within,
                stop,
            };
            Ok((look(&waiting)?, begin.elapsed()))
        });
        let (found, spent) = joined(looking.await)?;
        self.left = left.saturating_sub(spent);
        Ok(found)
    }
}

impl Node {
    /// For the look-ups of one request.
    pub(crate) fn patience(&self) -> Patience {
        Patience::new(self.config.timeouts.volume_check)
    }

    /// Look the container's volumes up.
    pub(crate) async fn find_volumes(
        &self,
        config: &ContainerConfig,
        patience: &mut Patience,
    ) -> Result<Vec<HostVolume>, EngineError> {
        if config.mounts.is_empty() {
            return Ok(Vec::new());
        }
        let mounts = config.mounts.clone();
        let look = move |waiting: &Waiting| {
            let find = |(index, mount)| find_volume(index, mount, waiting);
            mounts.into_iter().enumerate().map(find).collect()
        };
        patience.spend(look).await
    }

    /// The device nodes behind the devices asked for. A directory stands for all nodes below it.
    pub(crate) async fn host_devices(
        &self,
        config: &ContainerConfig,
        patience: &mut Patience,
    ) -> Result<Vec<spec::HostDevice>, EngineError> {
        let every = config.security.privileged
            && !self.config.spec_defaults.privileged_without_host_devices;
        if config.devices.is_empty() && !every {
            return Ok(Vec::new());
        }
        let devices = config.devices.clone();
        let look = move |waiting: &Waiting| {
            for (index, device) in devices.iter().enumerate() {
                let path = PathBuf::from(&device.host_path);
                if let Err(error) = sys::host_path::find(&path, waiting.left()?) {
                    let field = format!("config.devices[{index}].host_path");
                    let within = waiting.within;
                    return Err(in_time(error, "look at the device", path, field, within));
                }
            }
            crate::devices::resolve(&devices, every)
        };
        patience.spend(look).await
    }

    /// The file of a `Localhost` seccomp profile, if that is what is asked for at `field`.
    pub(crate) async fn seccomp_file(
        &self,
        profile: &SecurityProfile,
        field: &'static str,
        patience: &mut Patience,
    ) -> Result<Option<Vec<u8>>, EngineError> {
        let SecurityProfile::Localhost(path) = profile else {
            return Ok(None);
        };
        let path = PathBuf::from(path);
        let look = move |waiting: &Waiting| {
            let most = spec::seccomp::MAX_FILE_BYTES;
            sys::host_path::read(&path, most, waiting.left()?).map_err(|error| {
                if error.io().map(io::Error::kind) == Some(io::ErrorKind::InvalidInput) {
                    let why = format!("{} is not a regular file", path.display());
                    return EngineError::invalid(field, why);
                }
                let action = "read the seccomp profile";
                in_time(error, action, path, field.to_owned(), waiting.within)
            })
        };
        patience.spend(look).await.map(Some)
    }
}

/// Looks one volume up, within what is left of the time for all.
fn find_volume(
    index: usize,
    mut mount: Mount,
    waiting: &Waiting,
) -> Result<HostVolume, EngineError> {
    let left = waiting.left()?;
    if mount.image.is_some() {
        return Ok(HostVolume { mount, held: None });
    }
    let path = PathBuf::from(&mount.host_path);
    let field = |name: &str| format!("config.mounts[{index}].{name}");
    let found = sys::host_path::find(&path, left).map_err(|error| {
        let field = field("host_path");
        in_time(error, "find the volume", path, field, waiting.within)
    })?;
    let Some(host_path) = found.path.to_str() else {
        let why = format!("leads to {}, which is not UTF-8", found.path.display());
        return Err(EngineError::invalid(field("host_path"), why));
    };
    if mount.propagation != Propagation::Private {
        let holder = sys::mount::holder(&found.fd)?;
        check_propagation(
            mount.propagation,
            holder.propagation,
            host_path,
            &holder.target,
        )
        .map_err(|why| EngineError::invalid(field("propagation"), why))?;
    }
    host_path.clone_into(&mut mount.host_path);
    Ok(HostVolume {
        mount,
        held: Some(found.fd),
    })
}

/// Whether mounts spread at a volume as the container is promised: a container that waits for what never comes says less.
fn check_propagation(
    asked: Propagation,
    found: sys::mount::Propagation,
    path: &str,
    holder: &Path,
) -> Result<(), String> {
    let (can, needed) = match asked {
        Propagation::Private => return Ok(()),
        Propagation::HostToContainer => (found.shared || found.slave, "shared or slave"),
        Propagation::Bidirectional => (found.shared, "shared"),
    };
    if can {
        return Ok(());
    }
    let holder = holder.display();
    Err(format!(
        "{path} is on the mount {holder}, which is not {needed}, so nothing would spread: run `mount --make-rshared {holder}` on \
         the node, or ask for no propagation"
    ))
}

/// The error about a path that did not answer names the field; others name the path.
fn in_time(
    error: SysError,
    action: &'static str,
    path: PathBuf,
    field: String,
    within: Duration,
) -> EngineError {
    match error {
        SysError::Path { source, .. } if source.kind() == io::ErrorKind::TimedOut => {
            EngineError::invalid(
                field,
                format!(
                    "{} did not answer within {within:?}: is its file server down?",
                    path.display()
                ),
            )
        }
        SysError::Path { source, .. } => EngineError::Io {
            action,
            path,
            source,
        },
        error => error.into(),
    }
}

#[cfg(test)]
mod test {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(Propagation::Private, false, false, true)]
    #[case(Propagation::HostToContainer, false, false, false)]
    #[case(Propagation::HostToContainer, false, true, true)]
    #[case(Propagation::HostToContainer, true, false, true)]
    #[case(Propagation::Bidirectional, false, true, false)]
    #[case(Propagation::Bidirectional, true, false, true)]
    fn mounts_spread_only_where_the_node_lets_them(
        #[case] asked: Propagation,
        #[case] shared: bool,
        #[case] slave: bool,
        #[case] can: bool,
    ) {
        let found = sys::mount::Propagation { shared, slave };
        let checked = check_propagation(asked, found, "/srv/data", Path::new("/srv"));
        assert_eq!(checked.is_ok(), can, "{checked:?}");
        if !can {
            let words = checked.unwrap_err();
            assert!(words.contains("`mount --make-rshared /srv`"), "{words}");
        }
    }

    #[tokio::test]
    async fn the_look_ups_of_one_request_share_its_time() {
        const TOOK: Duration = Duration::from_millis(3);
        let within = Duration::from_mins(1);
        let mut patience = Patience::new(within);
        let look = |waiting: &Waiting| {
            let begin = Instant::now();
            let left = waiting.left()?;
            while begin.elapsed() < TOOK {
                std::thread::yield_now();
            }
            Ok(left)
        };
        patience.spend(look).await.unwrap();
        let second = patience.spend(look).await.unwrap();
        assert!(second + TOOK <= within, "{second:?}");
        assert!(patience.left + 2 * TOOK <= within, "{patience:?}");

        // None left: no look-up waits at all, and what is told is the whole time.
        patience.left = Duration::ZERO;
        let told = |waiting: &Waiting| Ok((waiting.left()?, waiting.within));
        let told = patience.spend(told).await.unwrap();
        assert_eq!(told, (Duration::ZERO, within));
    }

    #[tokio::test]
    async fn a_look_up_ends_when_nobody_waits_for_it() {
        let (began, has_begun) = tokio::sync::oneshot::channel();
        let (ended, has_ended) = tokio::sync::oneshot::channel();
        let waiter = tokio::spawn(async move {
            let look = move |waiting: &Waiting| -> Result<(), EngineError> {
                began.send(()).unwrap();
                loop {
                    if let Err(error) = waiting.left() {
                        ended.send(error.to_string()).unwrap();
                        return Err(error);
                    }
                    std::thread::yield_now();
                }
            };
            Patience::new(Duration::from_mins(1)).spend(look).await
        });
        has_begun.await.unwrap();
        waiter.abort();
        let words = has_ended.await.unwrap();
        assert!(words.contains("interrupted"), "{words}");
    }
}
