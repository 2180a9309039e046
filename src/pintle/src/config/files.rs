//! The files that the configuration is read from.

use std::{
    ffi::OsStr,
    fs, io,
    path::{Path, PathBuf},
};

use super::{
    error::{ConfigError, Problem},
    from_tree,
    keys::Config,
    node::Node,
};

/// Where to read.
#[derive(Clone, Debug)]
pub(crate) struct Sources {
    /// The main file.
    pub(crate) file: PathBuf,
    /// Whether a missing main file is an error: it is when the operator named it.
    pub(crate) file_required: bool,
    /// The directory of drop-ins, `*.yaml`; need not exist.
    pub(crate) drop_ins: PathBuf,
}

impl Sources {
    /// `/etc/pintle`, or the file that the operator names with drop-ins in `conf.d` beside it.
    pub(crate) fn new(named: Option<&Path>) -> Self {
        let file = named.map_or_else(|| PathBuf::from("/etc/pintle/config.yaml"), Path::to_owned);
        let drop_ins = file.parent().unwrap_or(Path::new("/")).join("conf.d");
        Self {
            file,
            file_required: named.is_some(),
            drop_ins,
        }
    }
}

/// Reads and merges the files. Drop-ins come after the main file, in the order of their names.
pub(crate) fn load(sources: &Sources) -> Result<Config, ConfigError> {
    let mut problems = Vec::new();
    let mut tree = match read(&sources.file) {
        Err(Problem::Read { source, .. })
            if source.kind() == io::ErrorKind::NotFound && !sources.file_required =>
        {
            Node::parse("", &sources.file)
        }
        other => other,
    };
    let drop_ins = drop_ins(&sources.drop_ins).unwrap_or_else(|problem| {
        problems.push(problem);
        Vec::new()
    });
    for file in drop_ins {
        match (read(&file), &mut tree) {
            (Ok(over), Ok(tree)) => tree.merge(over),
            (Ok(_), Err(_)) => {}
            (Err(problem), _) => problems.push(problem),
        }
    }
    match tree {
        Ok(tree) if problems.is_empty() => from_tree(&tree),
        Ok(_) => Err(ConfigError(problems)),
        Err(problem) => {
            problems.insert(0, problem);
            Err(ConfigError(problems))
        }
    }
}

fn read(path: &Path) -> Result<Node, Problem> {
    let text = fs::read_to_string(path).map_err(|source| Problem::Read {
        path: path.to_owned(),
        source,
    })?;
    Node::parse(&text, path)
}

fn drop_ins(directory: &Path) -> Result<Vec<PathBuf>, Problem> {
    let unreadable = |source| Problem::Read {
        path: directory.to_owned(),
        source,
    };
    let listing = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(unreadable)?,
    };
    let mut files = Vec::new();
    for entry in listing {
        let path = entry.map_err(unreadable)?.path();
        let hidden = path
            .file_name()
            .and_then(OsStr::to_str)
            .is_none_or(|name| name.starts_with('.'));
        if !hidden && path.extension() == Some(OsStr::new("yaml")) {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}
