//! Every call of the kernel that the server makes beyond plain files: mounts, paths inside a root, cgroups, processes,
//! namespaces, facts about the kernel and its file systems.
//!
//! All functions block. Those of [`mount`], [`fs`] and [`root`] touch file systems that may hang (a dead NFS server), so an
//! async caller runs them on a thread for blocking work; [`host_path`] never hangs. Nothing here keeps state but the count
//! of children that [`host_path`] could not end, and nothing logs.

pub mod background;
pub mod cgroup;
pub mod cgroup_files;
mod child;
mod error;
pub mod fault;
pub mod file_handle;
pub mod fs;
pub mod host_path;
pub mod idmap;
pub mod kernel;
pub mod leftovers;
pub mod memory;
pub mod mount;
pub mod namespace;
pub mod net_dev;
pub mod process;
pub mod process_files;
pub mod process_group;
pub mod root;
pub mod selinux;
pub mod small_file;
pub mod socket;
pub mod startup;

pub use error::SysError;
