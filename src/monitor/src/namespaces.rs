//! The pod's namespaces: made by leaving the node's for a moment, pinned by bind mounts, released at the end.
//!
//! The monitor has one thread, so leaving a namespace and coming back disturbs nobody. Whatever fails on the way is
//! undone: the monitor is back in the node's namespaces and no pin is left. From a user namespace there is no way back,
//! so with one a child process makes them all: see [`crate::settler`].

use std::{
    ffi::OsStr,
    fs, io,
    os::{
        fd::{AsFd as _, AsRawFd as _, OwnedFd},
        unix::{
            ffi::OsStrExt as _,
            fs::{DirBuilderExt as _, OpenOptionsExt as _},
        },
    },
    path::{Path, PathBuf},
};

use monitor_wire::{Failure, NamespaceOrder};
use rustix::{
    fs::{FlockOperation, flock},
    mount::{
        MountPropagationFlags, UnmountFlags, mount_bind, mount_bind_recursive, mount_change,
        unmount,
    },
    thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe},
};

use crate::{
    refusal::Refusal,
    settler::Settler,
    sysctl::{self, Made},
};

/// `NSFS_MAGIC` of the kernel: the file system of namespace files.
const NSFS_MAGIC: i64 = 0x6e73_6673;

/// Pinned namespaces.
#[derive(Debug, Default)]
pub(crate) struct Pins {
    paths: Vec<PathBuf>,
}

impl Pins {
    pub(crate) fn is_empty(&self) -> bool {
        self.paths.is_empty()
    }

    /// Makes the namespaces that are asked for and keeps their pins.
    pub(crate) fn open(&mut self, order: &NamespaceOrder) -> Result<(), Refusal> {
        let wanted: Vec<(Kind, PathBuf)> = [
            (Kind::Network, &order.network),
            (Kind::Ipc, &order.ipc),
            (Kind::Uts, &order.uts),
        ]
        .into_iter()
        .filter_map(|(kind, path)| Some((kind, PathBuf::from(OsStr::from_bytes(path.as_ref()?)))))
        .collect();
        if order.hostname.is_some() && order.uts.is_none() {
            return Err(Refusal::new(
                Failure::Invalid,
                "a host name needs a UTS namespace of the pod's own",
            ));
        }
        let sysctls = order
            .sysctls
            .iter()
            .map(|line| parse_sysctl(line, order))
            .collect::<Result<Vec<_>, _>>()?;

        let settings = Settings {
            loopback: order.network.is_some(),
            hostname: order.hostname.as_deref(),
            sysctls,
        };
        let mut made = if let Some(user) = &order.user {
            let kinds: Vec<Kind> = wanted.iter().map(|(kind, _)| *kind).collect();
            let settler = Settler::send(&kinds, user, &settings)?;
            let pin = PathBuf::from(OsStr::from_bytes(&user.pin));
            let mut made = Making::default();
            made.pins.pin(Kind::User, &settler.file(Kind::User), pin)?;
            for (kind, path) in wanted {
                made.pins.pin(kind, &settler.file(kind), path)?;
            }
            made
        } else {
            let mut made = Making {
                away: Away::leave(&wanted)?,
                pins: Pins::default(),
            };
            settings.apply()?;
            for (kind, path) in wanted {
                made.pins.pin(kind, Path::new(kind.file()), path)?;
            }
            made
        };
        made.away.come_back()?;
        self.paths.append(&mut made.pins.paths);
        Ok(())
    }

    fn pin(&mut self, kind: Kind, namespace: &Path, path: PathBuf) -> Result<(), Refusal> {
        if let Some(parent) = path.parent() {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o755)
                .create(parent)
                .map_err(|error| Refusal::file("make", parent, error))?;
            if kind == Kind::Network {
                share(parent);
            }
        }
        let pinned = rustix::fs::statfs(&path).is_ok_and(|fs| fs.f_type == NSFS_MAGIC);
        if pinned {
            return Err(Refusal::new(
                Failure::Exists,
                format!("{} is a namespace already", path.display()),
            ));
        }
        fs::File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o444)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&path)
            .map_err(|error| Refusal::file("make", &path, error))?;
        let result = mount_bind(namespace, &path)
            .map_err(|error| Refusal::file("pin namespace at", &path, error));
        // Remembered even if the mount failed: the file is to go.
        self.paths.push(path);
        result
    }

    /// Releases everything; what is gone already is fine.
    pub(crate) fn release(&mut self) -> Result<(), Refusal> {
        while let Some(path) = self.paths.last() {
            match unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
                Ok(()) | Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => {}
                Err(error) => return Err(Refusal::file("unmount", path, error)),
            }
            match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(Refusal::file("remove", path, error));
                }
                _ => {}
            }
            self.paths.pop();
        }
        Ok(())
    }
}

/// What is set in new namespaces, by whoever is in them.
pub(crate) struct Settings<'a> {
    loopback: bool,
    hostname: Option<&'a [u8]>,
    /// Files below `/proc/sys` and what is written to them.
    sysctls: Vec<(String, &'a [u8])>,
}

impl Settings<'_> {
    pub(crate) fn apply(&self) -> Result<(), Refusal> {
        if self.loopback {
            loopback_up().map_err(|error| Refusal::io("set lo up", error))?;
        }
        if let Some(hostname) = self.hostname {
            rustix::system::sethostname(hostname)
                .map_err(|error| Refusal::io("set host name", error))?;
        }
        for (file, value) in &self.sysctls {
            fs::write(file, value)
                .map_err(|error| Refusal::file("write", Path::new(file), error))?;
        }
        Ok(())
    }
}

/// Namespaces being made: dropped before everything is done, it takes the pins back and brings the monitor home.
#[derive(Default)]
struct Making {
    away: Away,
    pins: Pins,
}

impl Drop for Making {
    fn drop(&mut self) {
        let _ = self.pins.release();
        let _ = self.away.come_back();
    }
}

/// A kind of namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Network,
    Ipc,
    Uts,
    User,
}

impl Kind {
    pub(crate) fn file(self) -> &'static str {
        match self {
            Self::Network => "/proc/self/ns/net",
            Self::Ipc => "/proc/self/ns/ipc",
            Self::Uts => "/proc/self/ns/uts",
            Self::User => "/proc/self/ns/user",
        }
    }

    pub(crate) fn flag(self) -> UnshareFlags {
        match self {
            Self::User => UnshareFlags::NEWUSER,
            Self::Network => UnshareFlags::NEWNET,
            Self::Ipc => UnshareFlags::NEWIPC,
            Self::Uts => UnshareFlags::NEWUTS,
        }
    }

    fn link(self) -> LinkNameSpaceType {
        match self {
            Self::Network => LinkNameSpaceType::Network,
            Self::Ipc => LinkNameSpaceType::InterProcessCommunication,
            Self::Uts => LinkNameSpaceType::HostNameAndNISDomainName,
            Self::User => LinkNameSpaceType::User,
        }
    }
}

/// The way home, while the monitor is in other namespaces.
#[derive(Default)]
struct Away {
    home: Vec<(Kind, OwnedFd)>,
}

impl Away {
    fn leave(wanted: &[(Kind, PathBuf)]) -> Result<Self, Refusal> {
        let mut home = Vec::new();
        let mut flags = UnshareFlags::empty();
        for (kind, _) in wanted {
            let file = fs::File::open(kind.file())
                .map_err(|error| Refusal::file("open", Path::new(kind.file()), error))?;
            home.push((*kind, OwnedFd::from(file)));
            flags |= kind.flag();
        }
        // SAFETY: no flag here shares or unshares memory or descriptors, and the process has one thread.
        unsafe { unshare_unsafe(flags) }.map_err(|error| Refusal::io("make namespaces", error))?;
        Ok(Self { home })
    }

    fn come_back(&mut self) -> Result<(), Refusal> {
        while let Some((kind, fd)) = self.home.last() {
            move_into_link_name_space(fd.as_fd(), Some(kind.link()))
                .map_err(|error| Refusal::io("return to the node's namespaces", error))?;
            self.home.pop();
        }
        Ok(())
    }
}

fn parse_sysctl<'a>(line: &'a [u8], order: &NamespaceOrder) -> Result<(String, &'a [u8]), Refusal> {
    let made = Made {
        network: order.network.is_some(),
        ipc: order.ipc.is_some(),
        uts: order.uts.is_some(),
    };
    let at = line.iter().position(|&byte| byte == b'=');
    let (name, value) = at.map_or((line, &b""[..]), |at| (&line[..at], &line[at + 1..]));
    let name = String::from_utf8_lossy(name);
    let file = sysctl::file(&name, made)
        .map_err(|reason| Refusal::new(Failure::Invalid, format!("sysctl {name}: {reason}")))?;
    Ok((file, value))
}

/// Makes a directory of network namespaces one that mount events pass through, as `ip netns` does: then a pin made or
/// taken away here is so in other mount namespaces too, and none keeps a dead one alive. Where it cannot be, pins work
/// all the same.
fn share(directory: &Path) {
    let Ok(file) = fs::File::open(directory) else {
        return;
    };
    // Two monitors at once would stack two mounts.
    let _ = flock(&file, FlockOperation::LockExclusive);
    let shared = MountPropagationFlags::SHARED | MountPropagationFlags::REC;
    if mount_change(directory, shared).is_err()
        && mount_bind_recursive(directory, directory).is_ok()
    {
        let _ = mount_change(directory, shared);
    }
}

/// Sets `lo` up in the current network namespace; the kernel then gives it its addresses.
fn loopback_up() -> io::Result<()> {
    let socket = rustix::net::socket(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::DGRAM,
        None,
    )?;
    // SAFETY: an all-zero ifreq is a valid one.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (place, byte) in request.ifr_name.iter_mut().zip(*b"lo") {
        *place = byte.cast_signed();
    }
    request.ifr_ifru.ifru_flags = libc::c_short::try_from(libc::IFF_UP).unwrap_or_default();
    // SAFETY: the socket is open and SIOCSIFFLAGS reads one ifreq, which lives through the call.
    let result = unsafe {
        libc::ioctl(
            socket.as_raw_fd(),
            libc::SIOCSIFFLAGS as libc::Ioctl,
            &raw const request,
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
