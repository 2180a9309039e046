//! Edits, laid over a container's spec.

use oci_spec::runtime::{
    Hook, HookBuilder, Hooks, LinuxDevice, LinuxDeviceBuilder, LinuxDeviceCgroupBuilder,
    LinuxDeviceType, LinuxIntelRdt, Mount, MountBuilder, Spec,
};
use serde_json::json;

use super::{DeviceNode, Edits, HookEdit, MountEdit, RdtEdit};
use crate::error::SpecError;

/// Lays `edits` over a spec. Their device nodes are complete: see [`DeviceNode::to_look_at`].
pub(crate) fn apply(spec: &mut Spec, edits: &Edits) -> Result<(), SpecError> {
    let owner = add_to_process(spec, edits);
    add_devices(spec, &edits.device_nodes, owner)?;
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

fn add_devices(
    spec: &mut Spec,
    nodes: &[DeviceNode],
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
        if node.kind == "p" {
            continue;
        }
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
