//! Container Device Interface: devices by name, with all that a container needs to use them.
//!
//! Vendors put *CDI files* into directories of the node; each says, for the devices of one kind (`vendor.com/gpu`), what has
//! to be changed in a container's spec: environment, device nodes, mounts, hooks, groups. Clients ask for `vendor.com/gpu=0`,
//! in a request's `CDI_devices` or in an annotation `cdi.k8s.io/…`. The way of such a name through this module:
//!
//! 1. [`name`]: names out of a request, checked;
//! 2. [`file`](mod@file): one CDI file, JSON or YAML, of the versions 0.3.0 to 1.0.0, parsed and validated;
//! 3. [`registry`]: all files together: a later directory wins over an earlier one, and a device that two files of one
//!    directory define is nobody's;
//! 4. [`apply`]: the edits, laid over a spec.
//!
//! All of it is pure. The caller reads the files and looks at device nodes ([`DeviceNode::complete`]). Files are the
//! administrator's, but may be broken: a broken one is left out, is named in the errors of requests that find their device
//! nowhere, and harms nobody else. Sizes are bounded by [`file::MAX_BYTES`] and [`file::MAX_DEVICES`].

pub mod apply;
pub mod file;
pub mod name;
pub mod registry;

use serde::{Deserialize, Deserializer};

pub use file::{CdiFile, FileError};
pub use name::{DeviceName, requested};
pub use registry::{Registry, Unresolved};

use crate::input::DeviceKind;

/// What a device changes in a container's spec (CDI's `containerEdits`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Edits {
    /// `NAME=value`, which replaces a variable of this name.
    #[serde(default, deserialize_with = "or_default")]
    pub env: Vec<String>,
    /// Device nodes to make and allow.
    #[serde(default, deserialize_with = "or_default")]
    pub device_nodes: Vec<DeviceNode>,
    /// Mounts, which replace one at the same place.
    #[serde(default, deserialize_with = "or_default")]
    pub mounts: Vec<MountEdit>,
    /// Programs that the OCI runtime calls.
    #[serde(default, deserialize_with = "or_default")]
    pub hooks: Vec<HookEdit>,
    /// Groups that the process gets besides its own; 0 is ignored.
    #[serde(default, rename = "additionalGids", deserialize_with = "or_default")]
    pub additional_gids: Vec<u32>,
    /// Cache and memory bandwidth; the last one wins.
    #[serde(default)]
    pub intel_rdt: Option<RdtEdit>,
}

impl Edits {
    /// Whether nothing is changed.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Adds what comes later.
    fn append(&mut self, later: &Self) {
        self.env.extend_from_slice(&later.env);
        self.device_nodes.extend_from_slice(&later.device_nodes);
        self.mounts.extend_from_slice(&later.mounts);
        self.hooks.extend_from_slice(&later.hooks);
        self.additional_gids
            .extend_from_slice(&later.additional_gids);
        if later.intel_rdt.is_some() {
            self.intel_rdt.clone_from(&later.intel_rdt);
        }
    }
}

/// A device node (CDI's `deviceNodes`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DeviceNode {
    /// Path inside the container.
    pub path: String,
    /// Path on the node; empty for the same.
    #[serde(default, deserialize_with = "or_default")]
    pub host_path: String,
    /// `b`, `c`, `u` or `p`; empty means: as on the node.
    #[serde(default, rename = "type", deserialize_with = "or_default")]
    pub kind: String,
    /// Major number; `None` means: as on the node.
    #[serde(default)]
    pub major: Option<i64>,
    /// Minor number, likewise.
    #[serde(default)]
    pub minor: Option<i64>,
    /// Permission bits; `None` leaves them to the OCI runtime.
    #[serde(default)]
    pub file_mode: Option<u32>,
    /// Letters of `rwm`; empty means all of them.
    #[serde(default, deserialize_with = "or_default")]
    pub permissions: String,
    /// Owner; `None` means the container's user.
    #[serde(default)]
    pub uid: Option<u32>,
    /// Group; `None` means the container's group.
    #[serde(default)]
    pub gid: Option<u32>,
}

impl DeviceNode {
    /// The path to look at on the node, if the file does not say all that has to be known.
    pub fn to_look_at(&self) -> Option<&str> {
        let known = match self.kind.as_str() {
            "" => false,
            "p" => true,
            _ => self.major.unwrap_or(0) != 0,
        };
        (!known).then_some(if self.host_path.is_empty() {
            &self.path
        } else {
            &self.host_path
        })
    }

    /// Fills in what was found on the node.
    ///
    /// # Errors
    /// The file says that it is something else; in words that go after the path.
    pub fn complete(
        &mut self,
        found: DeviceKind,
        major: u32,
        minor: u32,
    ) -> Result<(), &'static str> {
        let (kind, is_one) = match found {
            DeviceKind::Block => ("b", self.kind == "b"),
            DeviceKind::Character => ("c", matches!(self.kind.as_str(), "c" | "u")),
        };
        if self.kind.is_empty() {
            kind.clone_into(&mut self.kind);
        } else if !is_one {
            return Err(match found {
                DeviceKind::Block => "is a block device, and the CDI file says something else",
                DeviceKind::Character => {
                    "is a character device, and the CDI file says something else"
                }
            });
        }
        (self.major, self.minor) = (Some(major.into()), Some(minor.into()));
        Ok(())
    }
}

/// A mount (CDI's `mounts`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MountEdit {
    /// Path on the node.
    pub host_path: String,
    /// Path inside the container.
    pub container_path: String,
    /// Mount options.
    #[serde(default, deserialize_with = "or_default")]
    pub options: Vec<String>,
    /// Type of the filesystem; empty means a bind mount.
    #[serde(default, rename = "type", deserialize_with = "or_default")]
    pub kind: String,
}

/// A hook (CDI's `hooks`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HookEdit {
    /// When it is called: one of [`file::HOOK_NAMES`].
    pub hook_name: String,
    /// The program on the node.
    pub path: String,
    /// Its arguments, its name first.
    #[serde(default, deserialize_with = "or_default")]
    pub args: Vec<String>,
    /// Its environment.
    #[serde(default, deserialize_with = "or_default")]
    pub env: Vec<String>,
    /// Seconds after which it has failed.
    #[serde(default)]
    pub timeout: Option<i64>,
}

/// Cache and memory bandwidth (CDI's `intelRdt`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RdtEdit {
    /// Class of service.
    #[serde(default, rename = "closID", deserialize_with = "or_default")]
    pub clos_id: String,
    /// Line of the schemata file for the cache.
    #[serde(default, rename = "l3CacheSchema", deserialize_with = "or_default")]
    pub l3_cache_schema: String,
    /// Line of the schemata file for memory bandwidth.
    #[serde(default, rename = "memBwSchema", deserialize_with = "or_default")]
    pub mem_bw_schema: String,
    /// Monitor the use of the cache.
    #[serde(default, rename = "enableCMT", deserialize_with = "or_default")]
    pub enable_cmt: bool,
    /// Monitor the use of memory bandwidth.
    #[serde(default, rename = "enableMBM", deserialize_with = "or_default")]
    pub enable_mbm: bool,
}

/// YAML's empty value is as good as an absent one.
fn or_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod test {
    use rstest::rstest;

    use super::*;

    fn node(kind: &str, major: Option<i64>, host_path: &str) -> DeviceNode {
        DeviceNode {
            path: "/dev/x".to_owned(),
            host_path: host_path.to_owned(),
            kind: kind.to_owned(),
            major,
            ..DeviceNode::default()
        }
    }

    #[rstest]
    #[case("", None, "", Some("/dev/x"))]
    #[case("", None, "/dev/y", Some("/dev/y"))]
    #[case("c", None, "", Some("/dev/x"))]
    #[case("c", Some(0), "", Some("/dev/x"))]
    #[case("c", Some(10), "", None)]
    #[case("", Some(10), "", Some("/dev/x"))]
    #[case("p", None, "", None)]
    fn what_the_file_does_not_say_is_looked_at(
        #[case] kind: &str,
        #[case] major: Option<i64>,
        #[case] host_path: &str,
        #[case] wanted: Option<&str>,
    ) {
        assert_eq!(node(kind, major, host_path).to_look_at(), wanted);
    }

    #[rstest]
    #[case("", DeviceKind::Block, Some("b"))]
    #[case("", DeviceKind::Character, Some("c"))]
    #[case("u", DeviceKind::Character, Some("u"))]
    #[case("c", DeviceKind::Block, None)]
    #[case("b", DeviceKind::Character, None)]
    fn what_is_found_completes_a_node(
        #[case] kind: &str,
        #[case] found: DeviceKind,
        #[case] wanted: Option<&str>,
    ) {
        let mut node = node(kind, None, "");
        let outcome = node.complete(found, 10, 200);
        assert_eq!(outcome.is_ok(), wanted.is_some());
        if let Some(wanted) = wanted {
            assert_eq!(
                (node.kind.as_str(), node.major, node.minor),
                (wanted, Some(10), Some(200))
            );
        }
    }
}
