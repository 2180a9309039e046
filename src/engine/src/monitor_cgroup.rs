//! Where monitors stand: in cgroups that neither a restart of the server's service nor its limits reach.
//!
//! | driver | `node` | `pod` |
//! | --- | --- | --- |
//! | systemd | scope `pintle-monitor-POD.scope` in `system.slice` | the same in the pod's slice |
//! | cgroupfs | `monitors` below the default parent, shared | `pintle-monitor-POD` below the pod's parent |
//!
//! A scope goes with its last process. The shared cgroup stays, for other pods may come at any moment; one in a pod's cgroup
//! is removed with the pod.

use state::PodId;

use crate::{
    error::{EngineError, in_full},
    node::Node,
    units::unit_of,
};

/// Where a monitor's memory counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MonitorCgroup {
    /// Beside the pods.
    #[default]
    Node,
    /// In its pod.
    Pod,
}

/// Slice of monitors that do not count to their pods.
const NODE_SLICE: &str = "system.slice";
/// Name of the cgroup of such monitors, below the default parent.
const SHARED: &str = "monitors";

impl Node {
    /// The cgroup that is made for the monitor of one pod alone and has to be removed with it.
    pub(crate) fn own_monitor_cgroup(&self, pod: &PodId, parent: &str) -> Option<String> {
        (self.units.is_none() && self.config.monitor_cgroup == MonitorCgroup::Pod)
            .then(|| format!("{}/pintle-monitor-{pod}", parent.trim_end_matches('/')))
    }

    /// Move a pod's monitor to where it belongs. Its children follow.
    ///
    /// # Errors
    /// Those of systemd. On a node whose cgroups may not be changed freely the monitor stays in the server's cgroup, with a warning.
    pub(crate) async fn place_monitor(
        &self,
        pod: &PodId,
        pid: u32,
        parent: &str,
    ) -> Result<(), EngineError> {
        if let Some(units) = &self.units {
            let slice = match self.config.monitor_cgroup {
                MonitorCgroup::Node => NODE_SLICE,
                MonitorCgroup::Pod => unit_of(parent),
            };
            return units.adopt_monitor(pod, pid, slice).await;
        }
        let cgroup = self.own_monitor_cgroup(pod, parent).unwrap_or_else(|| {
            let parent = self.config.default_cgroup_parent.trim_end_matches('/');
            format!("{parent}/{SHARED}")
        });
        if let Err(error) = self.cgroups.adopt(&cgroup, pid).await {
            tracing::warn!(%pod, cgroup, error = in_full(&error), "its monitor stays in the server's cgroup");
        }
        Ok(())
    }
}
