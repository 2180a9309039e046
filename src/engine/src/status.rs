//! What the node can do at the moment, for CRI's Status.

use crate::{Engine, node::Handler, selinux::Policy};

/// Why something is not ready: one word for machines, a sentence for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotReady {
    /// One CamelCase word.
    pub reason: String,
    /// What is wrong and what to do.
    pub message: String,
}

/// A handler and what its runtime can do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HandlerStatus {
    /// Empty for the default handler, which is listed under its name too.
    pub name: String,
    /// Mounts can be made read-only with all that is below them.
    pub recursive_read_only_mounts: bool,
    /// Pods can have user namespaces.
    pub user_namespaces: bool,
}

/// The node's state.
#[derive(Clone, Debug)]
pub struct NodeStatus {
    /// Pods can be run.
    pub runtime: Result<(), NotReady>,
    /// Pods can have a network.
    pub network: Result<(), NotReady>,
    /// Handlers, the default first under an empty name.
    pub handlers: Vec<HandlerStatus>,
    /// Pods of the default handler can have a user namespace and the node's network.
    pub user_namespaces_host_network: bool,
    /// What this node cannot give although it is often asked for.
    pub warnings: Vec<String>,
    /// How SELinux is used; `None` where it is not.
    pub selinux: Option<Policy>,
    /// Undo records that are still to be carried out.
    pub deferred_undos: usize,
}

impl Engine {
    /// The node's state. Never waits.
    pub fn node_status(&self) -> NodeStatus {
        let node = &self.node;
        let status = |name: &str, handler: &Handler| HandlerStatus {
            name: name.to_owned(),
            recursive_read_only_mounts: handler.features.recursive_readonly_mounts,
            // A promise that is not kept would start pods as the node's root.
            user_namespaces: node.user_namespaces(handler).is_ok(),
        };
        let known = node.handlers.load();
        let default = known
            .iter()
            .find(|handler| handler.name == node.config.default_handler);
        let mut handlers: Vec<_> = default
            .into_iter()
            .map(|handler| status("", handler))
            .collect();
        handlers.extend(known.iter().map(|handler| status(&handler.name, handler)));
        let user_namespaces_host_network =
            default.is_some_and(|handler| node.user_namespaces(handler).is_ok());
        let runtime = default.map(drop).ok_or_else(|| NotReady {
            reason: "NoDefaultRuntime".to_owned(),
            message: format!(
                "the default runtime {:?} is not installed",
                node.config.default_handler
            ),
        });
        let network = node.network.status().map_err(|why| NotReady {
            reason: why.reason.to_owned(),
            message: why.message,
        });
        let mut warnings = Vec::new();
        if node.facts.oom_score_adj_min > -1000 {
            warnings.push(format!(
                "CAP_SYS_RESOURCE is missing: oom_score_adj below {} is raised to that, and process limits cannot be raised",
                node.facts.oom_score_adj_min
            ));
        }
        if let Some(why) = &node.no_user_namespaces {
            warnings.push(format!("pods cannot have user namespaces: {why}"));
        }
        warnings.extend(node.selinux_warnings());
        warnings.extend(node.set_aside.warning());
        NodeStatus {
            runtime,
            network,
            handlers,
            user_namespaces_host_network,
            warnings,
            deferred_undos: node.deferred.count(),
            selinux: node
                .selinux
                .as_ref()
                .ok()
                .map(|selinux| selinux.policy.clone()),
        }
    }

    /// Whether cgroups are made by systemd.
    pub fn systemd_cgroup(&self) -> bool {
        self.node.config.systemd_cgroup
    }
}
