//! Classes of block I/O and of cache and memory bandwidth (RDT), which pods ask for by annotation.
//!
//! A container's class is, in this order: what the client set on the container (`io.kubernetes.cri.blockio-class`), what its
//! pod says of this container (`blockio.resources.beta.kubernetes.io/container.NAME`), what its pod says of all
//! (`blockio.resources.beta.kubernetes.io/pod`); `rdt` instead of `blockio` for RDT. Nobody is in no class.
//!
//! Classes of block I/O are defined in a YAML file, in the form that users of other CRI servers have:
//!
//! ```yaml
//! Classes:
//!   slow:
//!     - Weight: 80                      # of all devices
//!     - Devices: [/dev/sd*, /dev/nvme0n1]
//!       ThrottleReadBps: 60M
//!       ThrottleWriteIOPS: 1k
//! ```
//!
//! Classes of RDT are directories of the kernel's resctrl file system, made by the administrator.

use std::collections::BTreeMap;

use oci_spec::runtime::{
    LinuxBlockIo, LinuxBlockIoBuilder, LinuxThrottleDevice, LinuxThrottleDeviceBuilder,
    LinuxWeightDevice, LinuxWeightDeviceBuilder,
};
use serde::Deserialize;

use crate::error::SpecError;

/// Largest file of classes that is read.
pub const MAX_BYTES: usize = 1 << 20;
/// Longest name of a class.
const NAME_MAX_BYTES: usize = 255;

/// What classes are of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the two things")]
pub enum ClassKind {
    BlockIo,
    Rdt,
}

impl ClassKind {
    fn word(self) -> &'static str {
        match self {
            Self::BlockIo => "blockio",
            Self::Rdt => "rdt",
        }
    }
}

/// A class and the annotation that asks for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClassName {
    /// Its name.
    pub name: String,
    /// The annotation, as the request has it.
    pub field: String,
}

/// The class that a container is to be in.
pub fn requested(
    kind: ClassKind,
    container: &str,
    of_container: &BTreeMap<String, String>,
    of_pod: &BTreeMap<String, String>,
) -> Result<Option<ClassName>, SpecError> {
    let word = kind.word();
    let own = format!("io.kubernetes.cri.{word}-class");
    let for_one = format!("{word}.resources.beta.kubernetes.io/container.{container}");
    let for_all = format!("{word}.resources.beta.kubernetes.io/pod");
    let found = of_container
        .get_key_value(&own)
        .or_else(|| of_pod.get_key_value(&for_one))
        .or_else(|| of_pod.get_key_value(&for_all));
    let Some((key, name)) = found.filter(|(_, name)| !name.is_empty()) else {
        return Ok(None);
    };
    let field = format!("annotations[{key}]");
    let is_name = name.len() <= NAME_MAX_BYTES
        && name != "."
        && name != ".."
        && !name.contains(['/', '\n', '\0']);
    if !is_name {
        return Err(SpecError::Class {
            field,
            name: name.chars().take(128).collect(),
            problem: "is not the name of a class".to_owned(),
        });
    }
    Ok(Some(ClassName {
        name: name.clone(),
        field,
    }))
}

/// One entry of a class of block I/O.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Parameters {
    /// Paths with wildcards; none means all devices, which only a weight can be given for.
    #[serde(default, rename = "Devices", alias = "devices")]
    pub devices: Vec<String>,
    #[serde(default, rename = "ThrottleReadBps", alias = "throttleReadBps")]
    read_bps: Option<Quantity>,
    #[serde(default, rename = "ThrottleWriteBps", alias = "throttleWriteBps")]
    write_bps: Option<Quantity>,
    #[serde(default, rename = "ThrottleReadIOPS", alias = "throttleReadIOPS")]
    read_iops: Option<Quantity>,
    #[serde(default, rename = "ThrottleWriteIOPS", alias = "throttleWriteIOPS")]
    write_iops: Option<Quantity>,
    #[serde(default, rename = "Weight", alias = "weight")]
    weight: Option<Quantity>,
}

/// A number with an optional unit, such as `60M` or `1Gi`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Written")]
struct Quantity(u64);

#[derive(Deserialize)]
#[serde(untagged)]
enum Written {
    Number(u64),
    Text(String),
}

impl TryFrom<Written> for Quantity {
    type Error = String;

    fn try_from(written: Written) -> Result<Self, String> {
        let text = match written {
            Written::Number(number) => return Ok(Self(number)),
            Written::Text(text) => text,
        };
        let end = text
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(text.len());
        let factor: Option<u64> = match &text[end..] {
            "" => Some(1),
            "k" | "K" => Some(1_000),
            "M" => Some(1_000_000),
            "G" => Some(1_000_000_000),
            "T" => Some(1_000_000_000_000),
            "Ki" => Some(1 << 10),
            "Mi" => Some(1 << 20),
            "Gi" => Some(1 << 30),
            "Ti" => Some(1 << 40),
            _ => None,
        };
        let number = text[..end].parse::<u64>().ok();
        factor
            .zip(number)
            .and_then(|(factor, number)| number.checked_mul(factor))
            .map(Self)
            .ok_or_else(|| format!("{text:?} is not a number such as 1000, 60M or 1Gi"))
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(rename = "Classes", alias = "classes")]
    classes: BTreeMap<String, Vec<Parameters>>,
}

/// The classes that a file defines.
///
/// # Errors
/// What is wrong with it, with line and column, in words that go after the file's path.
pub fn parse(bytes: &[u8]) -> Result<BTreeMap<String, Vec<Parameters>>, String> {
    if bytes.len() > MAX_BYTES {
        return Err(format!("is larger than {MAX_BYTES} bytes"));
    }
    let text = std::str::from_utf8(bytes).map_err(|_| "is not UTF-8".to_owned())?;
    let options = serde_saphyr::options! {
        with_snippet: false,
        emit_comments: false,
    };
    let file: File = serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        error
            .without_snippet()
            .render()
            .chars()
            .take(1024)
            .collect::<String>()
    })?;
    for (name, entries) in &file.classes {
        for (index, entry) in entries.iter().enumerate() {
            let place = format!("Classes.{name}[{index}]");
            let throttles = [
                entry.read_bps,
                entry.write_bps,
                entry.read_iops,
                entry.write_iops,
            ];
            if entry.devices.is_empty() && throttles.iter().any(Option::is_some) {
                return Err(format!("{place}: what is throttled needs Devices"));
            }
            if let Some(device) = entry.devices.iter().find(|path| !path.starts_with('/')) {
                return Err(format!(
                    "{place}.Devices: {device:?} is not an absolute path"
                ));
            }
            if entry
                .weight
                .is_some_and(|weight| !(10..=1000).contains(&weight.0))
            {
                return Err(format!("{place}.Weight: is not in 10..=1000"));
            }
        }
    }
    Ok(file.classes)
}

/// A class in the words of the OCI runtime. Each entry comes with the devices (major, minor) that its paths mean.
pub fn block_io(entries: &[(Parameters, Vec<(u32, u32)>)]) -> Result<LinuxBlockIo, SpecError> {
    let mut block_io = LinuxBlockIoBuilder::default().build()?;
    let (mut weights, mut throttles): (Vec<LinuxWeightDevice>, [Vec<LinuxThrottleDevice>; 4]) =
        Default::default();
    for (entry, devices) in entries {
        let weight = entry.weight.and_then(|weight| u16::try_from(weight.0).ok());
        if entry.devices.is_empty() {
            if weight.is_some() {
                block_io.set_weight(weight);
            }
            continue;
        }
        for (major, minor) in devices {
            let (major, minor) = (i64::from(*major), i64::from(*minor));
            if let Some(weight) = weight {
                // A later entry of a class wins.
                weights.retain(|known| (known.major(), known.minor()) != (major, minor));
                weights.push(
                    LinuxWeightDeviceBuilder::default()
                        .major(major)
                        .minor(minor)
                        .weight(weight)
                        .build()?,
                );
            }
            let rates = [
                entry.read_bps,
                entry.write_bps,
                entry.read_iops,
                entry.write_iops,
            ];
            for (list, rate) in throttles.iter_mut().zip(rates) {
                if let Some(rate) = rate {
                    list.retain(|known| (known.major(), known.minor()) != (major, minor));
                    list.push(
                        LinuxThrottleDeviceBuilder::default()
                            .major(major)
                            .minor(minor)
                            .rate(rate.0)
                            .build()?,
                    );
                }
            }
        }
    }
    let [read_bps, write_bps, read_iops, write_iops] =
        throttles.map(|list| (!list.is_empty()).then_some(list));
    block_io
        .set_weight_device((!weights.is_empty()).then_some(weights))
        .set_throttle_read_bps_device(read_bps)
        .set_throttle_write_bps_device(write_bps)
        .set_throttle_read_iops_device(read_iops)
        .set_throttle_write_iops_device(write_iops);
    Ok(block_io)
}

/// Whether a name matches a pattern of `*` and `?`. Linear in both: the pattern is the administrator's, the names are not.
pub fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name) = (pattern.as_bytes(), name.as_bytes());
    let (mut p, mut n) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(&byte) if byte == b'?' || byte == name[n] => {
                p += 1;
                n += 1;
            }
            _ => match star {
                // Let the last star take one more.
                Some((at, taken)) => {
                    star = Some((at, taken + 1));
                    p = at + 1;
                    n = taken + 1;
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod test {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use rstest::rstest;
    use serde_json::json;

    use super::*;

    fn map(entries: &[(&str, &str)]) -> BTreeMap<String, String> {
        entries
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect()
    }

    #[rstest]
    #[case(&[], &[], None)]
    #[case(&[], &[("blockio.resources.beta.kubernetes.io/pod", "all")], Some("all"))]
    #[case(&[], &[("blockio.resources.beta.kubernetes.io/pod", "all"), ("blockio.resources.beta.kubernetes.io/container.app", "one")], Some("one"))]
    #[case(&[], &[("blockio.resources.beta.kubernetes.io/container.other", "one")], None)]
    #[case(&[("io.kubernetes.cri.blockio-class", "own")], &[("blockio.resources.beta.kubernetes.io/container.app", "one")], Some("own"))]
    #[case(&[("io.kubernetes.cri.blockio-class", "")], &[("blockio.resources.beta.kubernetes.io/pod", "all")], None)]
    #[case(&[], &[("rdt.resources.beta.kubernetes.io/pod", "all")], None)]
    fn the_nearest_annotation_wins(
        #[case] container: &[(&str, &str)],
        #[case] pod: &[(&str, &str)],
        #[case] wanted: Option<&str>,
    ) {
        let found = requested(ClassKind::BlockIo, "app", &map(container), &map(pod)).unwrap();
        assert_eq!(found.as_ref().map(|class| class.name.as_str()), wanted);
    }

    #[rstest]
    #[case("..")]
    #[case("a/b")]
    #[case("a\nb")]
    fn a_class_is_no_path(#[case] name: &str) {
        let pod = map(&[("rdt.resources.beta.kubernetes.io/pod", name)]);
        let error = requested(ClassKind::Rdt, "app", &BTreeMap::new(), &pod).unwrap_err();
        let words = error.to_string();
        assert!(
            words.starts_with("annotations[rdt.resources.beta.kubernetes.io/pod]: "),
            "{words}"
        );
    }

    #[test]
    fn a_class_becomes_block_io() {
        let text = "Classes:\n  slow:\n  - Weight: 80\n  - Devices: [/dev/sd*]\n    ThrottleReadBps: 60M\n    ThrottleWriteIOPS: 1k\n    Weight: \"20\"\n  - devices: [/dev/sdb]\n    throttleReadBps: 1Gi\n";
        let classes = parse(text.as_bytes()).unwrap();
        let devices = [vec![], vec![(8, 0), (8, 16)], vec![(8, 16)]];
        let entries: Vec<_> = classes["slow"].iter().cloned().zip(devices).collect();
        assert_eq!(
            serde_json::to_value(block_io(&entries).unwrap()).unwrap(),
            json!({
                "weight": 80,
                "weightDevice": [{"major": 8, "minor": 0, "weight": 20}, {"major": 8, "minor": 16, "weight": 20}],
                "throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 60_000_000}, {"major": 8, "minor": 16, "rate": 1 << 30}],
                "throttleWriteIOPSDevice": [{"major": 8, "minor": 0, "rate": 1000}, {"major": 8, "minor": 16, "rate": 1000}],
            })
        );
    }

    #[rstest]
    #[case(
        "Classes:\n  a:\n  - ThrottleReadBps: 1\n",
        "Classes.a[0]: what is throttled needs Devices"
    )]
    #[case(
        "Classes:\n  a:\n  - Devices: [sda]\n",
        "Classes.a[0].Devices: \"sda\""
    )]
    #[case("Classes:\n  a:\n  - Weight: 5\n", "Classes.a[0].Weight")]
    #[case(
        "Classes:\n  a:\n  - Devices: [/dev/sda]\n    ThrottleReadBps: 6x\n",
        "\"6x\" is not a number"
    )]
    #[case("Classes:\n  a:\n  - Device: [/dev/sda]\n", "line 3")]
    #[case("", "")]
    #[case("[", "line")]
    fn a_file_that_is_wrong_is_told_where(#[case] text: &str, #[case] words: &str) {
        let error = parse(text.as_bytes()).unwrap_err();
        assert!(error.contains(words), "{error}");
    }

    #[rstest]
    #[case("sd*", "sda1", true)]
    #[case("sd?", "sda", true)]
    #[case("sd?", "sda1", false)]
    #[case("*SSD*x", "a-SSD-b-SSDx", true)]
    #[case("*", "", true)]
    #[case("", "a", false)]
    #[case("a*b", "ab", true)]
    #[case("a*b", "ac", false)]
    fn wildcards(#[case] pattern: &str, #[case] name: &str, #[case] wanted: bool) {
        assert_eq!(matches(pattern, name), wanted);
    }
}
