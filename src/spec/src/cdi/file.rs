//! One CDI file: parsed, and held against the rules of CDI.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::name::{check_device, check_kind};
use super::{DeviceNode, Edits, HookEdit, MountEdit, RdtEdit, or_default};

/// Largest file that is read. A vendor's file for sixteen cards has 200 KiB.
pub const MAX_BYTES: usize = 4 << 20;
/// Most devices of one file.
pub const MAX_DEVICES: usize = 16_384;

/// When hooks are called.
pub const HOOK_NAMES: [&str; 6] = [
    "prestart",
    "createRuntime",
    "createContainer",
    "startContainer",
    "poststart",
    "poststop",
];

/// The versions that are understood, oldest first.
const VERSIONS: [&str; 7] = [
    "0.3.0", "0.4.0", "0.5.0", "0.6.0", "0.7.0", "0.8.0", "1.0.0",
];

/// A CDI file that is in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CdiFile {
    /// Where it is.
    pub path: PathBuf,
    /// `vendor/class` of its devices.
    pub kind: String,
    /// Its devices by name, in the order of the file.
    pub devices: Vec<(String, Edits)>,
    /// What is edited once, whichever of the devices are asked for.
    pub edits: Edits,
}

/// Why a CDI file is left out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct FileError {
    /// Where it is.
    pub path: PathBuf,
    /// Line and column, from 1, where the parser could tell.
    pub at: Option<(u64, u64)>,
    /// What is wrong with it.
    pub problem: String,
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path.display())?;
        if let Some((line, column)) = self.at {
            write!(f, ":{line}:{column}")?;
        }
        write!(f, ": {}", self.problem)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Written {
    cdi_version: String,
    kind: String,
    #[serde(default, deserialize_with = "or_default")]
    annotations: BTreeMap<String, String>,
    #[serde(default, deserialize_with = "or_default")]
    devices: Vec<WrittenDevice>,
    #[serde(default, deserialize_with = "or_default")]
    container_edits: Edits,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct WrittenDevice {
    name: String,
    #[serde(default, deserialize_with = "or_default")]
    annotations: BTreeMap<String, String>,
    #[serde(default, deserialize_with = "or_default")]
    container_edits: Edits,
}

/// Whether a file of this name is a CDI file.
pub fn is_cdi_file(path: &Path) -> bool {
    path.extension()
        .is_some_and(|extension| extension == "json" || extension == "yaml")
}

/// Parses and checks a file.
pub fn parse(path: &Path, bytes: &[u8]) -> Result<CdiFile, FileError> {
    let error = |at, problem: String| FileError {
        path: path.to_owned(),
        at,
        problem,
    };
    if bytes.len() > MAX_BYTES {
        return Err(error(None, format!("is larger than {MAX_BYTES} bytes")));
    }
    let written: Written = if path
        .extension()
        .is_some_and(|extension| extension == "json")
    {
        serde_json::from_slice(bytes).map_err(|source| {
            let at = (source.line() as u64, source.column() as u64);
            error((at.0 > 0).then_some(at), without_place(&source.to_string()))
        })?
    } else {
        from_yaml(bytes).map_err(|(at, problem)| error(at, problem))?
    };
    check(&written).map_err(|problem| error(None, problem))?;
    Ok(CdiFile {
        path: path.to_owned(),
        kind: written.kind,
        devices: written
            .devices
            .into_iter()
            .map(|device| (device.name, device.container_edits))
            .collect(),
        edits: written.container_edits,
    })
}

type Place = Option<(u64, u64)>;

fn from_yaml(bytes: &[u8]) -> Result<Written, (Place, String)> {
    let text = std::str::from_utf8(bytes).map_err(|_| (None, "is not UTF-8".to_owned()))?;
    let options = serde_saphyr::options! {
        // Modes are written as 0660, as YAML 1.1 has it.
        legacy_octal_numbers: true,
        with_snippet: false,
        emit_comments: false,
    };
    serde_saphyr::from_str_with_options(text, options).map_err(|source| {
        let at = source
            .location()
            .map(|place| (place.line(), place.column()))
            .filter(|(line, _)| *line > 0);
        let words = source.without_snippet().render();
        (at, without_place(&words))
    })
}

/// A parser's message without its own words for the place, which stands in front already.
fn without_place(message: &str) -> String {
    let end = message
        .rfind(" at line ")
        .or_else(|| message.rfind(": line "))
        .unwrap_or(message.len());
    message.chars().take(end.min(1024)).collect()
}

fn check(written: &Written) -> Result<(), String> {
    let Some(version) = VERSIONS
        .iter()
        .position(|known| *known == written.cdi_version)
    else {
        return Err(format!(
            "cdiVersion: {:?} is not one of {}",
            written.cdi_version,
            VERSIONS.join(", ")
        ));
    };
    check_kind(&written.kind).map_err(|problem| format!("kind: {:?} {problem}", written.kind))?;
    if written.devices.is_empty() {
        return Err("devices: there are none".to_owned());
    }
    if written.devices.len() > MAX_DEVICES {
        return Err(format!(
            "devices: there are {}, and at most {MAX_DEVICES} are taken",
            written.devices.len()
        ));
    }
    // Whoever writes a version promises to use no more than it has: an older reader would do half of it.
    let needs = |place: &str, least: &str| {
        let known = VERSIONS.iter().position(|known| *known == least);
        if known.is_some_and(|known| known > version) {
            return Err(format!(
                "{place}: needs cdiVersion {least} or later, and the file says {}",
                written.cdi_version
            ));
        }
        Ok(())
    };
    if !written.annotations.is_empty() {
        needs("annotations", "0.6.0")?;
    }
    if written
        .kind
        .split_once('/')
        .is_some_and(|(_, class)| class.contains('.'))
    {
        needs("kind: a class with a dot", "0.6.0")?;
    }
    check_edits("containerEdits", &written.container_edits, &needs)?;
    let mut names = BTreeSet::new();
    for (index, device) in written.devices.iter().enumerate() {
        let place = format!("devices[{index}]");
        let name = &device.name;
        check_device(name).map_err(|problem| format!("{place}.name: {name:?} {problem}"))?;
        if !names.insert(name) {
            return Err(format!("{place}.name: {name:?} stands here twice"));
        }
        if name.starts_with(|first: char| first.is_ascii_digit()) {
            needs(&format!("{place}.name: a digit in front"), "0.5.0")?;
        }
        if !device.annotations.is_empty() {
            needs(&format!("{place}.annotations"), "0.6.0")?;
        }
        if device.container_edits.is_empty() {
            return Err(format!(
                "{place}.containerEdits: is empty, so {name:?} is no device"
            ));
        }
        check_edits(
            &format!("{place}.containerEdits"),
            &device.container_edits,
            &needs,
        )?;
    }
    Ok(())
}

type Needs<'a> = dyn Fn(&str, &str) -> Result<(), String> + 'a;

fn check_edits(place: &str, edits: &Edits, needs: &Needs<'_>) -> Result<(), String> {
    for (index, entry) in edits.env.iter().enumerate() {
        check_variable(&format!("{place}.env[{index}]"), entry)?;
    }
    for (index, node) in edits.device_nodes.iter().enumerate() {
        check_node(&format!("{place}.deviceNodes[{index}]"), node, needs)?;
    }
    for (index, mount) in edits.mounts.iter().enumerate() {
        check_mount(&format!("{place}.mounts[{index}]"), mount, needs)?;
    }
    for (index, hook) in edits.hooks.iter().enumerate() {
        check_hook(&format!("{place}.hooks[{index}]"), hook)?;
    }
    if !edits.additional_gids.is_empty() {
        needs(&format!("{place}.additionalGids"), "0.7.0")?;
    }
    if let Some(rdt) = &edits.intel_rdt {
        needs(&format!("{place}.intelRdt"), "0.7.0")?;
        check_rdt(&format!("{place}.intelRdt"), rdt)?;
    }
    Ok(())
}

fn check_variable(place: &str, entry: &str) -> Result<(), String> {
    if entry.contains('\0')
        || entry
            .split_once('=')
            .is_none_or(|(name, _)| name.is_empty())
    {
        return Err(format!("{place}: {:?} is not NAME=value", clipped(entry)));
    }
    Ok(())
}

fn check_node(place: &str, node: &DeviceNode, needs: &Needs<'_>) -> Result<(), String> {
    check_path(&format!("{place}.path"), &node.path)?;
    if !node.host_path.is_empty() {
        check_path(&format!("{place}.hostPath"), &node.host_path)?;
        needs(&format!("{place}.hostPath"), "0.5.0")?;
    }
    if !matches!(node.kind.as_str(), "" | "b" | "c" | "u" | "p") {
        return Err(format!(
            "{place}.type: {:?} is not one of b, c, u and p",
            clipped(&node.kind)
        ));
    }
    if let Some(letter) = node
        .permissions
        .chars()
        .find(|letter| !"rwm".contains(*letter))
    {
        return Err(format!(
            "{place}.permissions: {letter:?} is not one of the letters r, w and m"
        ));
    }
    for (name, number) in [("major", node.major), ("minor", node.minor)] {
        if number.is_some_and(|number| u32::try_from(number).is_err()) {
            return Err(format!("{place}.{name}: is not in 0..=4294967295"));
        }
    }
    Ok(())
}

fn check_mount(place: &str, mount: &MountEdit, needs: &Needs<'_>) -> Result<(), String> {
    if mount.host_path.is_empty() || mount.host_path.contains('\0') {
        return Err(format!("{place}.hostPath: must be given"));
    }
    check_path(&format!("{place}.containerPath"), &mount.container_path)?;
    if mount.container_path.trim_end_matches('/').is_empty() {
        return Err(format!(
            "{place}.containerPath: a mount cannot replace the container's root"
        ));
    }
    if !mount.kind.is_empty() {
        needs(&format!("{place}.type"), "0.4.0")?;
    }
    Ok(())
}

fn check_hook(place: &str, hook: &HookEdit) -> Result<(), String> {
    if !HOOK_NAMES.contains(&hook.hook_name.as_str()) {
        return Err(format!(
            "{place}.hookName: {:?} is not one of {}",
            clipped(&hook.hook_name),
            HOOK_NAMES.join(", ")
        ));
    }
    check_path(&format!("{place}.path"), &hook.path)?;
    for (index, entry) in hook.env.iter().enumerate() {
        check_variable(&format!("{place}.env[{index}]"), entry)?;
    }
    if hook.timeout.is_some_and(|seconds| seconds < 0) {
        return Err(format!("{place}.timeout: is negative"));
    }
    Ok(())
}

fn check_rdt(place: &str, rdt: &RdtEdit) -> Result<(), String> {
    let id = rdt.clos_id.as_str();
    if matches!(id, "." | "..") || id.contains(['/', '\n', '\0']) || id.len() >= 4096 {
        return Err(format!(
            "{place}.closID: {:?} is not the name of a class",
            clipped(id)
        ));
    }
    Ok(())
}

fn check_path(place: &str, path: &str) -> Result<(), String> {
    if !path.starts_with('/') || path.contains('\0') {
        return Err(format!(
            "{place}: {:?} is not an absolute path",
            clipped(path)
        ));
    }
    Ok(())
}

fn clipped(text: &str) -> String {
    text.chars().take(128).collect()
}

#[cfg(test)]
mod tests;
