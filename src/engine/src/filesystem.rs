//! A container's file system: its root, the volumes that its image declares, images mounted as volumes, and volumes whose
//! ids are mapped.
//!
//! All of it stands in the container's bundle and below its directory in the store, and [`take_apart`] takes it away however
//! far its making came. `create_container` and `teardown` call.

mod images;

use std::{
    collections::HashSet,
    io,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use image::Image;
use rustix::{
    fs::{AtFlags, FileType, StatxFlags},
    io::Errno,
};
use spec::model::{Mount, Propagation, UserNamespace};
use state::{ChainId, ContainerId};
use storage::{IdShift, LayerStore, Rootfs, VolumeBudget, VolumeOrder};
use sys::{
    SysError,
    host_path::Relabelling,
    idmap::{Copying, Spread},
    root::FileKind,
};

pub(crate) use images::Images;

use crate::{
    error::{EngineError, ImageVolumeFault},
    host_files::HostVolume,
    node::Node,
    paths::Paths,
    pod_files, selinux,
    stop::Stop,
    teardown::joined,
    user_namespace,
    world::Pod,
};

/// Largest `/etc/passwd` or `/etc/group` of an image that is read. Real ones have kilobytes.
const ACCOUNT_FILE_MAX_BYTES: usize = 1 << 20;

/// Below these an image declares no volumes: what is there is not files.
const NOT_FOR_VOLUMES: [&str; 3] = ["/proc", "/sys", "/dev"];

/// What has been made.
#[derive(Debug)]
pub(crate) struct Filesystem {
    /// The image's `/etc/passwd`.
    pub(crate) passwd: Option<Vec<u8>>,
    /// The image's `/etc/group`.
    pub(crate) group: Option<Vec<u8>>,
    /// Volumes with every host path filled: those that the image declares, then those of the request.
    pub(crate) mounts: Vec<Mount>,
}

/// How files are to look to a container.
#[derive(Clone, Debug)]
pub(crate) struct Look {
    /// The server makes idmapped mounts, because the runtime does not.
    pub(crate) maps_ids: bool,
    /// SELinux label of all that is mounted or made for the container.
    pub(crate) label: Option<String>,
}

/// Everything that making one takes, for a thread that may block.
struct Order {
    store: LayerStore,
    id: ContainerId,
    rootfs: PathBuf,
    bundle: PathBuf,
    volumes: PathBuf,
    layers: Vec<ChainId>,
    declared: Vec<String>,
    host: Vec<HostVolume>,
    images: Vec<Option<Arc<Image>>>,
    log_directory: Option<PathBuf>,
    user: Option<(PathBuf, UserNamespace)>,
    owner: (u32, u32),
    look: Look,
    /// How long labelling one volume may take.
    relabel: Duration,
    stop: Stop,
}

impl Node {
    /// Make a container's file system. What is left of it after an error, [`take_apart`] finds.
    pub(crate) async fn make_filesystem(
        &self,
        pod: &Pod,
        id: &ContainerId,
        images: &Images,
        host: Vec<HostVolume>,
        log_directory: Option<PathBuf>,
        look: Look,
    ) -> Result<Filesystem, EngineError> {
        let stop = Stop::new("CreateContainer");
        let _when_given_up = stop.on_drop();
        let user = &pod.config.security.namespaces.user;
        let order = Order {
            store: self.store.clone(),
            id: id.clone(),
            rootfs: self.paths.rootfs(id),
            bundle: self.paths.bundle(id),
            volumes: self.paths.volumes(id),
            layers: images.own.layers.clone(),
            declared: images.own.config.volumes.clone(),
            host,
            images: images.volumes.clone(),
            log_directory,
            user: user
                .clone()
                .map(|user| (self.paths.namespace(&pod.id, "user"), user)),
            owner: user_namespace::root(&pod.config),
            look,
            relabel: self.config.timeouts.relabel,
            stop,
        };
        let making = self.live.container(id).making.clone();
        joined(making.spawn_blocking(move || make(order)).await)
    }
}

impl Order {
    /// Make the directory of what the server mounts for the container, seen in no other mount namespace: a container that
    /// has the node's root as a volume would keep file systems busy there.
    fn set_volumes_apart(&self) -> Result<(), EngineError> {
        pod_files::make_dir(&self.volumes)?;
        Ok(sys::mount::set_apart(&self.volumes)?)
    }
}

fn make(mut order: Order) -> Result<Filesystem, EngineError> {
    order.stop.go_on()?;
    pod_files::make_dir(&order.rootfs)?;
    let namespace = match &order.user {
        Some((pin, _)) => Some(sys::idmap::open_user_namespace(pin)?),
        None => None,
    };
    let scratch = order.bundle.join("layers");
    let shift = match &namespace {
        Some(namespace) => {
            pod_files::make_dir(&scratch)?;
            Some(IdShift {
                user_namespace: namespace.as_fd(),
                scratch: &scratch,
            })
        }
        None => None,
    };
    let (id, rootfs) = (order.id.as_str(), order.rootfs.as_path());
    Rootfs::mount(
        &order.store,
        id,
        &order.layers,
        rootfs,
        false,
        shift.as_ref(),
        order.look.label.as_deref(),
    )?;
    if let Some(directory) = &order.log_directory {
        std::fs::create_dir_all(directory).map_err(|source| EngineError::Io {
            action: "make the log directory",
            path: directory.clone(),
            source,
        })?;
    }
    let read = |name: &str| sys::root::read_file(rootfs, name.as_ref(), ACCOUNT_FILE_MAX_BYTES);
    let (passwd, group) = (read("etc/passwd")?, read("etc/group")?);
    let mut mounts = declared_volumes(&order)?;
    let host = std::mem::take(&mut order.host);
    for (index, volume) in host.into_iter().enumerate() {
        order.stop.go_on()?;
        let HostVolume { mount, held } = volume;
        let at = order.volumes.join(index.to_string());
        let mount = match (order.images.get(index), held) {
            (Some(Some(image)), _) => {
                order.set_volumes_apart()?;
                image_mount(&order, mount, image, &at, shift.as_ref())?
            }
            (_, Some(held)) if order.look.maps_ids && !mount.uid_mappings.is_empty() => {
                order.set_volumes_apart()?;
                mapped_mount(&order, mount, &held, namespace.as_ref(), &at)?
            }
            _ => mount,
        };
        mounts.push(mount);
    }
    Ok(Filesystem {
        passwd,
        group,
        mounts,
    })
}

/// The volumes that the image declares, but those that a volume of the client takes the place of.
fn declared_volumes(order: &Order) -> Result<Vec<Mount>, EngineError> {
    let clients: Vec<&Path> = order
        .host
        .iter()
        .map(|volume| Path::new(&volume.mount.container_path))
        .collect();
    let mut mounts = Vec::new();
    let mut budget = VolumeBudget::default();
    let mut made_at: HashSet<PathBuf> = HashSet::new();
    for (index, declared) in order.declared.iter().enumerate() {
        order.stop.go_on()?;
        let declared = Path::new(declared);
        if is_taken(declared, &clients) {
            continue;
        }
        let made = order.store.make_volume(&mut VolumeOrder {
            container: order.id.as_str(),
            index,
            root: &order.rootfs,
            declared,
            owner: order.owner,
            // Where links lead, others of the reasons may hold; and several may lead to one place.
            wanted: &|place| !is_taken(place, &clients) && !made_at.contains(place),
            budget: &mut budget,
            stop: order.stop.flag(),
        })?;
        if let Some(volume) = made {
            made_at.insert(volume.container_path.clone());
            if let Some(label) = &order.look.label {
                let held = sys::idmap::hold(&volume.directory)?;
                let relabelling = Relabelling {
                    label,
                    trust_top: false,
                    within: order.relabel,
                    stop: order.stop.flag(),
                };
                selinux::relabel(&held, &volume.directory, &relabelling)?;
            }
            mounts.push(Mount {
                container_path: volume.container_path.to_string_lossy().into_owned(),
                host_path: volume.directory.to_string_lossy().into_owned(),
                ..Mount::default()
            });
        }
    }
    Ok(mounts)
}

/// Whether there can be no volume of the image at this path: the client's own covers it, or it is no place for files.
fn is_taken(path: &Path, clients: &[&Path]) -> bool {
    path.parent().is_none()
        || NOT_FOR_VOLUMES.iter().any(|place| path.starts_with(place))
        || clients.iter().any(|client| path.starts_with(client))
}

/// An image as a volume: its layers, read-only, or what is below a path inside.
fn image_mount(
    order: &Order,
    mut mount: Mount,
    image: &Image,
    at: &Path,
    shift: Option<&IdShift<'_>>,
) -> Result<Mount, EngineError> {
    pod_files::make_dir(at)?;
    let id = order.id.as_str();
    Rootfs::mount(
        &order.store,
        id,
        &image.layers,
        at,
        true,
        shift,
        order.look.label.as_deref(),
    )
    .map_err(|source| {
        let fault = ImageVolumeFault::Mount(source);
        image_volume(&mount, fault)
    })?;
    let sub_path = mount.image_sub_path.as_str();
    let inside = if sub_path.is_empty() { "." } else { sub_path };
    let found = sys::root::locate(at, Path::new(inside))
        .map_err(|source| image_volume(&mount, ImageVolumeFault::Look(source)))?;
    let image = image.id.to_string();
    match found {
        Some(found) if found.kind != FileKind::Special => {
            mount.host_path = found.path.to_string_lossy().into_owned();
        }
        found => {
            let sub_path = sub_path.to_owned();
            let fault = match found {
                None => ImageVolumeFault::NoSubPath { image, sub_path },
                Some(_) => ImageVolumeFault::Special { image, sub_path },
            };
            return Err(image_volume(&mount, fault));
        }
    }
    // Its layers are shown with the pod's ids already.
    mount.uid_mappings.clear();
    mount.gid_mappings.clear();
    // Whoever made the image is nobody to give out devices or rights here; programs of it may be run.
    for option in ["nodev", "nosuid"] {
        if !mount.options.iter().any(|given| given == option) {
            mount.options.push(option.to_owned());
        }
    }
    Ok(mount)
}

fn image_volume(mount: &Mount, fault: ImageVolumeFault) -> EngineError {
    EngineError::ImageVolume {
        container_path: mount.container_path.clone(),
        fault,
    }
}

/// A volume with mapped ids, mounted at `at` for the runtime to find.
fn mapped_mount(
    order: &Order,
    mut mount: Mount,
    held: &OwnedFd,
    pods: Option<&OwnedFd>,
    at: &Path,
) -> Result<Mount, EngineError> {
    let is_pods = order.user.as_ref().is_some_and(|(_, user)| {
        user.uids == mount.uid_mappings && user.gids == mount.gid_mappings
    });
    let made;
    let namespace = match pods {
        Some(pods) if is_pods => pods,
        _ => {
            made = sys::idmap::user_namespace(
                &user_namespace::ranges(&mount.uid_mappings),
                &user_namespace::ranges(&mount.gid_mappings),
            )?;
            &made
        }
    };
    // What the kernel knows of it by heart: the volume may be on a file server.
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    let stat = rustix::fs::statx(held, "", flags, StatxFlags::TYPE)
        .map_err(|error| unmappable(&mount, error.into()))?;
    if FileType::from_raw_mode(stat.stx_mode.into()) == FileType::Directory {
        pod_files::make_dir(at)?;
    } else {
        if let Some(parent) = at.parent() {
            pod_files::make_dir(parent)?;
        }
        pod_files::write_file(at, b"")?;
    }
    let how = Copying {
        readonly: mount.readonly,
        recursive: true,
        spread: match mount.propagation {
            Propagation::Private => Spread::Private,
            Propagation::HostToContainer => Spread::Slave,
            Propagation::Bidirectional => Spread::AsBefore,
        },
    };
    sys::idmap::bind(held, namespace, at, how).map_err(|error| match error {
        SysError::Path { source, .. } => unmappable(&mount, source),
        error => error.into(),
    })?;
    mount.host_path = at.to_string_lossy().into_owned();
    // Done.
    mount.uid_mappings.clear();
    mount.gid_mappings.clear();
    Ok(mount)
}

/// The kernel's way of saying that a file system cannot do it is `EINVAL`.
fn unmappable(mount: &Mount, source: io::Error) -> EngineError {
    let unable = [Errno::INVAL, Errno::OPNOTSUPP, Errno::NOSYS];
    if unable
        .iter()
        .any(|errno| source.raw_os_error() == Some(errno.raw_os_error()))
    {
        return EngineError::CannotMapIds {
            path: PathBuf::from(&mount.host_path),
            source,
        };
    }
    EngineError::Io {
        action: "map the ids of the volume",
        path: PathBuf::from(&mount.host_path),
        source,
    }
}

/// Take a container's file system away, with its bundle. Parts that are not there are fine.
pub(crate) fn take_apart(
    store: &LayerStore,
    paths: &Paths,
    id: &ContainerId,
) -> Result<(), EngineError> {
    let bundle = paths.bundle(id);
    // Mounts first: a bundle in which one is left is not removed.
    storage::unmount_scratch(&bundle.join("layers"))?;
    let listing = |source| EngineError::Io {
        action: "list",
        path: paths.volumes(id),
        source,
    };
    match std::fs::read_dir(paths.volumes(id)) {
        Ok(entries) => {
            for entry in entries {
                sys::mount::unmount_copy(&entry.map_err(listing)?.path())?;
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(listing(error)),
    }
    sys::mount::unmount_copy(&paths.volumes(id))?;
    Rootfs::unmount(store, id.as_str(), &paths.rootfs(id))?;
    Ok(once_more_if_filled(|| sys::mount::remove_tree(&bundle))?)
}

/// A command that began meanwhile leaves its file where all had been removed already. Further ones are refused by then.
fn once_more_if_filled(mut remove: impl FnMut() -> Result<(), SysError>) -> Result<(), SysError> {
    match remove() {
        Err(error) if error.io().map(io::Error::kind) == Some(io::ErrorKind::DirectoryNotEmpty) => {
            remove()
        }
        removed => removed,
    }
}

#[cfg(test)]
mod test {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use std::fs;

    use nix::sched::CloneFlags;
    use rstest::rstest;
    use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
    use sys::mount::is_mount_point;

    use super::*;

    /// A container's bundle, in a mount namespace of the test's own thread. The mounts go with the thread.
    struct Fixture {
        dir: tempfile::TempDir,
        store: LayerStore,
        paths: Paths,
        id: ContainerId,
    }

    impl Fixture {
        fn new() -> Self {
            nix::sched::unshare(CloneFlags::CLONE_NEWNS).unwrap();
            let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
            mount_change("/", private).unwrap();
            let dir = tempfile::tempdir().unwrap();
            mount("tmpfs", dir.path(), "tmpfs", MountFlags::empty(), c"").unwrap();
            let id = ContainerId::random();
            let paths = Paths::new(&dir.path().join("run"), &dir.path().join("netns"));
            fs::create_dir_all(paths.rootfs(&id)).unwrap();
            fs::write(paths.bundle(&id).join("config.json"), "{}").unwrap();
            Self {
                store: LayerStore::open(&dir.path().join("store"), &[]).unwrap(),
                dir,
                paths,
                id,
            }
        }

        fn take_apart(&self) -> Result<(), EngineError> {
            take_apart(&self.store, &self.paths, &self.id)
        }

        /// A user's volume with a file, and a file system below it, all shared as a node's mounts are.
        fn volume(&self) -> (PathBuf, PathBuf) {
            let volume = self.dir.path().join("volume");
            let inner = volume.join("inner");
            for place in [&volume, &inner] {
                fs::create_dir(place).unwrap();
                mount("tmpfs", place, "tmpfs", MountFlags::empty(), c"").unwrap();
                mount_change(place, MountPropagationFlags::SHARED).unwrap();
            }
            fs::write(volume.join("precious"), "x").unwrap();
            (volume, inner)
        }
    }

    #[rstest]
    #[case(true)]
    // As servers made it that did not set volumes apart.
    #[case(false)]
    fn the_nodes_volumes_are_left_alone(#[case] apart: bool) {
        let fixture = Fixture::new();
        let (volume, inner) = fixture.volume();
        let place = fixture.paths.volumes(&fixture.id);
        let copy = place.join("0");
        fs::create_dir_all(&copy).unwrap();
        if apart {
            sys::mount::set_apart(&place).unwrap();
        }
        rustix::mount::mount_bind_recursive(&volume, &copy).unwrap();
        assert!(is_mount_point(&copy.join("inner")).unwrap());
        fixture.take_apart().unwrap();
        assert!(!fixture.paths.bundle(&fixture.id).exists());
        assert!(is_mount_point(&inner).unwrap(), "it was unmounted");
        assert!(volume.join("precious").exists());
        // What is gone is fine.
        fixture.take_apart().unwrap();
    }

    #[test]
    fn a_bundle_in_which_something_is_mounted_stays() {
        let fixture = Fixture::new();
        let (volume, _inner) = fixture.volume();
        let left = fixture.paths.volumes(&fixture.id).join("0/left");
        fs::create_dir_all(&left).unwrap();
        rustix::mount::mount_bind_recursive(&volume, &left).unwrap();
        let words = crate::error::in_full(&fixture.take_apart().unwrap_err());
        let wanted = format!("remove {}: something is mounted there", left.display());
        assert!(words.contains(&wanted), "{words}");
        assert!(volume.join("precious").exists());
        sys::mount::unmount_copy(&left).unwrap();
        fixture.take_apart().unwrap();
        assert!(!fixture.paths.bundle(&fixture.id).exists());
    }

    #[test]
    fn volumes_that_cannot_be_listed_are_not_taken_for_none() {
        let fixture = Fixture::new();
        let place = fixture.paths.volumes(&fixture.id);
        fs::write(&place, "").unwrap();
        let words = fixture.take_apart().unwrap_err().to_string();
        assert_eq!(words, format!("list {}", place.display()));
        let config = fixture.paths.bundle(&fixture.id).join("config.json");
        assert!(config.exists(), "the bundle was removed");
    }

    #[rstest]
    #[case(&[], 1, true)]
    #[case(&[io::ErrorKind::DirectoryNotEmpty], 2, true)]
    #[case(&[io::ErrorKind::DirectoryNotEmpty, io::ErrorKind::DirectoryNotEmpty], 2, false)]
    #[case(&[io::ErrorKind::ResourceBusy], 1, false)]
    fn a_directory_that_was_filled_meanwhile_is_removed_again(
        #[case] failures: &[io::ErrorKind],
        #[case] tries: usize,
        #[case] succeeds: bool,
    ) {
        let mut tried = 0;
        let outcome = once_more_if_filled(|| {
            tried += 1;
            match failures.get(tried - 1) {
                None => Ok(()),
                Some(kind) => Err(SysError::Path {
                    doing: "remove",
                    path: "/bundle".into(),
                    source: (*kind).into(),
                }),
            }
        });
        assert_eq!((tried, outcome.is_ok()), (tries, succeeds));
    }

    #[rstest]
    #[case("/data", &[], false)]
    #[case("/data", &["/data"], true)]
    #[case("/data/inner", &["/data"], true)]
    #[case("/data", &["/data/inner", "/dat"], false)]
    #[case("/", &[], true)]
    #[case("/proc", &[], true)]
    #[case("/dev/shm", &[], true)]
    #[case("/sys/fs", &[], true)]
    #[case("/device", &[], false)]
    fn places_for_volumes(#[case] path: &str, #[case] clients: &[&str], #[case] taken: bool) {
        let clients: Vec<&Path> = clients.iter().map(Path::new).collect();
        assert_eq!(is_taken(Path::new(path), &clients), taken);
    }
}
