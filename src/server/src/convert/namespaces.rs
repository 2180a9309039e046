//! Namespace choices and the id ranges of user namespaces.

use api::cri;
use spec::model::{IdMapping, NamespaceMode, Namespaces, UserNamespace};

use super::{At, Refusal, each, enumeration, present};

/// Who asks: a pod has no container to join.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Asker {
    Pod,
    Container,
}

/// Absent options are all POD, as in CRI.
pub(super) fn namespaces(
    at: At<'_>,
    options: Option<cri::NamespaceOption>,
    asker: Asker,
) -> Result<Namespaces, Refusal> {
    let options = options.unwrap_or_default();
    let pid = at.field("pid");
    let pid = match enumeration(pid, options.pid)? {
        cri::NamespaceMode::Pod => NamespaceMode::Pod,
        cri::NamespaceMode::Container => NamespaceMode::Container,
        cri::NamespaceMode::Node => NamespaceMode::Node,
        cri::NamespaceMode::Target if asker == Asker::Container => {
            let target = at.field("target_id");
            NamespaceMode::Target(present(target, &options.target_id)?.to_owned())
        }
        cri::NamespaceMode::Target => {
            return Err(pid.refuse("TARGET is for containers, not for pods"));
        }
    };
    Ok(Namespaces {
        network: pod_or_node(at.field("network"), options.network)?,
        pid,
        ipc: pod_or_node(at.field("ipc"), options.ipc)?,
        user: user(at.field("userns_options"), options.userns_options)?,
    })
}

fn pod_or_node(at: At<'_>, mode: i32) -> Result<NamespaceMode, Refusal> {
    match enumeration(at, mode)? {
        cri::NamespaceMode::Pod => Ok(NamespaceMode::Pod),
        cri::NamespaceMode::Node => Ok(NamespaceMode::Node),
        cri::NamespaceMode::Container | cri::NamespaceMode::Target => {
            Err(at.refuse("must be POD or NODE"))
        }
    }
}

fn user(at: At<'_>, options: Option<cri::UserNamespace>) -> Result<Option<UserNamespace>, Refusal> {
    let Some(options) = options else {
        return Ok(None);
    };
    let mode = at.field("mode");
    match enumeration(mode, options.mode)? {
        cri::NamespaceMode::Node => {
            if !options.uids.is_empty() || !options.gids.is_empty() {
                return Err(at.refuse("the node's user namespace takes no mappings"));
            }
            Ok(None)
        }
        cri::NamespaceMode::Pod => {
            let uids = one_mapping(at.field("uids"), options.uids)?;
            let gids = one_mapping(at.field("gids"), options.gids)?;
            Ok(Some(UserNamespace { uids, gids }))
        }
        cri::NamespaceMode::Container | cri::NamespaceMode::Target => {
            Err(mode.refuse("must be POD or NODE"))
        }
    }
}

/// Kubelet gives every pod one range; root inside must be somebody outside.
fn one_mapping(at: At<'_>, given: Vec<cri::IdMapping>) -> Result<Vec<IdMapping>, Refusal> {
    if given.len() != 1 {
        return Err(at.refuse(format_args!(
            "exactly one mapping is supported, and {} are given",
            given.len()
        )));
    }
    let mappings = mappings(at, given)?;
    if mappings[0].container_id != 0 {
        return Err(at.refuse("the mapping must begin at container id 0"));
    }
    Ok(mappings)
}

/// Ranges of ids: not empty, and not beyond the last id.
pub(super) fn mappings(at: At<'_>, given: Vec<cri::IdMapping>) -> Result<Vec<IdMapping>, Refusal> {
    each(at, given, |at, range| {
        if range.length == 0 {
            return Err(at.field("length").refuse("must not be 0"));
        }
        let fits = |first: u32| first.checked_add(range.length).is_some();
        if !fits(range.host_id) || !fits(range.container_id) {
            return Err(at.refuse("the range goes beyond the largest id"));
        }
        Ok(IdMapping {
            host_id: range.host_id,
            container_id: range.container_id,
            length: range.length,
        })
    })
}
