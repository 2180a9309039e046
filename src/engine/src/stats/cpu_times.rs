//! The readings of CPU time that first rates begin at.

use std::{collections::HashSet, time::Instant};

use sys::small_file::SmallFile;

use super::{cgroup, has_cgroup, rates::Reading};
use crate::{
    node::Node,
    world::{Container, Pod},
};

impl Node {
    /// Reads the CPU time of everything that runs already, so that the first request can tell a rate.
    pub(crate) fn note_cpu_times(&self) {
        for cgroup in self.counted_cgroups() {
            self.note_cpu_time(&cgroup);
        }
    }

    /// The same of a pod that is about to be published. Its cgroup may have counted before: kubelet's pods keep theirs when
    /// their sandboxes are made anew.
    pub(crate) fn note_cpu_time_of_pod(&self, pod: &Pod) {
        for cgroup in self.counted_for_pod(pod) {
            self.note_cpu_time(&cgroup);
        }
    }

    /// The same of a container that is about to be published: its first rate begins here, without what the runtime used to
    /// make it.
    pub(crate) fn note_cpu_time_of_container(&self, container: &Container) {
        self.note_cpu_time(&container.cgroup);
    }

    fn note_cpu_time(&self, path: &str) {
        let read = |cgroup| cgroup::cpu_time(&cgroup, &mut SmallFile::default());
        let found = self.stats.files.of(path).ok().and_then(read);
        // What is not there yet has used nothing yet.
        let reading = found.or_else(|| {
            let at = Instant::now();
            let missing = self.cgroups.exists(path).is_ok_and(|exists| !exists);
            missing.then_some(Reading { at, usage_ns: 0 })
        });
        if let Some(reading) = reading {
            self.stats.rates.note(path, reading);
        }
    }

    /// The cgroups whose CPU time may be asked for.
    pub(super) fn counted_cgroups(&self) -> HashSet<String> {
        let world = self.ledger.world();
        let pods = world
            .pods
            .values()
            .flat_map(|pod| self.counted_for_pod(pod));
        let containers = world.containers.values().filter(|one| has_cgroup(one));
        let containers = containers.map(|container| container.cgroup.clone());
        pods.chain(containers).collect()
    }

    /// Those of a pod: which of them is its own depends on the other pods.
    fn counted_for_pod(&self, pod: &Pod) -> Vec<String> {
        if pod.released {
            return Vec::new();
        }
        let mut found = vec![pod.cgroup_parent.clone()];
        found.extend(self.pause_cgroup(pod));
        found
    }
}
