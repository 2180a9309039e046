//! Root file systems of containers: layers below, a writable directory on top, joined by an overlay.
//!
//! The overlays are `volatile`: the kernel syncs nothing of what a container writes, not even when it is unmounted (which
//! would sync the whole disk, for seconds at times). A container's changes die with it and never outlive a crash of the
//! machine, so nothing is lost: [`LayerStore::sweep_containers`] throws away what a former boot left.

use std::{
    fs::{self, Permissions},
    io,
    os::{
        fd::BorrowedFd,
        unix::fs::{MetadataExt, PermissionsExt},
    },
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::io::Errno;
use state::ChainId;
use sys::{
    SysError,
    mount::{OverlayMount, UpperDirs},
};

use crate::{LayerStore, Measurement, StorageError, foreign::Place, tree, usage, volume};

/// How many directories below the writable one an overlay takes.
const MIN_LOWER_READONLY: usize = 2;

/// How the ids of files are to look in a container with a user namespace.
#[derive(Clone, Copy, Debug)]
pub struct IdShift<'a> {
    /// The user namespace, as a file.
    pub user_namespace: BorrowedFd<'a>,
    /// A directory in which each store that has some of the layers is mounted, `0` and so on, with its ids mapped, as long as
    /// the overlay is being made. [`unmount_scratch`] takes away what a crash left of it.
    pub scratch: &'a Path,
}

/// A way to make root file systems out of layers.
pub trait Rootfs: Send + Sync {
    /// Mounts the layers (lowest first; there may be none) at the directory `target`, with a writable layer for the
    /// container, or read-only without one: then not even a mount point can be made in it.
    ///
    /// With a shift, files of layers belong to the ids that the user namespace maps theirs to. What is written to the
    /// writable layer has the ids of the node in any case, so such a layer serves that user namespace only.
    ///
    /// With a label, everything in it has that label of SELinux, which has to be active.
    fn mount(
        &self,
        container: &str,
        layers: &[ChainId],
        target: &Path,
        readonly: bool,
        shift: Option<&IdShift<'_>>,
        label: Option<&str>,
    ) -> Result<(), StorageError>;

    /// Unmounts it and deletes the writable layer, in the background. What is not there is fine.
    fn unmount(&self, container: &str, target: &Path) -> Result<(), StorageError>;

    /// What the container's writable layer takes. Walks through it, so it takes as long as the container has files.
    ///
    /// # Errors
    /// Besides others, [`StorageError::is_absent`]: it has none.
    fn writable_usage(&self, container: &str) -> Result<Measurement, StorageError>;
}

impl Rootfs for LayerStore {
    fn mount(
        &self,
        container: &str,
        layers: &[ChainId],
        target: &Path,
        readonly: bool,
        shift: Option<&IdShift<'_>>,
        label: Option<&str>,
    ) -> Result<(), StorageError> {
        let dir = self.container_dir(container)?;
        let lower = self.lower(layers, readonly)?;
        let Some(shift) = shift else {
            let lower: Vec<PathBuf> = lower.into_iter().map(|lower| lower.dir).collect();
            return self.mount_layers(container, &dir, &lower, target, readonly, label);
        };
        let mut shown: Vec<ShiftedStore> = Vec::new();
        let mut shifted = Vec::with_capacity(lower.len());
        for lower in &lower {
            let known = shown.iter().position(|shown| shown.store == lower.store);
            let store = if let Some(known) = known {
                &shown[known]
            } else {
                let at = shift.scratch.join(shown.len().to_string());
                shown.push_mut(ShiftedStore::mount(container, &lower.store, shift, at)?)
            };
            let inside = lower.dir.strip_prefix(&*lower.store).unwrap_or(&lower.dir);
            shifted.push(store.at.join(inside));
        }
        self.mount_layers(container, &dir, &shifted, target, readonly, label)
    }

    fn unmount(&self, container: &str, target: &Path) -> Result<(), StorageError> {
        let dir = self.container_dir(container)?;
        sys::mount::unmount(target).map_err(mounting(container))?;
        self.inner().trash.put(&dir)
    }

    fn writable_usage(&self, container: &str) -> Result<Measurement, StorageError> {
        let dir = self.container_dir(container)?;
        let mut usage = usage::measure(&dir.join("upper"))?;
        if dir.join(volume::DIRECTORY).is_dir() {
            usage += usage::measure(&dir.join(volume::DIRECTORY))?;
        }
        Ok(usage)
    }
}

impl LayerStore {
    /// Mounts directories of layers, topmost first.
    fn mount_layers(
        &self,
        container: &str,
        dir: &Path,
        lower: &[PathBuf],
        target: &Path,
        readonly: bool,
        label: Option<&str>,
    ) -> Result<(), StorageError> {
        if readonly {
            return mount_overlay(container, lower, None, target, label);
        }
        match fs::create_dir(dir) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                return Err(StorageError::ContainerExists {
                    container: container.to_owned(),
                });
            }
            Err(error) => return Err(StorageError::io("create", dir)(error)),
        }
        let (upper, work) = (dir.join("upper"), dir.join("work"));
        let upper_dirs = UpperDirs {
            upper: &upper,
            work: &work,
        };
        make_upper(upper_dirs, lower.first())
            .and_then(|()| mount_overlay(container, lower, Some(upper_dirs), target, label))
            .inspect_err(|_| {
                if let Err(error) = self.inner().trash.put(dir) {
                    tracing::warn!(container, %error, "cannot delete a writable layer");
                }
            })
    }

    /// Deletes the writable layers of all containers that are not to be kept, those of a former boot for instance.
    pub fn sweep_containers(&self, keep: impl Fn(&str) -> bool) -> Result<(), StorageError> {
        self.inner().sweep_dir("containers", keep)
    }

    pub(crate) fn container_dir(&self, container: &str) -> Result<PathBuf, StorageError> {
        // Ids are made by the engine; still no text of any origin leads out of here.
        let sound = !container.is_empty()
            && container.len() <= 128
            && container
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
        if sound {
            Ok(self.root().join("containers").join(container))
        } else {
            Err(StorageError::BadContainerId {
                container: container.chars().take(128).collect(),
            })
        }
    }

    /// The directories below the writable one, topmost first.
    fn lower(&self, layers: &[ChainId], readonly: bool) -> Result<Vec<Lower>, StorageError> {
        let mut lower = Vec::with_capacity(layers.len().max(MIN_LOWER_READONLY));
        for chain in layers.iter().rev() {
            let place = self.inner().locate(chain)?;
            let is_opaque = is_opaque(&place)?;
            lower.push(Lower {
                store: place.store,
                dir: place.layer,
            });
            // A layer whose root is opaque hides all layers below, which the overlay itself does not see of a root.
            if is_opaque {
                break;
            }
        }
        let wanted = if readonly { MIN_LOWER_READONLY } else { 1 };
        for spare in 0..wanted.saturating_sub(lower.len()) {
            lower.push(Lower {
                store: Arc::clone(&self.inner().root),
                dir: self.root().join("empty").join(spare.to_string()),
            });
        }
        Ok(lower)
    }
}

/// A directory for an overlay.
struct Lower {
    store: Arc<Path>,
    dir: PathBuf,
}

/// A store as a user namespace sees it, for as long as this lives. An overlay keeps its layers' mounts by itself.
struct ShiftedStore {
    store: Arc<Path>,
    at: PathBuf,
}

impl ShiftedStore {
    fn mount(
        container: &str,
        store: &Arc<Path>,
        shift: &IdShift<'_>,
        at: PathBuf,
    ) -> Result<Self, StorageError> {
        match fs::create_dir(&at) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(StorageError::io("create", &at)(error));
            }
            _ => {}
        }
        // Read-only: whoever finds this mount after a crash, and even deletes what is in it, does no harm.
        let how = sys::idmap::Copying {
            readonly: true,
            recursive: false,
            spread: sys::idmap::Spread::Private,
        };
        let held = sys::idmap::hold(store).map_err(mounting(container))?;
        match sys::idmap::bind(&held, shift.user_namespace, &at, how) {
            Ok(()) => Ok(Self {
                store: Arc::clone(store),
                at,
            }),
            Err(source)
                if source.io().and_then(io::Error::raw_os_error)
                    == Some(Errno::INVAL.raw_os_error()) =>
            {
                Err(StorageError::CannotMapIds {
                    store: store.to_path_buf(),
                    source,
                })
            }
            Err(source) => Err(mounting(container)(source)),
        }
    }
}

impl Drop for ShiftedStore {
    fn drop(&mut self) {
        if let Err(error) = sys::mount::unmount(&self.at) {
            tracing::warn!(path = %self.at.display(), %error, "a mount of the store is left over");
        }
    }
}

/// Unmounts what is mounted on [`IdShift::scratch`] and in it. It need not be there.
pub fn unmount_scratch(scratch: &Path) -> Result<(), SysError> {
    // Earlier versions mounted their one store on the directory itself.
    sys::mount::unmount(scratch)?;
    let listing = |source| SysError::Path {
        doing: "list",
        path: scratch.to_owned(),
        source,
    };
    let entries = match fs::read_dir(scratch) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(listing(error)),
    };
    for entry in entries {
        sys::mount::unmount(&entry.map_err(listing)?.path())?;
    }
    Ok(())
}

fn mounting(container: &str) -> impl FnOnce(SysError) -> StorageError {
    move |source| StorageError::Mount {
        container: container.to_owned(),
        source,
    }
}

fn mount_overlay(
    container: &str,
    lower: &[PathBuf],
    upper: Option<UpperDirs<'_>>,
    target: &Path,
    label: Option<&str>,
) -> Result<(), StorageError> {
    sys::mount::overlay(&OverlayMount {
        lower,
        upper,
        target,
        volatile: true,
        readonly: upper.is_none(),
        label,
    })
    .map_err(mounting(container))
}

/// Makes the two directories of the writable side. The upper one is what the container sees as its root directory, so it
/// gets owner and permissions of the root of the topmost layer.
fn make_upper(dirs: UpperDirs<'_>, model: Option<&PathBuf>) -> Result<(), StorageError> {
    for dir in [dirs.upper, dirs.work] {
        fs::create_dir(dir).map_err(StorageError::io("create", dir))?;
    }
    let (mut owner, mut mode) = ((0, 0), 0o755);
    if let Some(model) = model {
        let found = fs::metadata(model).map_err(StorageError::io("look at", model))?;
        owner = (found.uid(), found.gid());
        mode = found.mode() & 0o7777;
    }
    let upper = dirs.upper;
    if owner != (0, 0) {
        std::os::unix::fs::chown(upper, Some(owner.0), Some(owner.1))
            .map_err(StorageError::io("set the owner of", upper))?;
    }
    fs::set_permissions(upper, Permissions::from_mode(mode))
        .map_err(StorageError::io("set the permissions of", upper))
}

/// Whether a layer's root hides all layers below. That a layer of an additional store is not there any more is seen here.
fn is_opaque(place: &Place) -> Result<bool, StorageError> {
    let mut value = [0_u8; 2];
    match rustix::fs::lgetxattr(&place.layer, tree::OPAQUE, &mut value) {
        Ok(length) => Ok(value[..length] == *b"y"),
        Err(error) if place.is_foreign && error != Errno::NODATA => Err(StorageError::StoreGone {
            layer: place.layer.clone(),
            store: place.store.to_path_buf(),
            source: error.into(),
        }),
        Err(_) => Ok(false),
    }
}

#[cfg(test)]
#[path = "rootfs_tests.rs"]
mod tests;
