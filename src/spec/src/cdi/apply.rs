//! Edits, laid over a container's spec.

use oci_spec::runtime::{
    Hook, HookBuilder, Hooks, LinuxDevice, LinuxDeviceBuilder, LinuxDeviceCgroupBuilder,
    LinuxDeviceType, LinuxIntelRdt, Mount, MountBuilder, Spec,
};
use serde_json::json;

use super::{DeviceNode, Edits, HookEdit, MountEdit, RdtEdit};
use crate::error::SpecError;

/// Lays `edits` over a spec. Their device nodes are complete: see [`DeviceNode::to_look_at`].
///
/// In a user namespace nobody can make device nodes, so OCI runtimes mount the node's own, which they look for where the
/// container is to see them. A device that the node has elsewhere is mounted from there.
pub(crate) fn apply(
    spec: &mut Spec,
    edits: &Edits,
    in_user_namespace: bool,
) -> Result<(), SpecError> {
    let owner = add_to_process(spec, edits);
    let (elsewhere, nodes): (Vec<_>, Vec<_>) = edits
        .device_nodes
        .iter()
        .partition(|node| in_user_namespace && is_elsewhere(node));
    add_devices(spec, &nodes, owner)?;
    allow_devices(spec, &edits.device_nodes)?;
    let elsewhere: Vec<_> = elsewhere.into_iter().map(mounted).collect();
    add_mounts(spec, &elsewhere)?;
    add_mounts(spec, &edits.mounts)?;
    add_hooks(spec, &edits.hooks)?;
    if let Some(rdt) = &edits.intel_rdt
        && let Some(linux) = spec.linux_mut()
    {
        linux.set_intel_rdt(Some(intel_rdt(rdt)?));
    }
    Ok(())
}

/// Environment and groups. Returns who owns device nodes that name nobody: the process, unless it is root.
fn add_to_process(spec: &mut Spec, edits: &Edits) -> (Option<u32>, Option<u32>) {
    let Some(process) = spec.process_mut() else {
        return (None, None);
    };
    let env = process.env_mut().get_or_insert_default();
    for entry in &edits.env {
        let name = entry
            .split_once('=')
            .map_or(entry.as_str(), |(name, _)| name);
        let is_same = |other: &String| {
            other
                .strip_prefix(name)
                .is_some_and(|rest| rest.starts_with('='))
        };
        match env.iter_mut().find(|other| is_same(other)) {
            Some(known) => known.clone_from(entry),
            None => env.push(entry.clone()),
        }
    }
    let user = process.user_mut();
    let mut groups = user.additional_gids().clone().unwrap_or_default();
    for gid in edits.additional_gids.iter().filter(|gid| **gid != 0) {
        if !groups.contains(gid) {
            groups.push(*gid);
        }
    }
    user.set_additional_gids(Some(groups));
    let if_any = |id: u32| (id != 0).then_some(id);
    (if_any(user.uid()), if_any(user.gid()))
}

/// Whether the node has a device at another path than the container.
fn is_elsewhere(node: &DeviceNode) -> bool {
    !matches!(node.host_path.as_str(), "" | "/") && node.host_path != node.path && node.kind != "p"
}

/// The mount that shows a device of the node.
fn mounted(node: &DeviceNode) -> MountEdit {
    MountEdit {
        host_path: node.host_path.clone(),
        container_path: node.path.clone(),
        options: ["bind", "nosuid", "noexec"].map(str::to_owned).to_vec(),
        ..MountEdit::default()
    }
}

fn add_devices(
    spec: &mut Spec,
    nodes: &[&DeviceNode],
    owner: (Option<u32>, Option<u32>),
) -> Result<(), SpecError> {
    let Some(linux) = spec.linux_mut() else {
        return Ok(());
    };
    for node in nodes {
        let device = device(node, owner)?;
        let devices = linux.devices_mut().get_or_insert_default();
        devices.retain(|other| other.path() != device.path());
        devices.push(device);
    }
    Ok(())
}

/// Allows device nodes in the container's cgroup.
fn allow_devices(spec: &mut Spec, nodes: &[DeviceNode]) -> Result<(), SpecError> {
    let Some(linux) = spec.linux_mut() else {
        return Ok(());
    };
    for node in nodes.iter().filter(|node| node.kind != "p") {
        let access = if node.permissions.is_empty() {
            "rwm"
        } else {
            node.permissions.as_str()
        };
        let rule = LinuxDeviceCgroupBuilder::default()
            .allow(true)
            .typ(kind(node))
            .major(node.major.unwrap_or(0))
            .minor(node.minor.unwrap_or(0))
            .access(access)
            .build()?;
        linux
            .resources_mut()
            .get_or_insert_default()
            .devices_mut()
            .get_or_insert_default()
            .push(rule);
    }
    Ok(())
}

fn device(node: &DeviceNode, owner: (Option<u32>, Option<u32>)) -> Result<LinuxDevice, SpecError> {
    let mut device = LinuxDeviceBuilder::default()
        .path(node.path.as_str())
        .typ(kind(node))
        .major(node.major.unwrap_or(0))
        .minor(node.minor.unwrap_or(0))
        .build()?;
    device
        .set_file_mode(node.file_mode.map(|mode| mode & 0o7777))
        .set_uid(node.uid.or(owner.0))
        .set_gid(node.gid.or(owner.1));
    Ok(device)
}

fn kind(node: &DeviceNode) -> LinuxDeviceType {
    match node.kind.as_str() {
        "b" => LinuxDeviceType::B,
        "p" => LinuxDeviceType::P,
        "u" => LinuxDeviceType::U,
        _ => LinuxDeviceType::C,
    }
}

fn add_mounts(spec: &mut Spec, edits: &[MountEdit]) -> Result<(), SpecError> {
    if edits.is_empty() {
        return Ok(());
    }
    let mounts = spec.mounts_mut().get_or_insert_default();
    for edit in edits {
        let mount = mount(edit)?;
        mounts.retain(|other| other.destination() != mount.destination());
        mounts.push(mount);
    }
    // As for all mounts: nothing is hidden by what is mounted later.
    mounts.sort_by_key(|mount| mount.destination().components().count());
    Ok(())
}

fn mount(edit: &MountEdit) -> Result<Mount, SpecError> {
    let mut options = edit.options.clone();
    let is_bind = matches!(edit.kind.as_str(), "" | "bind" | "none");
    if is_bind && !options.iter().any(|word| word == "bind" || word == "rbind") {
        options.push("rbind".to_owned());
    }
    Ok(MountBuilder::default()
        .destination(edit.container_path.as_str())
        .source(edit.host_path.as_str())
        .typ(if edit.kind.is_empty() {
            "bind"
        } else {
            edit.kind.as_str()
        })
        .options(options)
        .build()?)
}

fn add_hooks(spec: &mut Spec, edits: &[HookEdit]) -> Result<(), SpecError> {
    if edits.is_empty() {
        return Ok(());
    }
    let mut hooks = spec.hooks().clone().unwrap_or_default();
    for edit in edits {
        let hook = hook(edit)?;
        list(&mut hooks, &edit.hook_name)
            .get_or_insert_default()
            .push(hook);
    }
    spec.set_hooks(Some(hooks));
    Ok(())
}

/// `prestart` is deprecated, and CDI files in the field use it.
fn list<'a>(hooks: &'a mut Hooks, name: &str) -> &'a mut Option<Vec<Hook>> {
    match name {
        "createRuntime" => hooks.create_runtime_mut(),
        "createContainer" => hooks.create_container_mut(),
        "startContainer" => hooks.start_container_mut(),
        "poststart" => hooks.poststart_mut(),
        "poststop" => hooks.poststop_mut(),
        _ => hooks.prestart_mut(),
    }
}

fn hook(edit: &HookEdit) -> Result<Hook, SpecError> {
    let mut hook = HookBuilder::default().path(edit.path.as_str()).build()?;
    hook.set_args((!edit.args.is_empty()).then(|| edit.args.clone()))
        .set_env((!edit.env.is_empty()).then(|| edit.env.clone()))
        .set_timeout(edit.timeout);
    Ok(hook)
}

/// By its JSON: two of the fields that runtimes of today know are deprecated for others that they do not.
fn intel_rdt(edit: &RdtEdit) -> Result<LinuxIntelRdt, SpecError> {
    let mut value = json!({});
    for (name, text) in [
        ("closID", &edit.clos_id),
        ("l3CacheSchema", &edit.l3_cache_schema),
        ("memBwSchema", &edit.mem_bw_schema),
    ] {
        if !text.is_empty() {
            value[name] = json!(text);
        }
    }
    // As oci_spec calls them; whoever writes the bundle gives them the names that runtimes read.
    for (name, flag) in [
        ("enableCmt", edit.enable_cmt),
        ("enableMbm", edit.enable_mbm),
    ] {
        if flag {
            value[name] = json!(true);
        }
    }
    serde_json::from_value(value)
        .map_err(|error| SpecError::Oci(oci_spec::OciSpecError::SerDe(error)))
}

#[cfg(test)]
mod test {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;

    fn node(host_path: &str, path: &str) -> DeviceNode {
        DeviceNode {
            host_path: host_path.to_owned(),
            path: path.to_owned(),
            kind: "c".to_owned(),
            major: Some(195),
            minor: Some(1),
            ..DeviceNode::default()
        }
    }

    /// Paths of the devices that are made, sources of the mounts, and how many devices are allowed besides those of a
    /// default spec.
    fn applied(
        nodes: Vec<DeviceNode>,
        in_user_namespace: bool,
    ) -> (Vec<String>, Vec<String>, usize) {
        let edits = Edits {
            device_nodes: nodes,
            ..Edits::default()
        };
        let mut spec = Spec::default();
        spec.set_mounts(None);
        let rules = |spec: &Spec| {
            let resources = spec.linux().as_ref().unwrap().resources().clone();
            resources
                .and_then(|some| some.devices().clone())
                .map_or(0, |some| some.len())
        };
        let before = rules(&spec);
        apply(&mut spec, &edits, in_user_namespace).unwrap();
        let devices = spec.linux().as_ref().unwrap().devices().clone();
        let text = |path: &std::path::Path| path.to_string_lossy().into_owned();
        (
            devices
                .iter()
                .flatten()
                .map(|device| text(device.path()))
                .collect(),
            spec.mounts()
                .iter()
                .flatten()
                .filter_map(|mount| mount.source().as_deref().map(text))
                .collect(),
            rules(&spec) - before,
        )
    }

    #[test]
    fn a_device_that_is_elsewhere_on_the_node_is_mounted_in_a_user_namespace() {
        let nodes = || {
            vec![
                node("/run/driver/dev/gpu0", "/dev/gpu0"),
                node("", "/dev/gpu1"),
            ]
        };
        let made = |names: &[&str]| -> Vec<String> {
            names.iter().map(|name| (*name).to_owned()).collect()
        };
        assert_eq!(
            applied(nodes(), false),
            (made(&["/dev/gpu0", "/dev/gpu1"]), Vec::new(), 2)
        );
        assert_eq!(
            applied(nodes(), true),
            (made(&["/dev/gpu1"]), made(&["/run/driver/dev/gpu0"]), 2)
        );
    }
}
