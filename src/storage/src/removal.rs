//! Deleting trees that others made, however deep they are.
//!
//! A container can nest directories far deeper than a path or a stack of descriptors can hold. So deleting goes down only
//! so far, and hangs what is deeper up at the top, to be deleted from there.
//!
//! A store has one thread for that, which ends with the store: between two files if need be. What it did not come to is
//! where the next store looks first.

use std::{
    collections::VecDeque,
    ffi::CString,
    fmt, io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{self, Receiver, Sender},
    },
    thread::{self, JoinHandle},
};

use rustix::{
    fs::{AtFlags, Dir, FileType, Mode, OFlags},
    io::Errno,
};

use crate::{
    StorageError,
    usage::{self, Usage},
};

/// How deep a walk goes with one descriptor per level.
const WALK_DEPTH: usize = 64;

/// A directory that is read, and what is left to visit in it.
struct Open {
    dir: Dir,
    fd: OwnedFd,
    name: CString,
}

fn open_dir(parent: impl AsFd, name: &CString) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(parent, name, flags, Mode::empty())
}

fn is_dots(name: &CString) -> bool {
    matches!(name.to_bytes(), b"." | b"..")
}

impl Open {
    fn new(fd: OwnedFd, name: CString) -> Result<Self, Errno> {
        // A descriptor of its own, so that this one keeps the position of nobody.
        let dir = Dir::read_from(&fd)?;
        Ok(Self { dir, fd, name })
    }

    /// The next name in it.
    fn next(&mut self) -> Option<Result<(CString, FileType), Errno>> {
        loop {
            match self.dir.next()? {
                Ok(entry) => {
                    let name = entry.file_name().to_owned();
                    if !is_dots(&name) {
                        return Some(Ok((name, entry.file_type())));
                    }
                }
                Err(errno) => return Some(Err(errno)),
            }
        }
    }
}

/// Removes what `name` names in the directory `parent`, and everything below it. Tells what that took; a file with
/// further names elsewhere counts nothing. `CANCELED` when `stop` was set meanwhile: then only a part is gone.
fn remove_at(parent: BorrowedFd<'_>, name: &[u8], stop: &AtomicBool) -> Result<Usage, Errno> {
    let name = CString::new(name).map_err(|_| Errno::INVAL)?;
    let mut gone = Usage::default();
    match unlink(parent, &name, &mut gone) {
        Err(Errno::ISDIR) => {}
        result => return result.map(|()| gone),
    }
    // What was too deep to reach, by its name in the top directory.
    let mut hung_up = VecDeque::new();
    let top = open_dir(parent, &name)?;
    let dir = rustix::io::dup(&top)?;
    empty(&top, dir, &mut hung_up, &mut gone, stop)?;
    while let Some(name) = hung_up.pop_front() {
        let dir = open_dir(&top, &name)?;
        empty(&top, dir, &mut hung_up, &mut gone, stop)?;
        remove_empty(&top, &name, &mut gone)?;
    }
    remove_empty(parent, &name, &mut gone)?;
    Ok(gone)
}

/// Removes what is no directory; `ISDIR` if it is one.
fn unlink(parent: impl AsFd, name: &CString, gone: &mut Usage) -> Result<(), Errno> {
    let stat = match rustix::fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => stat,
        Err(Errno::NOENT) => return Ok(()),
        Err(errno) => return Err(errno),
    };
    if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
        return Err(Errno::ISDIR);
    }
    match rustix::fs::unlinkat(&parent, name, AtFlags::empty()) {
        Ok(()) if stat.st_nlink <= 1 => {
            *gone += usage::of(&stat);
            Ok(())
        }
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(errno),
    }
}

fn remove_empty(parent: impl AsFd, name: &CString, gone: &mut Usage) -> Result<(), Errno> {
    let stat = rustix::fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW);
    match rustix::fs::unlinkat(&parent, name, AtFlags::REMOVEDIR) {
        Ok(()) => {
            if let Ok(stat) = stat {
                *gone += usage::of(&stat);
            }
            Ok(())
        }
        Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(errno),
    }
}

/// Empties a directory. Directories that are too deep are moved to `top` and noted in `hung_up`.
fn empty(
    top: &OwnedFd,
    dir: OwnedFd,
    hung_up: &mut VecDeque<CString>,
    gone: &mut Usage,
    stop: &AtomicBool,
) -> Result<(), Errno> {
    let mut stack = vec![Open::new(dir, CString::default())?];
    while let Some(current) = stack.last_mut() {
        if stop.load(Ordering::Relaxed) {
            return Err(Errno::CANCELED);
        }
        match current.next() {
            Some(Ok((name, kind))) => {
                if kind != FileType::Directory {
                    match unlink(&current.fd, &name, gone) {
                        Ok(()) => continue,
                        // The directory's listing did not tell the kind.
                        Err(Errno::ISDIR) => {}
                        Err(errno) => return Err(errno),
                    }
                }
                if stack.len() < WALK_DEPTH {
                    let parent = &stack[stack.len() - 1].fd;
                    let dir = open_dir(parent, &name)?;
                    stack.push(Open::new(dir, name)?);
                } else {
                    let parent = &stack[stack.len() - 1].fd;
                    let hung_name = random_name().map_err(|_| Errno::IO)?;
                    rustix::fs::renameat(parent, &name, top, &hung_name)?;
                    hung_up.push_back(hung_name);
                }
            }
            Some(Err(errno)) => return Err(errno),
            None => {
                if let Some(done) = stack.pop()
                    && let Some(parent) = stack.last()
                {
                    remove_empty(&parent.fd, &done.name, gone)?;
                }
            }
        }
    }
    Ok(())
}

fn random_name() -> io::Result<CString> {
    let mut bytes = [0_u8; 8];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    let name = format!(".pintle-{:016x}", u64::from_ne_bytes(bytes));
    Ok(CString::new(name)?)
}

/// A name that nothing else in the store has.
pub(crate) fn fresh_name(prefix: &str) -> String {
    // 16 digits of an id are as random as it gets.
    let id = state::ContainerId::random();
    format!("{prefix}-{}", &id.as_str()[..16])
}

/// The directory to which things are moved that are to be deleted, and the thread that deletes them. Clones are one trash;
/// the thread ends with the last of them.
#[derive(Clone, Debug)]
pub(crate) struct Trash {
    dir: PathBuf,
    thread: Arc<Deleter>,
}

enum Job {
    Delete(PathBuf),
    Answer(Sender<()>),
}

impl Trash {
    /// Starts the thread, and gives it everything that is in `dir`.
    pub(crate) fn open(dir: &Path) -> Result<Self, StorageError> {
        let trash = Self {
            dir: dir.to_owned(),
            thread: Arc::new(Deleter::start()?),
        };
        for entry in std::fs::read_dir(dir).map_err(StorageError::io("list", dir))? {
            let entry = entry.map_err(StorageError::io("list", dir))?;
            trash.delete(entry.path());
        }
        Ok(trash)
    }

    /// Moves something away from where it is, and has it deleted. What is not there is fine.
    pub(crate) fn put(&self, path: &Path) -> Result<(), StorageError> {
        let place = self.dir.join(fresh_name("gone"));
        match std::fs::rename(path, &place) {
            Ok(()) => {
                self.delete(place);
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(StorageError::io("remove", path)(error)),
        }
    }

    /// Has something deleted that is in the directory already.
    pub(crate) fn delete(&self, path: PathBuf) {
        self.thread.give(Job::Delete(path));
    }

    /// Waits until everything is deleted that was given so far.
    pub(crate) fn settle(&self) {
        let (done, wait) = mpsc::channel();
        self.thread.give(Job::Answer(done));
        // An error means that the thread is gone, and there is nothing to wait for.
        let _ = wait.recv();
    }
}

/// The thread. It holds nothing of the store, so that the store's end is never up to it.
struct Deleter {
    /// `None` once it ends.
    inbox: Option<Sender<Job>>,
    stop: Arc<AtomicBool>,
    /// `None` once it has ended.
    thread: Option<JoinHandle<()>>,
}

impl Deleter {
    fn start() -> Result<Self, StorageError> {
        let (sender, jobs) = mpsc::channel();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::Builder::new()
            .name("trash".to_owned())
            .spawn(move || work_off(&jobs, &stopped))
            .map_err(StorageError::Thread)?;
        Ok(Self {
            inbox: Some(sender),
            stop,
            thread: Some(thread),
        })
    }

    fn give(&self, job: Job) {
        if let Some(inbox) = &self.inbox {
            // Were the thread gone, the next start would delete it.
            let _ = inbox.send(job);
        }
    }
}

impl fmt::Debug for Deleter {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Deleter")
    }
}

impl Drop for Deleter {
    /// Waits for one file at most: what is not deleted by now is left to the next start.
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // Wakes the thread if it waits for work.
        self.inbox = None;
        if let Some(thread) = self.thread.take() {
            // An error is a panic, which was told of when it happened.
            let _ = thread.join();
        }
    }
}

fn work_off(jobs: &Receiver<Job>, stop: &AtomicBool) {
    while let Ok(job) = jobs.recv() {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        match job {
            Job::Delete(path) => delete(&path, stop),
            // Nobody may be waiting any more.
            Job::Answer(waiting) => drop(waiting.send(())),
        }
    }
}

fn delete(path: &Path, stop: &AtomicBool) {
    let parent = path.parent().unwrap_or(Path::new("/"));
    let name = path.file_name().unwrap_or_default();
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let result = rustix::fs::open(parent, flags, Mode::empty()).and_then(|parent| {
        let name = std::os::unix::ffi::OsStrExt::as_bytes(name);
        remove_at(parent.as_fd(), name, stop)
    });
    match result {
        Ok(_) | Err(Errno::CANCELED) => {}
        Err(errno) => {
            tracing::warn!(path = %path.display(), error = %io::Error::from(errno), "cannot delete; the next start tries again");
        }
    }
}

#[cfg(test)]
#[path = "removal_tests.rs"]
mod tests;
