//! UpdatePodSandboxResources: what the kubelet has changed a pod's cgroup to.
//!
//! The pod's cgroup is the kubelet's, which has changed it when it calls: nothing is left to apply. What it says goes on
//! the pod's record, where plugins and operators find it. RunPodSandbox puts the first values there.

use spec::{model::Resources, update::merged};

use crate::{
    Engine,
    error::{EngineError, SharedError},
    world::Pod,
};

impl Engine {
    /// Record a pod's resources and its overhead; zero and empty values, and `None`, leave what is.
    ///
    /// # Errors
    /// There is no such pod, or the record cannot be written.
    pub async fn update_pod(
        &self,
        id: &str,
        overhead: Option<Resources>,
        resources: Option<Resources>,
    ) -> Result<(), SharedError> {
        let node = &self.node;
        let id = node.find_pod(id)?.id.clone();
        let laid_over = |old: &Option<Resources>, new: Option<Resources>| match (old, new) {
            (Some(old), Some(new)) => Some(merged(old, &new)),
            (old, new) => new.or_else(|| old.clone()),
        };
        let changed = node
            .ledger
            .change_pod(&id, |pod| {
                let mut pod = Pod::clone(pod);
                pod.overhead = laid_over(&pod.overhead, overhead);
                pod.resources = laid_over(&pod.resources, resources);
                Some(pod)
            })
            .await?;
        match changed {
            Some(_) => Ok(()),
            None => Err(EngineError::PodNotFound(id.to_string()).into()),
        }
    }
}
