//! Whether a layer on the disk is still what was pulled.
//!
//! Its tar is written again by its recipe: the digest tells whether the contents of all files are right. The same bytes are
//! unpacked once more beside the layer, by the code that unpacked it at first, but with files that are nothing but holes:
//! that costs inodes only, and gives a model of all the rest. Names, kinds, owners, permissions, times, links and
//! attributes of the layer are compared with it.

use std::{
    collections::HashMap,
    ffi::{CStr, CString},
    fs::File,
    io::{self, BufReader, Write},
    os::fd::{AsRawFd, OwnedFd},
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use rustix::{
    fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat},
    io::Errno,
};
use state::{DiffId, LayerRow};

use crate::{
    LayerStore, StorageError, UnpackLimits, adopt, blob, export,
    foreign::Place,
    layers::{TempDir, make_dir, open_dir},
    recipe::{self, Recipe},
    tree,
    unpack::{self, Contents},
};

/// How many findings are told of one layer.
const MAX_FINDINGS: usize = 20;

/// The digest of a layer's tar as it was written again.
type Written = Result<DiffId, StorageError>;

/// The directories that the tar implies, once the model is made.
type Modelled = Result<Vec<Vec<u8>>, StorageError>;

/// Name and value of an extended attribute.
type Attribute = (Vec<u8>, Vec<u8>);

/// What travels from the writer of the tar to its reader at a time.
const BUFFER_BYTES: usize = 256 << 10;

/// Longest list of attributes' names, and longest value, that the kernel has.
const XATTR_BYTES: usize = 64 << 10;

impl LayerStore {
    /// Compares a layer with what was pulled. Tells what is wrong with it, nothing if it is whole. Blocks for as long as it
    /// takes to read the layer, on threads that give way to everything else; ends early, with an error, when `stop` is set.
    ///
    /// # Errors
    /// What keeps the comparison from being made, such as a full disk. A layer that cannot be read is a damaged one.
    pub fn verify(&self, row: &LayerRow, stop: &AtomicBool) -> Result<Vec<String>, StorageError> {
        let place = self.inner().locate(&row.chain)?;
        thread::scope(|scope| {
            let work = thread::Builder::new()
                .name("verify".to_owned())
                .spawn_scoped(scope, || {
                    sys::background::give_way();
                    self.compare(row, &place, stop)
                })
                .map_err(StorageError::Thread)?;
            work.join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    fn compare(
        &self,
        row: &LayerRow,
        place: &Place,
        stop: &AtomicBool,
    ) -> Result<Vec<String>, StorageError> {
        let temp = self.inner().temp_dir("verify");
        let model = temp.layer();
        make_dir(&model)?;
        let (written, modelled) = write_and_model(row, place, stop, &temp)?;
        if stop.load(Ordering::Relaxed) {
            return Err(stopped(row));
        }
        let mut findings = Findings::default();
        match written {
            Ok(diff) if diff == row.diff => {}
            Ok(diff) => findings.add(|| {
                format!(
                    "contents of files are not those of the image: together they have the diff id {diff} instead of {}",
                    row.diff
                )
            }),
            // The reading side did not want any more: its own error says why.
            Err(StorageError::Export { .. }) => {}
            Err(error) => findings.add(|| in_full(&error)),
        }
        let implied = match modelled {
            Ok(implied) => implied,
            // Without the whole tar there is no model; what is wrong with the tar has been told.
            Err(_) if !findings.list.is_empty() => return Ok(findings.told()),
            Err(error) if error.is_bad_layer() => return Ok(vec![in_full(&error)]),
            Err(error) => return Err(error),
        };
        let parents = if implied.is_empty() {
            Vec::new()
        } else {
            match self.inner().dirs_down_from(row.parent.as_ref()) {
                Ok(parents) => parents,
                // Of a store that is away for the time being.
                Err(error @ StorageError::NoSuchLayer { .. }) => {
                    findings.add(|| format!("what it has of the layers below: {error}"));
                    return Ok(findings.told());
                }
                Err(error) => return Err(error),
            }
        };
        adopt::adopt(&model, &implied, &parents)?;
        let failed = |errno: Errno| StorageError::io("compare", &model)(errno);
        let mut comparison = Comparison {
            implied: &implied,
            findings,
            same: HashMap::new(),
            stop,
        };
        let model_fd = open_dir(&model)?;
        match open_dir(&place.layer) {
            Ok(layer) => comparison
                .directory(&model_fd, &layer, b"")
                .map_err(failed)?,
            Err(error) => comparison.findings.add(|| in_full(&error)),
        }
        if stop.load(Ordering::Relaxed) {
            return Err(stopped(row));
        }
        Ok(comparison.findings.told())
    }
}

/// Writes the layer's tar again, and makes the model of it meanwhile. The second result are directories that the tar
/// implies.
fn write_and_model(
    row: &LayerRow,
    place: &Place,
    stop: &AtomicBool,
    temp: &TempDir,
) -> Result<(Written, Modelled), StorageError> {
    let kept = temp.path().join("kept");
    make_dir(&kept)?;
    let (root, kept) = (open_dir(&temp.layer())?, open_dir(&kept)?);
    let null = Path::new("/dev/null");
    let unread = File::options().write(true).open(null);
    let unread = unread.map_err(StorageError::io("open", null))?;
    let (reader, writer) = io::pipe().map_err(StorageError::io("make a pipe for", temp.path()))?;
    // It was within the limits when it came, whatever these are by now.
    let limits = UnpackLimits {
        bytes: u64::MAX,
        entries: u64::MAX,
        ..UnpackLimits::default()
    };
    thread::scope(|scope| {
        let writing = thread::Builder::new()
            .name("verify-tar".to_owned())
            .spawn_scoped(scope, move || {
                export::export(
                    &row.chain,
                    &place.layer,
                    &place.recipe,
                    Stoppable { writer, stop },
                )
            })
            .map_err(StorageError::Thread)?;
        let input = BufReader::with_capacity(BUFFER_BYTES, reader);
        let hollow = Contents::Hollow;
        let made = match blob_path(place) {
            Some(path) => blob::store(input, &path, root, kept, unread, hollow, &limits),
            None => unpack::unpack(input, root, kept, unread, hollow, &limits),
        };
        let written = writing
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        Ok((written, made.map(|filled| filled.implied)))
    })
}

/// Where a layer's file is, if the layer is a blob. A recipe that cannot be read is none: writing the tar says so.
fn blob_path(place: &Place) -> Option<Vec<u8>> {
    let recipe = File::open(recipe::file_in(&place.recipe)).ok()?;
    Recipe::new(recipe).and_then(Recipe::blob).ok().flatten()
}

fn stopped(row: &LayerRow) -> StorageError {
    StorageError::Export {
        chain: row.chain.clone(),
        source: io::ErrorKind::Interrupted.into(),
    }
}

fn in_full(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

struct Stoppable<'a, W> {
    writer: W,
    stop: &'a AtomicBool,
}

impl<W: Write> Write for Stoppable<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.stop.load(Ordering::Relaxed) {
            // Not `Interrupted`: that would be tried again.
            return Err(io::Error::other("given up"));
        }
        self.writer.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

/// What is wrong, as far as anyone wants to read it.
#[derive(Default)]
struct Findings {
    list: Vec<String>,
    more: u64,
}

impl Findings {
    fn add(&mut self, words: impl FnOnce() -> String) {
        if self.list.len() < MAX_FINDINGS {
            self.list.push(words());
        } else {
            self.more += 1;
        }
    }

    fn told(mut self) -> Vec<String> {
        if self.more > 0 {
            self.list.push(format!("and {} more", self.more));
        }
        self.list
    }
}

struct Comparison<'a> {
    /// Directories whose times nobody set, in order.
    implied: &'a [Vec<u8>],
    findings: Findings,
    /// Files of several names: which one of the layer is which one of the model.
    same: HashMap<u64, u64>,
    stop: &'a AtomicBool,
}

impl Comparison<'_> {
    /// Compares two directories with all that is in them. The model nests no deeper than layers may, and nothing is entered
    /// that it does not have.
    fn directory(&mut self, model: &OwnedFd, layer: &OwnedFd, path: &[u8]) -> Result<(), Errno> {
        let (expected, found) = (rustix::fs::fstat(model)?, rustix::fs::fstat(layer)?);
        let times_matter = self
            .implied
            .binary_search_by(|implied| implied.as_slice().cmp(path))
            .is_err();
        self.attributes(path, (&expected, &found), times_matter);
        self.xattrs(path, (model, layer), c".")?;
        for entry in Dir::read_from(model)? {
            if self.stop.load(Ordering::Relaxed) {
                return Ok(());
            }
            let entry = entry?;
            let name = entry.file_name();
            if is_dots(name) {
                continue;
            }
            let below = join(path, name);
            let expected = rustix::fs::statat(model, name, AtFlags::SYMLINK_NOFOLLOW)?;
            let found = match rustix::fs::statat(layer, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(found) => found,
                Err(Errno::NOENT) => {
                    self.found(&below, "is not there");
                    continue;
                }
                Err(errno) => {
                    self.found(&below, &format!("cannot be looked at: {errno}"));
                    continue;
                }
            };
            if kind(&expected) != kind(&found) {
                self.found(&below, "is of another kind");
            } else if kind(&expected) == FileType::Directory {
                let inner = open_below(model, name)?;
                match open_below(layer, name) {
                    Ok(found) => self.directory(&inner, &found, &below)?,
                    Err(errno) => self.found(&below, &format!("cannot be opened: {errno}")),
                }
            } else {
                // Whiteouts are made without times.
                let times_matter = !tree::is_whiteout(&expected);
                self.attributes(&below, (&expected, &found), times_matter);
                self.links(&below, (&expected, &found));
                if kind(&expected) == FileType::Symlink {
                    let target = |at| rustix::fs::readlinkat(at, name, Vec::new());
                    if target(model)? != target(layer)? {
                        self.found(&below, "leads somewhere else");
                    }
                }
                self.xattrs(&below, (model, layer), name)?;
            }
        }
        for entry in Dir::read_from(layer)? {
            let entry = entry?;
            let name = entry.file_name();
            let is_extra = !is_dots(name)
                && rustix::fs::statat(model, name, AtFlags::SYMLINK_NOFOLLOW).is_err();
            if is_extra {
                self.found(&join(path, name), "is not of the image");
            }
        }
        Ok(())
    }

    fn attributes(&mut self, path: &[u8], (expected, found): (&Stat, &Stat), times_matter: bool) {
        let mode = |stat: &Stat| stat.st_mode & 0o7777;
        if mode(expected) != mode(found) {
            let words = format!(
                "has the mode {:o} instead of {:o}",
                mode(found),
                mode(expected)
            );
            self.found(path, &words);
        }
        let owner = |stat: &Stat| (stat.st_uid, stat.st_gid);
        if owner(expected) != owner(found) {
            let ((uid, gid), (wanted_uid, wanted_gid)) = (owner(found), owner(expected));
            let words = format!("belongs to {uid}:{gid} instead of {wanted_uid}:{wanted_gid}");
            self.found(path, &words);
        }
        if kind(expected) == FileType::RegularFile && expected.st_size != found.st_size {
            let words = format!(
                "has {} bytes instead of {}",
                found.st_size, expected.st_size
            );
            self.found(path, &words);
        }
        if expected.st_rdev != found.st_rdev {
            self.found(path, "is another device");
        }
        let time = |stat: &Stat| (stat.st_mtime, stat.st_mtime_nsec);
        if times_matter && time(expected) != time(found) {
            self.found(path, "has another time of modification");
        }
    }

    fn links(&mut self, path: &[u8], (expected, found): (&Stat, &Stat)) {
        if expected.st_nlink != found.st_nlink {
            let (names, wanted) = (found.st_nlink, expected.st_nlink);
            self.found(path, &format!("has {names} names instead of {wanted}"));
        } else if expected.st_nlink > 1
            && *self.same.entry(expected.st_ino).or_insert(found.st_ino) != found.st_ino
        {
            self.found(path, "is a link to another file");
        }
    }

    fn xattrs(
        &mut self,
        path: &[u8],
        (model, layer): (&OwnedFd, &OwnedFd),
        name: &CStr,
    ) -> Result<(), Errno> {
        let (expected, found) = (xattrs_of(model, name)?, xattrs_of(layer, name)?);
        if expected != found {
            let differs = |key: &Vec<u8>| {
                let of = |list: &[Attribute]| list.iter().find(|(other, _)| other == key).cloned();
                of(&expected) != of(&found)
            };
            let keys = expected.iter().chain(&found).map(|(key, _)| key);
            let key = keys.into_iter().find(|key| differs(key));
            let key = String::from_utf8_lossy(key.map_or(&[], Vec::as_slice)).into_owned();
            self.found(path, &format!("has another extended attribute {key}"));
        }
        Ok(())
    }

    fn found(&mut self, path: &[u8], words: &str) {
        self.findings.add(|| {
            let path = String::from_utf8_lossy(path);
            let path: String = path.chars().take(300).collect();
            format!("/{path} {words}")
        });
    }
}

fn kind(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

fn is_dots(name: &CStr) -> bool {
    matches!(name.to_bytes(), b"." | b"..")
}

fn join(path: &[u8], name: &CStr) -> Vec<u8> {
    let mut joined = path.to_vec();
    if !joined.is_empty() {
        joined.push(b'/');
    }
    joined.extend_from_slice(name.to_bytes());
    joined
}

fn open_below(parent: &OwnedFd, name: &CStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(parent, name, flags, Mode::empty())
}

/// Those attributes that come with layers and mean something to an overlay, by name. Labels and the like are the node's.
fn xattrs_of(parent: &OwnedFd, name: &CStr) -> Result<Vec<Attribute>, Errno> {
    let mut path = format!("/proc/self/fd/{}/", parent.as_raw_fd()).into_bytes();
    path.extend_from_slice(name.to_bytes());
    let path = CString::new(path).map_err(|_| Errno::INVAL)?;
    let mut names = vec![0; XATTR_BYTES];
    let length = match rustix::fs::llistxattr(&path, &mut names[..]) {
        Ok(length) => length,
        // The file system has none.
        Err(Errno::NOTSUP) => 0,
        Err(errno) => return Err(errno),
    };
    if length == 0 {
        return Ok(Vec::new());
    }
    let mut value = vec![0; XATTR_BYTES];
    let mut found = Vec::new();
    for key in names[..length].split(|byte| *byte == 0) {
        let counts = key == b"security.capability"
            || [b"user.".as_slice(), b"trusted.", b"system.posix_acl_"]
                .iter()
                .any(|start| key.starts_with(start));
        if counts {
            let length = rustix::fs::lgetxattr(&path, key, &mut value[..])?;
            found.push((key.to_vec(), value[..length].to_vec()));
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
#[path = "verify_tests.rs"]
mod tests;
