//! The network interfaces of other network namespaces, with their counters.

use std::{
    path::{Path, PathBuf},
    thread,
};

use rustix::{
    fs::{Mode, OFlags},
    thread::LinkNameSpaceType,
};

use crate::{SysError, small_file::SmallFile};

/// The interfaces of the network namespace that the reading thread is in.
const OF_THIS_THREAD: &str = "/proc/thread-self/net/dev";

/// What `/proc/net/dev` says in each of these network namespaces, in their order; `None` for one that is not there (any
/// more). Meanwhile this thread does its `work`, whose result comes along.
///
/// It is a thread of its own that goes from one namespace to the next, and it ends afterwards: no other work is ever done
/// in the wrong one, and nothing keeps a namespace longer than its pod.
pub fn while_working<T>(
    namespaces: &[PathBuf],
    work: impl FnOnce() -> T,
) -> (Result<Vec<Option<String>>, SysError>, T) {
    if namespaces.is_empty() {
        return (Ok(Vec::new()), work());
    }
    thread::scope(|scope| {
        let visitor = thread::Builder::new()
            .name("pintle-net-dev".to_owned())
            .spawn_scoped(scope, || {
                let mut buffer = SmallFile::default();
                namespaces
                    .iter()
                    .map(|path| enter_and_read(path, &mut buffer))
                    .collect()
            });
        let result = work();
        let found = visitor
            .map_err(SysError::system("start a thread for network namespaces"))
            .and_then(|visitor| {
                visitor.join().map_err(|_| {
                    SysError::system("read the interfaces of network namespaces")(
                        std::io::Error::other("the thread panicked"),
                    )
                })
            });
        (found, result)
    })
}

fn enter_and_read(namespace: &Path, buffer: &mut SmallFile) -> Option<String> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let file = rustix::fs::open(namespace, flags, Mode::empty()).ok()?;
    // Anything but a network namespace, such as the plain file that a pin was mounted on, is refused by the kernel.
    rustix::thread::move_into_link_name_space(
        std::os::fd::AsFd::as_fd(&file),
        Some(LinkNameSpaceType::Network),
    )
    .ok()?;
    buffer.read(Path::new(OF_THIS_THREAD)).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;

    #[test]
    fn namespaces_are_read_and_this_thread_stays_where_it_is() {
        let own = PathBuf::from("/proc/self/ns/net");
        let before = std::fs::read_link(&own).unwrap();
        let paths = [own.clone(), "/no/such".into(), "/proc/self/ns/uts".into()];
        let (found, result) = while_working(&paths, || 7);
        let found = found.unwrap();
        assert_eq!(result, 7);
        assert_eq!(found.len(), 3);
        assert!(found[1].is_none() && found[2].is_none());
        // Entering even one's own takes CAP_SYS_ADMIN.
        if rustix::process::geteuid().is_root() {
            assert!(found[0].as_ref().unwrap().contains("lo:"));
        }
        assert_eq!(std::fs::read_link(&own).unwrap(), before);
        assert!(while_working(&[], || ()).0.unwrap().is_empty());
    }
}
