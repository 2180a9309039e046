//! TCP sockets in a network namespace other than the server's.

use std::{net::TcpStream, os::fd::OwnedFd, path::Path, thread};

use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
    net::{AddressFamily, SocketFlags, SocketType, ipproto, socket_with},
    thread::{LinkNameSpaceType, move_into_link_name_space},
};

use crate::SysError;

/// Sockets that are not connected yet and do not block. A socket stays in the namespace that it was made in, whoever
/// connects it from wherever.
#[derive(Debug)]
pub struct TcpSockets {
    /// For addresses of IPv4.
    pub v4: TcpStream,
    /// For addresses of IPv6; `None` where the kernel has none.
    pub v6: Option<TcpStream>,
}

/// Makes sockets in the network namespace pinned at `netns`; `None` is the server's own.
///
/// The namespace is entered by a thread that ends with the call: no other thread ever is in a foreign one.
pub fn tcp_sockets(netns: Option<&Path>) -> Result<TcpSockets, SysError> {
    let Some(netns) = netns else {
        return make();
    };
    let pin = rustix::fs::open(netns, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(SysError::path("open the network namespace", netns))?;
    thread::scope(|scope| {
        let visit = thread::Builder::new()
            .name("netns".to_owned())
            .spawn_scoped(scope, || {
                use std::os::fd::AsFd as _;
                move_into_link_name_space(pin.as_fd(), Some(LinkNameSpaceType::Network))
                    .map_err(SysError::path("enter the network namespace", netns))?;
                make()
            })
            .map_err(SysError::system("start a thread"))?;
        match visit.join() {
            Ok(sockets) => sockets,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

fn make() -> Result<TcpSockets, SysError> {
    let socket = |family| -> Result<OwnedFd, Errno> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        socket_with(family, SocketType::STREAM, flags, Some(ipproto::TCP))
    };
    let v4 = socket(AddressFamily::INET).map_err(SysError::system("make a socket"))?;
    let v6 = match socket(AddressFamily::INET6) {
        Ok(v6) => Some(v6.into()),
        Err(Errno::AFNOSUPPORT) => None,
        Err(error) => return Err(SysError::system("make a socket")(error)),
    };
    Ok(TcpSockets { v4: v4.into(), v6 })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use std::{
        fs,
        net::{Ipv4Addr, TcpListener},
    };

    use rustix::net::connect;

    use super::*;
    use crate::namespace::{Kind, own};

    /// The namespace of the calling thread; `/proc/self` is the process's first one's.
    fn here() -> std::path::PathBuf {
        fs::read_link("/proc/thread-self/ns/net").unwrap()
    }

    #[test]
    fn the_servers_own_network_is_reached() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let before = here();
        for netns in [None, Some(own(Kind::Network))] {
            let sockets = tcp_sockets(netns.as_deref()).unwrap();
            let connected = connect(&sockets.v4, &address);
            assert!(
                matches!(connected, Ok(()) | Err(Errno::INPROGRESS)),
                "{connected:?}"
            );
            listener.accept().unwrap();
            assert_eq!(here(), before);
        }
    }

    #[test]
    fn another_network_has_its_own_ports_and_the_caller_stays() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let before = here();
        // A thread with a network of its own, as a pod has; needs root, as the whole server does.
        let (pin, pinned) = std::sync::mpsc::channel();
        let (done, wait) = std::sync::mpsc::channel::<()>();
        let pod = thread::spawn(move || {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            let tid = rustix::thread::gettid().as_raw_nonzero();
            pin.send(format!("/proc/self/task/{tid}/ns/net")).unwrap();
            let _ = wait.recv();
        });
        let netns = pinned.recv().unwrap();
        let sockets = tcp_sockets(Some(Path::new(&netns))).unwrap();
        // Its loopback is down: nothing of ours can be reached.
        let connected = connect(&sockets.v4, &address);
        assert!(
            matches!(connected, Err(Errno::NETUNREACH | Errno::ADDRNOTAVAIL)),
            "{connected:?}"
        );
        assert_eq!(here(), before);
        drop(done);
        pod.join().unwrap();
    }

    #[test]
    fn what_is_no_network_namespace_is_an_error() {
        for path in [
            Path::new("/no/such"),
            Path::new("/proc/self/ns/uts"),
            Path::new("/proc/self/status"),
        ] {
            let error = tcp_sockets(Some(path)).unwrap_err();
            assert!(matches!(error, SysError::Path { .. }), "{error}");
        }
    }
}
