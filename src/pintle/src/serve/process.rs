//! What the server changes about its own process before it has threads.

use std::io;

use rustix::process::{
    DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit, umask,
};

/// Adjusts limits, masks and memory. What the system refuses is left as it is, and said in the log.
///
/// Returns the limit of open files that we were started with: containers get that one, not ours.
pub(crate) fn prepare() -> Rlimit {
    sys::memory::limit_arenas();
    // Others must be able to read a pod's resolv.conf and to pass through a container's root, so not 027. What holds
    // secrets is made with its own mode.
    umask(rustix::fs::Mode::from_raw_mode(0o022));
    // A core dump would write registry credentials to the disk. This is our own process's mark; a limit would be
    // inherited by containers.
    if let Err(error) = set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        tracing::warn!(error = %io::Error::from(error), "core dumps cannot be turned off");
    }
    let started_with = getrlimit(Resource::Nofile);
    // Every pod costs a few descriptors; programs in containers may still depend on the low soft limit.
    let raised = Rlimit {
        current: started_with.maximum,
        maximum: started_with.maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(error = %io::Error::from(error), "the limit of open files cannot be raised");
    }
    started_with
}
