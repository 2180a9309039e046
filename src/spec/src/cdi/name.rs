//! Names of devices: `vendor.com/class=device`, and where requests have them.

use std::collections::BTreeMap;
use std::fmt;

use crate::error::SpecError;

/// Beginning of the names of annotations that ask for devices.
pub const ANNOTATION_PREFIX: &str = "cdi.k8s.io/";

/// Longest name that is taken, in bytes. Real ones have less than a hundred.
const NAME_MAX_BYTES: usize = 1024;
/// Most devices of one container.
const REQUESTED_MAX: usize = 4096;

/// A device by its full name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceName {
    /// `vendor/class`.
    pub kind: String,
    /// The device among those of its kind.
    pub device: String,
}

impl fmt::Display for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.kind, self.device)
    }
}

impl DeviceName {
    /// The name, or what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        if text.len() > NAME_MAX_BYTES {
            return Err("is longer than 1024 bytes");
        }
        let (kind, device) = text
            .split_once('=')
            .ok_or("is not of the form vendor/class=device")?;
        check_kind(kind)?;
        check_device(device)?;
        Ok(Self {
            kind: kind.to_owned(),
            device: device.to_owned(),
        })
    }
}

/// Whether this is `vendor/class`.
pub(super) fn check_kind(kind: &str) -> Result<(), &'static str> {
    let (vendor, class) = kind
        .split_once('/')
        .ok_or("has a kind that is not of the form vendor/class")?;
    if !is_word(vendor, b"_-.", true) {
        return Err(
            "has a vendor that is not letters, digits, '_', '-' and '.', beginning with a letter and ending with a letter or digit",
        );
    }
    if !is_word(class, b"_-.", true) {
        return Err(
            "has a class that is not letters, digits, '_', '-' and '.', beginning with a letter and ending with a letter or digit",
        );
    }
    Ok(())
}

/// Whether this can be the last part of a name.
pub(super) fn check_device(device: &str) -> Result<(), &'static str> {
    if !is_word(device, b"_-.:", false) {
        return Err(
            "has a device that is not letters, digits, '_', '-', '.' and ':', beginning and ending with a letter or digit",
        );
    }
    Ok(())
}

fn is_word(text: &str, between: &[u8], begins_with_letter: bool) -> bool {
    let bytes = text.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else {
        return false;
    };
    let begins = if begins_with_letter {
        first.is_ascii_alphabetic()
    } else {
        first.is_ascii_alphanumeric()
    };
    begins
        && last.is_ascii_alphanumeric()
        && bytes
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || between.contains(byte))
}

/// The devices that a container asks for, each once: those of the field first, then those of its annotations.
pub fn requested(
    field: &[String],
    annotations: &BTreeMap<String, String>,
) -> Result<Vec<DeviceName>, SpecError> {
    let mut names: Vec<DeviceName> = Vec::new();
    let mut take = |place: &dyn Fn() -> String, text: &str| {
        let name = DeviceName::parse(text).map_err(|problem| SpecError::CdiName {
            field: place(),
            name: text.chars().take(128).collect(),
            problem,
        })?;
        if names.contains(&name) {
            return Ok(());
        }
        if names.len() == REQUESTED_MAX {
            return Err(SpecError::CdiName {
                field: place(),
                name: name.to_string(),
                problem: "is one too many: a container can have 4096 CDI devices",
            });
        }
        names.push(name);
        Ok(())
    };
    for (index, text) in field.iter().enumerate() {
        take(&|| format!("config.CDI_devices[{index}].name"), text)?;
    }
    let of_annotations = annotations
        .iter()
        .filter(|(key, _)| key.starts_with(ANNOTATION_PREFIX));
    for (key, value) in of_annotations {
        for text in value.split(',') {
            take(&|| format!("config.annotations[{key}]"), text.trim())?;
        }
    }
    Ok(names)
}

#[cfg(test)]
mod test {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("vendor.com/gpu=0", true)]
    #[case("nvidia.com/gpu=GPU-1a:2.x_y", true)]
    #[case("v/c=all", true)]
    #[case("vendor.com/net.sriov=a", true)]
    #[case("vendor.com/gpu", false)]
    #[case("vendor.com=0", false)]
    #[case("/gpu=0", false)]
    #[case("vendor.com/=0", false)]
    #[case("vendor.com/gpu=", false)]
    #[case("1vendor/gpu=0", false)]
    #[case("vendor-/gpu=0", false)]
    #[case("vendor/gpu-=0", false)]
    #[case("vendor/gpu=-0", false)]
    #[case("vendor/gpu=0:", false)]
    #[case("vendor/gpu=0/../1", false)]
    #[case("vendor/gpu=ü", false)]
    #[case("", false)]
    fn names(#[case] text: &str, #[case] fine: bool) {
        let name = DeviceName::parse(text);
        assert_eq!(name.is_ok(), fine, "{name:?}");
        if let Ok(name) = name {
            assert_eq!(name.to_string(), text);
        }
    }

    #[test]
    fn a_request_has_each_device_once_and_those_of_the_field_first() {
        let annotations = [
            ("cdi.k8s.io/b", "v/c=2, v/c=1"),
            ("cdi.k8s.io/a", "v/c=3"),
            ("example.com/cdi.k8s.io/", "v/c=9"),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into();
        let names = requested(&["v/c=1".to_owned(), "v/c=1".to_owned()], &annotations).unwrap();
        let names: Vec<_> = names.iter().map(ToString::to_string).collect();
        assert_eq!(names, ["v/c=1", "v/c=3", "v/c=2"]);
    }

    #[rstest]
    #[case(
        "x",
        "",
        "config.CDI_devices[0].name: \"x\" is not of the form vendor/class=device"
    )]
    #[case("v/c=1", "v/c=1,", "config.annotations[cdi.k8s.io/k]: \"\"")]
    fn a_bad_name_is_refused_with_its_place(
        #[case] field: &str,
        #[case] annotation: &str,
        #[case] words: &str,
    ) {
        let annotations = [("cdi.k8s.io/k".to_owned(), annotation.to_owned())].into();
        let error = requested(&[field.to_owned()], &annotations).unwrap_err();
        assert!(error.to_string().starts_with(words), "{error}");
    }

    proptest! {
        #[test]
        fn a_name_that_is_taken_is_shown_as_it_was_given(text in "\\PC{0,40}|[a-z./=:_-]{1,12}") {
            if let Ok(name) = DeviceName::parse(&text) {
                prop_assert_eq!(name.to_string(), text);
            }
        }
    }
}
