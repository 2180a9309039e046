//! Where pintle-monitor is.

use std::{
    env, fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

/// Its file name.
const NAME: &str = "pintle-monitor";

/// There is none.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoMonitor {
    /// The configured one cannot be run.
    #[error("`monitor.path`: {} is no program", path.display())]
    Configured {
        /// The configured path.
        path: PathBuf,
    },
    /// It is at none of the usual places.
    #[error(
        "pintle-monitor is neither beside this program ({}) nor in PATH nor in /usr/libexec/pintle: install it or set \
         `monitor.path`",
        beside.display()
    )]
    Nowhere {
        /// The directory of our own program.
        beside: PathBuf,
    },
}

/// The binary: as configured, else the first one that can be executed of the usual places.
pub(crate) fn find(configured: Option<&Path>) -> Result<PathBuf, NoMonitor> {
    if let Some(path) = configured {
        return if is_executable(path) {
            Ok(path.to_owned())
        } else {
            Err(NoMonitor::Configured {
                path: path.to_owned(),
            })
        };
    }
    let executable = env::current_exe().ok();
    let search = env::var_os("PATH").unwrap_or_default();
    candidates(executable.as_deref(), env::split_paths(&search))
        .into_iter()
        .find(|path| is_executable(path))
        .ok_or_else(|| NoMonitor::Nowhere {
            beside: executable
                .as_deref()
                .and_then(Path::parent)
                .unwrap_or(Path::new("/"))
                .to_owned(),
        })
}

/// The one beside our own program belongs to the same build, so it comes first.
fn candidates(executable: Option<&Path>, search: impl Iterator<Item = PathBuf>) -> Vec<PathBuf> {
    let mut candidates = Vec::new();
    if let Some(directory) = executable.and_then(Path::parent) {
        candidates.push(directory.join(NAME));
        if let Some(prefix) = directory.parent() {
            candidates.push(prefix.join("libexec/pintle").join(NAME));
        }
    }
    candidates.extend(
        search
            .filter(|path| path.is_absolute())
            .map(|path| path.join(NAME)),
    );
    candidates.push(Path::new("/usr/libexec/pintle").join(NAME));
    candidates.dedup();
    candidates
}

fn is_executable(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt, path::Path};

    use super::{candidates, find};

    #[test]
    fn our_own_builds_monitor_comes_first() {
        let search = ["/a", "relative", "/usr/bin"].map(Into::into).into_iter();
        let found = candidates(Some(Path::new("/opt/x/bin/pintle")), search);
        let expected = [
            "/opt/x/bin/pintle-monitor",
            "/opt/x/libexec/pintle/pintle-monitor",
            "/a/pintle-monitor",
            "/usr/bin/pintle-monitor",
            "/usr/libexec/pintle/pintle-monitor",
        ];
        assert_eq!(found, expected.map(Path::new));
    }

    #[test]
    fn a_configured_one_must_be_executable() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("monitor");
        fs::write(&path, "").unwrap();
        let error = find(Some(&path)).unwrap_err().to_string();
        let expected = format!("`monitor.path`: {} is no program", path.display());
        assert_eq!(error, expected);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(find(Some(&path)).unwrap(), path);
    }
}
