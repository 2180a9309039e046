//! The files that name registries, as they are on the disk: thin I/O around the parsers, bounded, and nothing kept open.
//!
//! A file that is absent says nothing; one that is there and cannot be read is an error.

use std::fs;
use std::io::{self, ErrorKind, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::SourcesError;
use super::hosts_toml::{HostsFile, folders};
use super::plan::{Folder, Identity, Tls};
use super::registries_conf::RegistriesConf;

/// The longest file that is read. Lists of aliases have a few dozen KiB.
const MAX_FILE_BYTES: u64 = 1 << 20;
/// The most files of one folder that are looked at.
const MAX_FILES: usize = 1024;
/// The folder of `certs.d` that speaks of all hosts without one of their own.
const DEFAULT_FOLDER: &str = "_default";
const HOSTS_FILE: &str = "hosts.toml";

/// What tells that a file is another than before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    inode: u64,
    bytes: u64,
    /// Seconds and nanoseconds.
    modified: (i64, i64),
}

impl Stamp {
    /// `None` if there is no such file.
    pub(crate) fn of(path: &Path) -> Option<Self> {
        let metadata = fs::metadata(path).ok()?;
        Some(Self {
            inode: metadata.ino(),
            bytes: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
        })
    }
}

/// A warning, and the file that it is about.
#[derive(Clone, Debug)]
pub(super) struct Warning {
    pub(super) file: PathBuf,
    pub(super) words: String,
}

/// `registries.conf` with its folder, as they were when they were read.
#[derive(Debug)]
pub(super) struct Registries {
    pub(super) conf: RegistriesConf,
    pub(super) warnings: Vec<Warning>,
    stamps: Vec<(PathBuf, Option<Stamp>)>,
}

impl Registries {
    /// Reads the file, and those of the folder beside it whose names end in `.conf`, in the order of their names.
    pub(super) fn read(path: &Path) -> Result<Self, SourcesError> {
        let folder = folder_of(path);
        // Before reading: a change in between is seen the next time.
        let mut stamps = vec![
            (path.to_owned(), Stamp::of(path)),
            (folder.clone(), Stamp::of(&folder)),
        ];
        let mut conf = RegistriesConf::default();
        let mut warnings = Vec::new();
        let drop_ins = list(&folder, &["conf"])?;
        stamps.extend(drop_ins.iter().map(|file| (file.clone(), Stamp::of(file))));
        for file in [path.to_owned()].into_iter().chain(drop_ins) {
            let Some(text) = read(&file)? else {
                continue;
            };
            let (later, words) = RegistriesConf::parse(&file, &text)?;
            conf.overlay(later);
            warnings.extend(words.into_iter().map(|words| Warning {
                file: file.clone(),
                words,
            }));
        }
        Ok(Self {
            conf,
            warnings,
            stamps,
        })
    }

    /// Whether nothing has changed since.
    pub(super) fn is_current(&self, path: &Path) -> bool {
        self.stamps.first().is_some_and(|(first, _)| first == path)
            && self
                .stamps
                .iter()
                .all(|(file, stamp)| Stamp::of(file) == *stamp)
    }
}

fn folder_of(path: &Path) -> PathBuf {
    let mut folder = path.as_os_str().to_owned();
    folder.push(".d");
    folder.into()
}

/// What the folders of a host say: the first `hosts.toml`, and the certificates of the first folder that has some and no
/// `hosts.toml`.
pub(super) fn folder(
    roots: &[PathBuf],
    host: &str,
    warnings: &mut Vec<Warning>,
) -> Result<Folder, SourcesError> {
    let mut found = Folder::default();
    for folder in roots.iter().flat_map(|root| folders(root, host)) {
        let file = folder.join(HOSTS_FILE);
        if let Some(text) = read(&file)? {
            if found.hosts.is_none() {
                found.hosts = Some(hosts(&file, &text, warnings)?);
            }
        } else if found.tls == Tls::default() {
            found.tls = certificates(&folder)?;
        }
    }
    Ok(found)
}

/// The first `hosts.toml` of a folder `_default`.
pub(super) fn default_hosts(
    roots: &[PathBuf],
    warnings: &mut Vec<Warning>,
) -> Result<Option<HostsFile>, SourcesError> {
    for root in roots {
        let file = root.join(DEFAULT_FOLDER).join(HOSTS_FILE);
        if let Some(text) = read(&file)? {
            return hosts(&file, &text, warnings).map(Some);
        }
    }
    Ok(None)
}

fn hosts(file: &Path, text: &str, warnings: &mut Vec<Warning>) -> Result<HostsFile, SourcesError> {
    let (hosts, words) = HostsFile::parse(file, text)?;
    warnings.extend(words.into_iter().map(|words| Warning {
        file: file.to_owned(),
        words,
    }));
    Ok(hosts)
}

/// `*.crt` are authorities; each `*.cert` is shown to the host, and has its key in the `*.key` of the same name.
fn certificates(folder: &Path) -> Result<Tls, SourcesError> {
    let mut tls = Tls::default();
    let files = list(folder, &["crt", "cert", "key"])?;
    let wrong = |file: &Path, reason: String| SourcesError::Wrong {
        place: file.display().to_string(),
        reason,
    };
    for file in &files {
        match file.extension().and_then(|extension| extension.to_str()) {
            Some("crt") => tls.authorities.push(file.clone()),
            Some("cert") => {
                let key = file.with_extension("key");
                if !files.contains(&key) {
                    return Err(wrong(
                        file,
                        format!("its key {} is not there", key.display()),
                    ));
                }
                tls.identities.push(Identity {
                    certificate: file.clone(),
                    key: Some(key),
                });
            }
            _ => {
                let certificate = file.with_extension("cert");
                if !files.contains(&certificate) {
                    return Err(wrong(
                        file,
                        format!("its certificate {} is not there", certificate.display()),
                    ));
                }
            }
        }
    }
    Ok(tls)
}

/// The files of a folder whose names end so, in their order. A folder that is not there has none.
fn list(folder: &Path, extensions: &[&str]) -> Result<Vec<PathBuf>, SourcesError> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if is_absent(&error) => return Ok(Vec::new()),
        Err(error) => return Err(unreadable(folder, error)),
    };
    let mut files = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|error| unreadable(folder, error))?;
        let path = entry.path();
        let extension = path.extension().and_then(|extension| extension.to_str());
        if extension.is_some_and(|extension| extensions.contains(&extension)) {
            files.push(path);
        }
        if files.len() > MAX_FILES {
            return Err(SourcesError::Wrong {
                place: folder.display().to_string(),
                reason: format!("it holds more than {MAX_FILES} files"),
            });
        }
    }
    files.sort();
    Ok(files)
}

/// A file's text; `None` if there is no such file.
fn read(path: &Path) -> Result<Option<String>, SourcesError> {
    let wrong = |reason: String| SourcesError::Wrong {
        place: path.display().to_string(),
        reason,
    };
    match fs::metadata(path) {
        // Opening a pipe would wait for its writer.
        Ok(metadata) if !metadata.is_file() => return Err(wrong("it is not a file".to_owned())),
        Ok(_) => {}
        Err(error) if is_absent(&error) => return Ok(None),
        Err(error) => return Err(unreadable(path, error)),
    }
    let mut bytes = Vec::new();
    fs::File::open(path)
        .and_then(|file| file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes))
        .map_err(|error| unreadable(path, error))?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(wrong(format!(
            "it is larger than the {MAX_FILE_BYTES} bytes that are read"
        )));
    }
    String::from_utf8(bytes)
        .map(Some)
        .map_err(|_| wrong("it is not UTF-8 text".to_owned()))
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

fn unreadable(path: &Path, source: io::Error) -> SourcesError {
    SourcesError::Unreadable {
        path: path.to_owned(),
        source: Arc::new(source),
    }
}

#[cfg(test)]
mod test {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;

    #[test]
    fn files_of_the_folder_lie_over_the_main_one_in_the_order_of_their_names() {
        let dir = tempfile::tempdir().unwrap();
        let main = dir.path().join("registries.conf");
        let drop_ins = dir.path().join("registries.conf.d");
        fs::create_dir(&drop_ins).unwrap();
        fs::write(&main, "unqualified-search-registries = ['a.example']\n[aliases]\nx = 'a.example/x'\ny = 'a.example/y'\n").unwrap();
        fs::write(
            drop_ins.join("2.conf"),
            "[aliases]\nx = 'c.example/x'\ny = ''\n",
        )
        .unwrap();
        fs::write(
            drop_ins.join("1.conf"),
            "unqualified-search-registries = ['b.example']\n[aliases]\nx = 'b.example/x'\n",
        )
        .unwrap();
        fs::write(drop_ins.join("3.conf.bak"), "not toml").unwrap();
        let read = Registries::read(&main).unwrap();
        assert_eq!(read.conf.search.as_ref().unwrap().value, ["b.example"]);
        assert_eq!(
            read.conf.aliases["x"].as_ref().unwrap().value,
            "c.example/x"
        );
        assert_eq!(read.conf.aliases["y"], None);
        assert!(read.is_current(&main));
        assert!(!read.is_current(Path::new("/other")));
        fs::write(drop_ins.join("4.conf"), "").unwrap();
        assert!(!read.is_current(&main));
    }

    #[test]
    fn absent_files_say_nothing_and_strange_ones_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("registries.conf");
        assert_eq!(
            Registries::read(&path).unwrap().conf,
            RegistriesConf::default()
        );
        fs::create_dir(&path).unwrap();
        let error = Registries::read(&path).unwrap_err().to_string();
        assert!(
            error.contains("registries.conf: it is not a file"),
            "{error}"
        );
        fs::remove_dir(&path).unwrap();
        fs::write(&path, vec![b'#'; 1 << 20 | 1]).unwrap();
        assert!(
            Registries::read(&path)
                .unwrap_err()
                .to_string()
                .contains("larger")
        );
    }

    #[test]
    fn certificates_come_in_pairs() {
        let dir = tempfile::tempdir().unwrap();
        let roots = [dir.path().to_owned()];
        let host = dir.path().join("r.example_5000_");
        fs::create_dir(&host).unwrap();
        for name in ["ca.crt", "client.cert", "client.key", "readme"] {
            fs::write(host.join(name), "").unwrap();
        }
        let found = folder(&roots, "r.example:5000", &mut Vec::new()).unwrap();
        assert_eq!(found.tls.authorities, [host.join("ca.crt")]);
        assert_eq!(
            found.tls.identities,
            [Identity {
                certificate: host.join("client.cert"),
                key: Some(host.join("client.key")),
            }]
        );
        fs::remove_file(host.join("client.key")).unwrap();
        let error = folder(&roots, "r.example:5000", &mut Vec::new()).unwrap_err();
        assert!(
            error.to_string().contains("client.key is not there"),
            "{error}"
        );
        // Another port has nothing to do with it.
        let other = folder(&roots, "r.example:5001", &mut Vec::new()).unwrap();
        assert_eq!(other, Folder::default());
    }
}
