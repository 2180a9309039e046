//! What a container's request names on the node: volumes, devices, a seccomp profile.
//!
//! These are the user's paths: a dead file server behind one must hold up nothing but this request. `sys::host_path` sees to
//! that.

use std::{io, os::fd::OwnedFd, path::PathBuf, time::Duration};

use spec::model::{ContainerConfig, Mount, SecurityProfile};
use sys::SysError;

use crate::{error::EngineError, node::Node, teardown::joined};

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
        let look = tokio::task::spawn_blocking(move || {
            let find = |(index, mut mount): (usize, Mount)| {
                if mount.image.is_some() {
                    return Ok(HostVolume { mount, held: None });
                }
                let path = PathBuf::from(&mount.host_path);
                let found = sys::host_path::find(&path, within).map_err(|error| {
                    let field = format!("config.mounts[{index}].host_path");
                    in_time(error, "find the volume", path, field, within)
                })?;
                mount.host_path = found.path.to_string_lossy().into_owned();
                Ok(HostVolume {
                    mount,
                    held: Some(found.fd),
                })
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
