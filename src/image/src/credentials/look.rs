//! What can be said of authentication files before a pull needs them: for `pintle check`.

use std::path::{Path, PathBuf};

use super::error::NodeCredentialsError;
use super::file::AuthFile;
use super::keyring::exposure_of;
use crate::config::NodeCredentialsConfig;

/// How many files of a folder are looked at.
const MAX_FILES: usize = 1000;

/// A file that is there.
#[derive(Clone, Debug)]
pub struct AuthFileState {
    /// The file.
    pub file: PathBuf,
    /// What is wrong with it.
    pub problem: Option<AuthFileProblem>,
}

/// What is wrong with an authentication file.
#[derive(Clone, Debug)]
pub enum AuthFileProblem {
    /// Pulls that need it fail.
    Unusable(NodeCredentialsError),
    /// Somebody beside root can come at it: `can be read by others than root`.
    Exposed(&'static str),
}

impl NodeCredentialsConfig {
    /// Reads all files that there are. Blocks, runs no helper, and keeps nothing.
    pub fn look(&self) -> Vec<AuthFileState> {
        let node = self.auth_file.iter().map(|file| (file.clone(), true));
        let namespaces = self
            .namespaced_auth_dir
            .iter()
            .flat_map(|dir| files_of(dir));
        node.chain(namespaces.map(|file| (file, false)))
            .filter_map(|(file, helpers)| {
                let problem = match AuthFile::read(&file, helpers) {
                    Ok(None) => return None,
                    Ok(Some((_, metadata))) => exposure_of(&metadata).map(AuthFileProblem::Exposed),
                    Err(error) => Some(AuthFileProblem::Unusable(error)),
                };
                Some(AuthFileState { file, problem })
            })
            .collect()
    }
}

/// The files of a folder that may be a namespace's, by name.
fn files_of(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut files: Vec<PathBuf> = entries
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|end| end == "json"))
        .take(MAX_FILES)
        .collect();
    files.sort();
    files
}

#[cfg(test)]
mod test {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn files_are_looked_at() {
        let dir = tempfile::tempdir().unwrap();
        let config = NodeCredentialsConfig {
            auth_file: Some(dir.path().join("node.json")),
            namespaced_auth_dir: Some(dir.path().join("ns")),
            helper_dirs: Vec::new(),
        };
        assert!(config.look().is_empty());
        std::fs::create_dir(dir.path().join("ns")).unwrap();
        for (name, text, mode) in [
            ("node.json", "{}", 0o600),
            ("ns/a.json", "{", 0o600),
            ("ns/b.json", "{}", 0o644),
            ("ns/c.txt", "{", 0o644),
        ] {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
        }
        let found: Vec<_> = config
            .look()
            .into_iter()
            .map(|state| {
                let problem = match state.problem {
                    None => "none".to_owned(),
                    Some(AuthFileProblem::Unusable(error)) => error.to_string(),
                    Some(AuthFileProblem::Exposed(problem)) => problem.to_owned(),
                };
                (
                    state.file.strip_prefix(dir.path()).unwrap().to_owned(),
                    problem,
                )
            })
            .collect();
        assert_eq!(found.len(), 3, "{found:?}");
        assert_eq!(found[0], ("node.json".into(), "none".to_owned()));
        assert!(found[1].1.contains("ends too early"), "{found:?}");
        assert!(found[2].1.contains("read by others"), "{found:?}");
    }
}
