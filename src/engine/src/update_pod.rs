//! UpdatePodSandboxResources: what the kubelet has changed a pod's cgroup to.
//!
//! The pod's cgroup is the kubelet's, which has changed it when it calls: nothing is left to apply, unless it is a slice that
//! was made here because nobody else had made it. What the kubelet says goes on the pod's record, where plugins and operators
//! find it. RunPodSandbox puts the first values there.

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
        let change = |pod: &Pod| {
            let mut pod = Pod::clone(pod);
            pod.overhead = laid_over(&pod.overhead, overhead.clone());
            pod.resources = laid_over(&pod.resources, resources.clone());
            pod
        };
        // Where the slice is ours nobody else has changed it.
        node.limit_pod(&change(&*node.find_pod(id.as_str())?))
            .await?;
        let changed = node.ledger.change_pod(&id, |pod| Some(change(pod))).await?;
        match changed {
            Some(_) => Ok(()),
            None => Err(EngineError::PodNotFound(id.to_string()).into()),
        }
    }
}
