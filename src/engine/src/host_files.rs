//! What a container's request names on the node: volumes, devices, a seccomp profile.

use std::path::PathBuf;

use spec::model::{ContainerConfig, Mount, SecurityProfile};

use crate::{error::EngineError, node::Node, teardown::joined};

impl Node {
    /// Volumes are the user's paths: a dead network mount below one must not hold a thread of the server for ever.
    ///
    /// Returns the mounts with links of their host paths followed, so that the runtime mounts what was looked at.
    pub(crate) async fn find_volumes(
        &self,
        config: &ContainerConfig,
    ) -> Result<Vec<Mount>, EngineError> {
        let mut mounts = config.mounts.clone();
        for (index, mount) in config.mounts.iter().enumerate() {
            if mount.image.is_some() {
                return Err(EngineError::invalid(
                    format!("config.mounts[{index}].image"),
                    "image volumes are not supported yet",
                ));
            }
            let path = PathBuf::from(&mount.host_path);
            let limit = self.config.timeouts.volume_check;
            let look = tokio::task::spawn_blocking({
                let path = path.clone();
                move || std::fs::canonicalize(path)
            });
            match tokio::time::timeout(limit, look).await {
                Ok(Ok(Ok(found))) => mounts[index].host_path = found.to_string_lossy().into_owned(),
                Ok(Ok(Err(source))) => {
                    return Err(EngineError::Io {
                        action: "find the volume",
                        path,
                        source,
                    });
                }
                Ok(Err(_panicked)) => {
                    return Err(EngineError::Interrupted {
                        operation: "a look at a volume",
                    });
                }
                Err(_elapsed) => {
                    return Err(EngineError::invalid(
                        format!("config.mounts[{index}].host_path"),
                        format!(
                            "{} did not answer within {limit:?}: is its file server down?",
                            path.display()
                        ),
                    ));
                }
            }
        }
        Ok(mounts)
    }

    /// The device nodes behind the devices asked for. A directory stands for all nodes below it.
    pub(crate) async fn host_devices(
        &self,
        config: &ContainerConfig,
    ) -> Result<Vec<spec::HostDevice>, EngineError> {
        if config.devices.is_empty() && !config.security.privileged {
            return Ok(Vec::new());
        }
        let (devices, privileged) = (config.devices.clone(), config.security.privileged);
        let found =
            tokio::task::spawn_blocking(move || crate::devices::resolve(&devices, privileged));
        joined(found.await)
    }
}

/// The file of a `Localhost` seccomp profile, if the container asks for one.
pub(crate) fn seccomp_file(config: &ContainerConfig) -> Result<Option<Vec<u8>>, EngineError> {
    let SecurityProfile::Localhost(path) = &config.security.seccomp else {
        return Ok(None);
    };
    if config.security.privileged {
        return Ok(None);
    }
    let path = PathBuf::from(path);
    let failed = |source| EngineError::Io {
        action: "read the seccomp profile",
        path: path.clone(),
        source,
    };
    let mut bytes = Vec::new();
    let file = std::fs::File::open(&path).map_err(failed)?;
    let limit = spec::seccomp::MAX_FILE_BYTES as u64 + 1;
    std::io::Read::read_to_end(&mut std::io::Read::take(file, limit), &mut bytes)
        .map_err(failed)?;
    Ok(Some(bytes))
}
