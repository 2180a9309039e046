//! Relabelling of volumes.
//!
//! The kubelet asks for it with the first container of a pod that uses a volume, and not with the others. So it is done for
//! privileged containers too, as the rest of the pod may need it; only where `spc_t` was asked for it is left out.

use std::{
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    time::Duration,
};

use spec::selinux::SelinuxContext;
use sys::{
    SysError,
    host_path::{Relabelled, Relabelling},
};

use crate::{
    error::EngineError, host_files::HostVolume, node::Node, stop::Stop, teardown::joined,
    world::Pod,
};

/// Directories of the node that no container is ever given for itself. With another label on them the node itself would not
/// work any more.
pub(crate) const FORBIDDEN: [&str; 31] = [
    "/",
    "/bin",
    "/boot",
    "/dev",
    "/etc",
    "/etc/passwd",
    "/etc/pki",
    "/etc/shadow",
    "/home",
    "/lib",
    "/lib64",
    "/media",
    "/mnt",
    "/opt",
    "/proc",
    "/root",
    "/run",
    "/sbin",
    "/srv",
    "/sys",
    "/tmp",
    "/usr",
    "/usr/bin",
    "/usr/lib",
    "/usr/lib64",
    "/usr/sbin",
    "/usr/share",
    "/var",
    "/var/lib",
    "/var/log",
    "/var/tmp",
];

/// Pods that carry one of these with `true` spare themselves the walk through a volume whose top has the label already. It is
/// the user's word that nothing below has another, and the user's own pod that suffers if it does.
const TRUST_TOP: [&str; 2] = [
    "io.kubernetes.cri-o.TrySkipVolumeSELinuxLabel",
    "try-skip-volume-selinux-label.crio.io",
];

impl Node {
    /// Relabels those of a container's volumes for which the request asks that.
    pub(crate) async fn relabel_volumes(
        &self,
        pod: &Pod,
        labels: &SelinuxContext,
        volumes: Vec<HostVolume>,
    ) -> Result<Vec<HostVolume>, EngineError> {
        let asked = |volume: &HostVolume| volume.mount.selinux_relabel && volume.held.is_some();
        if !labels.relabels() || !volumes.iter().any(asked) {
            return Ok(volumes);
        }
        let own = [self.config.run.clone(), self.store.root().to_owned()];
        let label = labels.mount();
        let trust_top = trusts_top(pod);
        let within = self.config.timeouts.relabel;
        let stop = Stop::new("CreateContainer");
        let _when_given_up = stop.on_drop();
        let work = tokio::task::spawn_blocking(move || {
            for (index, volume) in volumes.iter().enumerate() {
                let Some(held) = volume.held.as_ref().filter(|_| asked(volume)) else {
                    continue;
                };
                let path = Path::new(&volume.mount.host_path);
                if is_forbidden(path, &own) {
                    return Err(refused(index, path));
                }
                let order = Relabelling {
                    label: &label,
                    trust_top,
                    within,
                    stop: stop.flag(),
                };
                relabel(held, path, &order)?;
            }
            Ok(volumes)
        });
        joined(work.await)
    }
}

/// Labels a volume and all in it, in the words of this crate's errors.
pub(crate) fn relabel(
    held: &OwnedFd,
    path: &Path,
    order: &Relabelling<'_>,
) -> Result<(), EngineError> {
    match sys::host_path::relabel(held, path, order) {
        Ok(Relabelled::Wholly) => Ok(()),
        Ok(Relabelled::HasNone) => {
            tracing::debug!(path = %path.display(), "a volume's file system keeps no SELinux labels");
            Ok(())
        }
        Err(error) => Err(in_words(error, path, order.within)),
    }
}

fn in_words(error: SysError, volume: &Path, limit: Duration) -> EngineError {
    match error {
        SysError::Path { source, .. } if source.kind() == std::io::ErrorKind::TimedOut => {
            EngineError::RelabelDeadline {
                path: volume.to_owned(),
                limit,
            }
        }
        SysError::Path { path, source, .. } => EngineError::Io {
            action: "label for SELinux",
            path,
            source,
        },
        error => error.into(),
    }
}

fn trusts_top(pod: &Pod) -> bool {
    TRUST_TOP.iter().any(|name| {
        let value = pod.config.annotations.get(*name);
        value.is_some_and(|value| value == "true")
    })
}

/// Whether a path, free of symbolic links, must keep its label: it belongs to the node, or our own state lies below it.
fn is_forbidden(path: &Path, own: &[PathBuf]) -> bool {
    FORBIDDEN
        .iter()
        .any(|forbidden| path == Path::new(forbidden))
        || own.iter().any(|own| own.starts_with(path))
}

fn refused(index: usize, path: &Path) -> EngineError {
    EngineError::invalid(
        format!("config.mounts[{index}].selinux_relabel"),
        format!(
            "{} belongs to the node and keeps its label, as do the directories of Pintle and what lies above them, and {}; give \
             the container a directory below it",
            path.display(),
            FORBIDDEN.join(", ")
        ),
    )
}

#[cfg(test)]
mod test {
    use std::{collections::BTreeMap, sync::Arc};

    use rstest::rstest;
    use spec::model::PodConfig;

    use super::*;

    #[rstest]
    #[case("/", true)]
    #[case("/usr", true)]
    #[case("/etc", true)]
    #[case("/home", true)]
    #[case("/root", true)]
    #[case("/usr/lib", true)]
    #[case("/var/lib/pintle", true)]
    #[case("/run/pintle", true)]
    #[case("/data", true)]
    #[case("/data/pintle", true)]
    #[case("/data/pintle/x", false)]
    #[case("/home/me/volume", false)]
    #[case("/var/lib/kubelet/pods/x/volumes/y", false)]
    #[case("/srv/data", false)]
    #[case("/etc2", false)]
    fn the_nodes_own_directories_keep_their_labels(#[case] path: &str, #[case] forbidden: bool) {
        let own = ["/run/pintle", "/var/lib/pintle", "/data/pintle"].map(PathBuf::from);
        assert_eq!(is_forbidden(Path::new(path), &own), forbidden);
    }

    #[test]
    fn a_refusal_names_the_field_the_path_and_all_that_is_refused() {
        let text = refused(3, Path::new("/usr")).to_string();
        assert!(
            text.starts_with("config.mounts[3].selinux_relabel: /usr belongs to the node"),
            "{text}"
        );
        for forbidden in FORBIDDEN {
            assert!(text.contains(forbidden), "{forbidden}");
        }
    }

    #[rstest]
    #[case("io.kubernetes.cri-o.TrySkipVolumeSELinuxLabel", "true", true)]
    #[case("try-skip-volume-selinux-label.crio.io", "true", true)]
    #[case("io.kubernetes.cri-o.TrySkipVolumeSELinuxLabel", "false", false)]
    #[case("TrySkipVolumeSELinuxLabel", "true", false)]
    fn a_pod_may_ask_to_trust_tops(
        #[case] name: &str,
        #[case] value: &str,
        #[case] expected: bool,
    ) {
        let pod = Pod {
            config: Arc::new(PodConfig {
                annotations: BTreeMap::from([(name.to_owned(), value.to_owned())]),
                ..PodConfig::default()
            }),
            ..crate::samples::pod()
        };
        assert_eq!(trusts_top(&pod), expected);
    }

    #[test]
    fn a_deadline_names_the_volume_and_other_failures_the_file() {
        let error = |kind: std::io::ErrorKind| SysError::Path {
            doing: "label",
            path: "/v/file".into(),
            source: kind.into(),
        };
        let limit = Duration::from_secs(3);
        let late = in_words(error(std::io::ErrorKind::TimedOut), Path::new("/v"), limit);
        assert!(
            late.to_string()
                .contains("/v for SELinux took longer than 3s"),
            "{late}"
        );
        let other = in_words(
            error(std::io::ErrorKind::PermissionDenied),
            Path::new("/v"),
            limit,
        );
        assert_eq!(other.to_string(), "label for SELinux /v/file");
    }
}
