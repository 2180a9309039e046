//! What a container's request names on the node: volumes, devices, a seccomp profile.
//!
//! These are the user's paths: a dead file server behind one must hold up nothing but this request. `sys::host_path` sees to
//! that.

use std::{
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use spec::model::{ContainerConfig, Mount, Propagation, SecurityProfile};
use sys::SysError;

use crate::{
    error::EngineError,
    node::Node,
    teardown::{StopOnDrop, joined},
};

/// A volume of the request.
#[derive(Debug)]
pub(crate) struct HostVolume {
    /// With links of its host path followed, so that the runtime mounts what was looked at. Without a host path yet if it
    /// is an image's.
    pub(crate) mount: Mount,
    /// The file or directory; `None` for an image's.
    pub(crate) held: Option<OwnedFd>,
}

impl Node {
    /// Look the container's volumes up.
    pub(crate) async fn find_volumes(
        &self,
        config: &ContainerConfig,
    ) -> Result<Vec<HostVolume>, EngineError> {
        if config.mounts.is_empty() {
            return Ok(Vec::new());
        }
        let (mounts, within) = (config.mounts.clone(), self.config.timeouts.volume_check);
        let stop = Arc::new(AtomicBool::new(false));
        let _when_given_up = StopOnDrop(Arc::clone(&stop));
        let look = tokio::task::spawn_blocking(move || {
            // For all of them together: those of one dead server would each take as long.
            let deadline = Instant::now() + within;
            let find = |(index, mount): (usize, Mount)| {
                if stop.load(Ordering::Relaxed) {
                    return Err(EngineError::Interrupted {
                        operation: "CreateContainer",
                    });
                }
                let left = deadline.saturating_duration_since(Instant::now());
                find_volume(index, mount, left, within)
            };
            mounts.into_iter().enumerate().map(find).collect()
        });
        joined(look.await)
    }

    /// The device nodes behind the devices asked for. A directory stands for all nodes below it.
    pub(crate) async fn host_devices(
        &self,
        config: &ContainerConfig,
    ) -> Result<Vec<spec::HostDevice>, EngineError> {
        let every = config.security.privileged
            && !self.config.spec_defaults.privileged_without_host_devices;
        if config.devices.is_empty() && !every {
            return Ok(Vec::new());
        }
        let devices = config.devices.clone();
        let within = self.config.timeouts.volume_check;
        let found = tokio::task::spawn_blocking(move || {
            for (index, device) in devices.iter().enumerate() {
                let path = PathBuf::from(&device.host_path);
                if let Err(error) = sys::host_path::find(&path, within) {
                    let field = format!("config.devices[{index}].host_path");
                    return Err(in_time(error, "look at the device", path, field, within));
                }
            }
            crate::devices::resolve(&devices, every)
        });
        joined(found.await)
    }

    /// The file of a `Localhost` seccomp profile, if that is what is asked for at `field`.
    pub(crate) async fn seccomp_file(
        &self,
        profile: &SecurityProfile,
        field: &'static str,
    ) -> Result<Option<Vec<u8>>, EngineError> {
        let SecurityProfile::Localhost(path) = profile else {
            return Ok(None);
        };
        let path = PathBuf::from(path);
        let within = self.config.timeouts.volume_check;
        let read = tokio::task::spawn_blocking(move || {
            sys::host_path::read(&path, spec::seccomp::MAX_FILE_BYTES, within).map_err(|error| {
                if error.io().map(io::Error::kind) == Some(io::ErrorKind::InvalidInput) {
                    let why = format!("{} is not a regular file", path.display());
                    return EngineError::invalid(field, why);
                }
                in_time(
                    error,
                    "read the seccomp profile",
                    path,
                    field.to_owned(),
                    within,
                )
            })
        });
        joined(read.await).map(Some)
    }
}

/// Looks one volume up, within what is left of the time for all.
fn find_volume(
    index: usize,
    mut mount: Mount,
    left: Duration,
    within: Duration,
) -> Result<HostVolume, EngineError> {
    if mount.image.is_some() {
        return Ok(HostVolume { mount, held: None });
    }
    let path = PathBuf::from(&mount.host_path);
    let field = |name: &str| format!("config.mounts[{index}].{name}");
    let found = sys::host_path::find(&path, left).map_err(|error| {
        let field = field("host_path");
        in_time(error, "find the volume", path, field, within)
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
}
