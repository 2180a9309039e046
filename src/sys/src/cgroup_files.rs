//! The files in which the kernel counts what a cgroup uses, on either version.
//!
//! On a hybrid node (version 1, with version 2 mounted beside it for want of controllers) an OCI runtime may put its
//! containers into both trees; version 2 has what version 1 never got: pressure.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::fs::{AtFlags, CWD, Mode, OFlags};

use crate::{
    SysError,
    cgroup::{self, Layout},
    fs::magic_of,
    small_file::SmallFile,
};

/// Where hybrid nodes mount version 2, below the root of all cgroup mounts.
const HYBRID_NAME: &str = "unified";

/// How directories are opened that are only gone through.
const DIRECTORY: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// The node's cgroups for reading.
#[derive(Clone, Debug)]
pub struct CgroupFiles {
    layout: Layout,
    /// The mount point of version 2 beside version 1.
    hybrid: Option<PathBuf>,
    /// The mount points, opened: what is above a cgroup's own path is not looked up again for each.
    tops: Arc<BTreeMap<PathBuf, OwnedFd>>,
}

impl CgroupFiles {
    /// For this layout, and what of version 2 stands beside it.
    pub fn new(layout: Layout) -> Self {
        let beside = Path::new(cgroup::MOUNT_ROOT).join(HYBRID_NAME);
        let hybrid = (!layout.is_v2()
            && magic_of(&beside).is_ok_and(|magic| magic == cgroup::CGROUP2_MAGIC))
        .then_some(beside);
        let mounts: Vec<&PathBuf> = match &layout {
            Layout::V1 { controllers } => controllers.values().chain(&hybrid).collect(),
            Layout::V2 { mount } => vec![mount],
        };
        let open = |mount: &PathBuf| {
            let top = rustix::fs::open(mount, DIRECTORY, Mode::empty()).ok()?;
            Some((mount.clone(), top))
        };
        let tops = mounts.into_iter().filter_map(open).collect();
        Self {
            tops: Arc::new(tops),
            layout,
            hybrid,
        }
    }

    /// Calls `open` with a directory and the way from there to a path below a mount point.
    fn below<T>(
        &self,
        mount: &Path,
        path: &Path,
        open: impl FnOnce(BorrowedFd<'_>, &Path) -> T,
    ) -> T {
        match self.tops.get(mount) {
            Some(top) => open(top.as_fd(), path),
            None => open(CWD, &mount.join(path)),
        }
    }

    /// Whether this is version 2.
    pub fn is_v2(&self) -> bool {
        self.layout.is_v2()
    }

    /// One cgroup of it, which need not exist.
    pub fn of(&self, cgroup: &str) -> Result<OneCgroup<'_>, SysError> {
        Ok(OneCgroup {
            files: self,
            relative: cgroup::relative(cgroup)?,
            opened: None,
        })
    }

    /// The same for a look at most of its files: directories are looked up once, and a file that is asked for again says
    /// what it said before.
    pub fn all_of(&self, cgroup: &str) -> Result<OneCgroup<'_>, SysError> {
        Ok(OneCgroup {
            opened: Some(RefCell::default()),
            ..self.of(cgroup)?
        })
    }
}

/// One cgroup's files.
#[derive(Debug)]
pub struct OneCgroup<'a> {
    files: &'a CgroupFiles,
    relative: PathBuf,
    opened: Option<RefCell<Vec<Opened<'a>>>>,
}

/// A cgroup's directory in one hierarchy, and what was read in it.
#[derive(Debug)]
struct Opened<'a> {
    mount: &'a Path,
    /// `None` if there is none.
    dir: Option<OwnedFd>,
    /// By file name; `None` for what could not be read.
    texts: BTreeMap<String, Option<Box<str>>>,
}

impl<'a> Opened<'a> {
    fn new(files: &CgroupFiles, mount: &'a Path, relative: &Path) -> Self {
        let open = |top: BorrowedFd<'_>, path: &Path| {
            rustix::fs::openat(top, path, DIRECTORY, Mode::empty()).ok()
        };
        Self {
            mount,
            dir: files.below(mount, relative, open),
            texts: BTreeMap::new(),
        }
    }

    fn read<'b>(&mut self, file: &str, buffer: &'b mut SmallFile) -> Option<&'b str> {
        if let Some(text) = self.texts.get(file) {
            return buffer.hold(text.as_ref()?);
        }
        let text = buffer.read_record_at(self.dir.as_ref()?, Path::new(file));
        self.texts.insert(file.to_owned(), text.map(Box::from));
        text
    }

    /// The processes in it, if no cgroup is below it. `None` also if it is not there.
    fn processes(&self, buffer: &mut SmallFile) -> Option<BTreeSet<u32>> {
        let dir = self.dir.as_ref()?;
        // Its own name, its `.`, and a `..` in each directory below: so the kernel counts for cgroups.
        let links = rustix::fs::statat(dir, c"", AtFlags::EMPTY_PATH)
            .ok()?
            .st_nlink;
        if links != 2 {
            return None;
        }
        let text = buffer.read_at(dir, Path::new(cgroup::PROCESSES))?;
        Some(cgroup::listed(text).collect())
    }
}

impl<'a> OneCgroup<'a> {
    /// Whether its files are those of version 2.
    pub fn is_v2(&self) -> bool {
        self.files.is_v2()
    }

    /// The text of a file in a controller's hierarchy; on version 2 the controller does not matter. `None` if the cgroup
    /// or the file is not there, or the controller is not.
    pub fn read<'b>(
        &self,
        controller: &str,
        file: &str,
        buffer: &'b mut SmallFile,
    ) -> Option<&'b str> {
        let mount = match &self.files.layout {
            Layout::V1 { controllers } => controllers.get(controller)?,
            Layout::V2 { mount } => mount,
        };
        self.text(mount, file, buffer)
    }

    /// The text of a pressure file, such as `cpu.pressure`. `None` where the kernel does not count pressure.
    pub fn pressure<'b>(&self, file: &str, buffer: &'b mut SmallFile) -> Option<&'b str> {
        let mount = match &self.files.layout {
            Layout::V1 { .. } => self.files.hybrid.as_ref()?,
            Layout::V2 { mount } => mount,
        };
        self.text(mount, file, buffer)
    }

    /// The processes in it and in the cgroups below it, by the hierarchy of a controller. `None` if it is not there.
    pub fn processes(&self, controller: &str, buffer: &mut SmallFile) -> Option<BTreeSet<u32>> {
        let mount = match &self.files.layout {
            Layout::V1 { controllers } => controllers.get(controller)?,
            Layout::V2 { mount } => mount,
        };
        if let Some(opened) = &self.opened {
            let mut opened = opened.borrow_mut();
            if let Some(found) = self.opened_at(&mut opened, mount).processes(buffer) {
                return Some(found);
            }
        }
        let dirs = cgroup::subtree(&mount.join(&self.relative)).ok()?;
        if dirs.is_empty() {
            return None;
        }
        let mut processes = BTreeSet::new();
        for dir in dirs {
            processes.extend(cgroup::processes_of(&dir).ok()?);
        }
        Some(processes)
    }

    fn text<'b>(&self, mount: &'a Path, file: &str, buffer: &'b mut SmallFile) -> Option<&'b str> {
        let Some(opened) = &self.opened else {
            let path = self.relative.join(file);
            let files = self.files;
            return files.below(mount, &path, |top, path| buffer.read_record_at(top, path));
        };
        let mut opened = opened.borrow_mut();
        self.opened_at(&mut opened, mount).read(file, buffer)
    }

    fn opened_at<'o>(
        &self,
        opened: &'o mut Vec<Opened<'a>>,
        mount: &'a Path,
    ) -> &'o mut Opened<'a> {
        let at = opened.iter().position(|one| one.mount == mount);
        let at = at.unwrap_or_else(|| {
            opened.push(Opened::new(self.files, mount, &self.relative));
            opened.len() - 1
        });
        &mut opened[at]
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use std::{collections::BTreeMap, fs};

    use super::*;

    type Of = for<'a> fn(&'a CgroupFiles, &str) -> Result<OneCgroup<'a>, SysError>;

    #[test]
    fn files_are_found_on_both_versions() {
        let dir = tempfile::tempdir().unwrap();
        for tree in ["memory/p/c", "v2/p/c"] {
            fs::create_dir_all(dir.path().join(tree)).unwrap();
            fs::write(dir.path().join(tree).join("memory.stat"), tree).unwrap();
        }
        fs::write(dir.path().join("v2/p/c/io.pressure"), "some").unwrap();
        for (tree, pids) in [("memory/p/c", "7\n5\n"), ("memory/p/c/d", "9\n0\n")] {
            fs::create_dir_all(dir.path().join(tree)).unwrap();
            fs::write(dir.path().join(tree).join("cgroup.procs"), pids).unwrap();
        }
        let v1 = CgroupFiles::new(Layout::V1 {
            controllers: BTreeMap::from([("memory".to_owned(), dir.path().join("memory"))]),
        });
        let v1 = CgroupFiles {
            // This machine may be hybrid.
            hybrid: None,
            ..v1
        };
        let hybrid = CgroupFiles {
            hybrid: Some(dir.path().join("v2")),
            ..v1.clone()
        };
        let v2 = CgroupFiles::new(Layout::V2 {
            mount: dir.path().join("v2"),
        });
        let mut buffer = SmallFile::default();
        for (files, tree, pressure) in [
            (&v1, "memory/p/c", None),
            (&hybrid, "memory/p/c", Some("some")),
            (&v2, "v2/p/c", Some("some")),
        ] {
            let one = files.of("/p/c").unwrap();
            assert_eq!(one.read("memory", "memory.stat", &mut buffer), Some(tree));
            assert_eq!(one.read("memory", "memory.none", &mut buffer), None);
            assert_eq!(one.pressure("io.pressure", &mut buffer), pressure);
            let gone = files.of("/p/gone").unwrap();
            assert_eq!(gone.read("memory", "memory.stat", &mut buffer), None);
            assert!(files.of("/p/../..").is_err());
            // Looked up once, the same is found, and found again when the file says something else.
            let all = files.all_of("/p/c").unwrap();
            let stat = dir.path().join(tree).join("memory.stat");
            for _ in 0..2 {
                assert_eq!(all.read("memory", "memory.stat", &mut buffer), Some(tree));
                assert_eq!(all.read("memory", "memory.none", &mut buffer), None);
                assert_eq!(all.pressure("io.pressure", &mut buffer), pressure);
                fs::write(&stat, "later").unwrap();
            }
            let later = files.all_of("/p/c").unwrap();
            assert_eq!(
                later.read("memory", "memory.stat", &mut buffer),
                Some("later")
            );
            fs::write(&stat, tree).unwrap();
            let gone = files.all_of("/p/gone").unwrap();
            assert_eq!(gone.read("memory", "memory.stat", &mut buffer), None);
        }
        let one = v1.of("/p/c").unwrap();
        assert_eq!(one.read("pids", "memory.stat", &mut buffer), None);
        for (of, path, pids) in [
            (CgroupFiles::of as Of, "/p/c", Some([5, 7, 9].as_slice())),
            (CgroupFiles::all_of, "/p/c", Some(&[5, 7, 9])),
            (CgroupFiles::all_of, "/p/c/d", Some(&[9])),
            (CgroupFiles::of, "/p/gone", None),
            (CgroupFiles::all_of, "/p/gone", None),
        ] {
            let pids = pids.map(|pids| pids.iter().copied().collect());
            let one = of(&v1, path).unwrap();
            assert_eq!(one.processes("memory", &mut buffer), pids, "{path}");
            assert_eq!(one.processes("pids", &mut buffer), None);
        }
    }
}
