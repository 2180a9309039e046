//! A runtime handler as configured.

use std::{
    env,
    ffi::{OsStr, OsString},
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use crate::{RuntimeError, quirks};

/// Searched after `PATH`: daemons are often started with a poor one.
const DIRECTORIES: [&str; 6] = [
    "/usr/local/sbin",
    "/usr/local/bin",
    "/usr/sbin",
    "/usr/bin",
    "/sbin",
    "/bin",
];

/// One entry of the configuration's handlers: a name that pods ask for, and the runtime behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HandlerConfig {
    /// The handler's name (`RuntimeClass.handler`); also the program looked for when `path` is absent and the kind is automatic.
    pub name: String,
    /// The binary: an absolute path, or a bare name to be searched for. `None` searches for the kind's own name.
    pub path: Option<PathBuf>,
    /// Which runtime it is; [`RuntimeKind::Auto`] finds out.
    pub kind: RuntimeKind,
    /// The runtime's state directory (`--root`).
    pub root: PathBuf,
    /// More global arguments, before the subcommand.
    pub args: Vec<String>,
    /// Cgroups by systemd instead of by cgroupfs.
    pub systemd_cgroup: bool,
}

/// The runtimes whose differences are known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RuntimeKind {
    /// To be found out from the binary's name, else from what it says of its version.
    #[default]
    Auto,
    /// crun.
    Crun,
    /// runc.
    Runc,
    /// youki.
    Youki,
    /// gVisor's runsc.
    Runsc,
    /// Kata Containers' runtime.
    Kata,
    /// A runtime that behaves as runc does, as far as we know.
    Other,
}

/// The binary of a handler. Names are tried in turn: the configured one; else the kind's; else the handler's own, and
/// if it is none, the default runtimes in their order.
pub(crate) fn find(config: &HandlerConfig) -> Result<PathBuf, RuntimeError> {
    let names: Vec<OsString> = match (&config.path, config.kind) {
        (Some(path), _) => vec![path.clone().into_os_string()],
        (None, RuntimeKind::Auto | RuntimeKind::Other) => {
            let defaults = quirks::TABLE
                .iter()
                .filter(|quirks| quirks.by_default)
                .map(|quirks| quirks.name.into());
            std::iter::once(OsString::from(&config.name))
                .chain(defaults)
                .filter(|name| !name.is_empty())
                .collect()
        }
        (None, kind) => vec![quirks::of(kind).name.into()],
    };
    let search = search_path(env::var_os("PATH").as_deref());
    names
        .iter()
        .find_map(|name| look(name, &search))
        .ok_or_else(|| RuntimeError::Missing {
            handler: config.name.clone(),
            program: names
                .first()
                .map(|name| name.to_string_lossy().into_owned())
                .unwrap_or_default(),
            searched: search
                .iter()
                .map(|directory| directory.display().to_string())
                .collect::<Vec<_>>()
                .join(":"),
        })
}

fn search_path(path: Option<&OsStr>) -> Vec<PathBuf> {
    let mut search: Vec<PathBuf> = Vec::new();
    let configured = path
        .map(|path| env::split_paths(path).collect::<Vec<_>>())
        .unwrap_or_default();
    for directory in configured.into_iter().chain(DIRECTORIES.map(PathBuf::from)) {
        if directory.is_absolute() && !search.contains(&directory) {
            search.push(directory);
        }
    }
    search
}

/// An absolute path is taken as it is, a bare name is searched for.
fn look(name: &OsStr, search: &[PathBuf]) -> Option<PathBuf> {
    let path = Path::new(name);
    if path.is_absolute() {
        return is_executable(path).then(|| path.to_owned());
    }
    // A relative path would mean whatever directory the server happens to be in.
    if path.components().count() != 1 {
        return None;
    }
    search
        .iter()
        .map(|directory| directory.join(path))
        .find(|candidate| is_executable(candidate))
}

fn is_executable(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use std::{ffi::OsStr, fs, os::unix::fs::PermissionsExt as _, path::Path};

    use super::{HandlerConfig, RuntimeKind, find, look, search_path};

    #[test]
    fn only_executables_are_found() {
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("crun");
        let search = [directory.path().to_owned()];
        assert_eq!(look(OsStr::new("crun"), &search), None);
        fs::write(&program, "").unwrap();
        assert_eq!(look(OsStr::new("crun"), &search), None);
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(look(OsStr::new("crun"), &search), Some(program.clone()));
        assert_eq!(look(program.as_os_str(), &[]), Some(program));
        assert_eq!(look(OsStr::new("./crun"), &search), None);
        assert_eq!(look(OsStr::new("../crun"), &search), None);
    }

    #[test]
    fn the_search_path_ends_with_the_usual_directories() {
        let search = search_path(Some(OsStr::new("/opt/bin:/usr/bin:relative")));
        assert_eq!(search.first().unwrap(), Path::new("/opt/bin"));
        assert_eq!(
            search
                .iter()
                .filter(|path| path.as_path() == Path::new("/usr/bin"))
                .count(),
            1
        );
        assert!(search.contains(&"/usr/sbin".into()));
        assert!(!search.contains(&"relative".into()));
    }

    #[test]
    fn a_missing_runtime_is_named() {
        let error = find(&HandlerConfig {
            name: "fast".into(),
            path: Some("/no/such/runtime".into()),
            kind: RuntimeKind::Auto,
            root: "/r".into(),
            args: Vec::new(),
            systemd_cgroup: false,
        })
        .unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("runtime handler \"fast\": no \"/no/such/runtime\" in /"),
            "{error}"
        );
    }
}
