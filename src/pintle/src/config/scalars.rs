//! The scalar types of the configuration, with their spellings in YAML.

use std::{
    collections::BTreeMap, fmt, fmt::Write, net::SocketAddr, num::NonZeroU32, path::PathBuf,
    time::Duration,
};

use spec::{Capability, rlimit::RlimitKind};

use super::{
    error::Problem,
    node::{Node, Value},
    setting::{Scalar, Setting, Shown, entries_of, join, read_scalar, scalar_settings, unknown},
};

scalar_settings!(
    bool,
    u64,
    u32,
    NonZeroU32,
    String,
    PathBuf,
    Duration,
    ByteSize,
    Limit,
    Capability,
    RegistryHost,
    SocketAddr
);

impl Scalar for bool {
    const EXPECTED: &'static str = "`true` or `false`";

    fn from_value(value: &Value) -> Option<Self> {
        match value {
            Value::Bool(value) => Some(*value),
            _ => None,
        }
    }

    fn to_yaml(&self) -> String {
        self.to_string()
    }
}

impl Scalar for u64 {
    const EXPECTED: &'static str = "a whole number";

    fn from_value(value: &Value) -> Option<Self> {
        match value {
            Value::Int(value) => (*value).try_into().ok(),
            _ => None,
        }
    }

    fn to_yaml(&self) -> String {
        self.to_string()
    }
}

impl Scalar for u32 {
    const EXPECTED: &'static str = "a whole number up to 4294967295";

    fn from_value(value: &Value) -> Option<Self> {
        u64::from_value(value)?.try_into().ok()
    }

    fn to_yaml(&self) -> String {
        self.to_string()
    }
}

impl Scalar for NonZeroU32 {
    const EXPECTED: &'static str = "a whole number from 1 on";

    fn from_value(value: &Value) -> Option<Self> {
        Self::new(u32::from_value(value)?)
    }

    fn to_yaml(&self) -> String {
        self.to_string()
    }
}

impl Scalar for String {
    const EXPECTED: &'static str = "text";

    /// Whole numbers are taken for text, so that `net.core.somaxconn: 1024` needs no quotes. Truth values and fractions
    /// are not: `1.10` would become `1.1`.
    fn from_value(value: &Value) -> Option<Self> {
        match value {
            Value::Text(text) => Some(text.clone()),
            Value::Int(number) => Some(number.to_string()),
            _ => None,
        }
    }

    fn to_yaml(&self) -> String {
        quoted(self)
    }
}

impl Scalar for PathBuf {
    const EXPECTED: &'static str = "an absolute path";

    fn from_value(value: &Value) -> Option<Self> {
        match value {
            Value::Text(text) if text.starts_with('/') && !text.contains('\0') => {
                Some(Self::from(text))
            }
            _ => None,
        }
    }

    fn to_yaml(&self) -> String {
        quoted(&self.to_string_lossy())
    }
}

/// A registry's host, or `host:port`, as references name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RegistryHost(pub(crate) String);

impl RegistryHost {
    /// What a name of a registry has to be.
    pub(crate) const FORM: &'static str =
        "a host such as `registry.example` or `10.0.0.1:5000`, without scheme and path";
}

impl Scalar for RegistryHost {
    const EXPECTED: &'static str = Self::FORM;

    fn from_value(value: &Value) -> Option<Self> {
        match value {
            Value::Text(text) if image::is_registry_host(text) => Some(Self(text.clone())),
            _ => None,
        }
    }

    fn to_yaml(&self) -> String {
        quoted(&self.0)
    }
}

/// Names of images.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pinned(pub(crate) image::PinnedImages);

impl Scalar for Pinned {
    const EXPECTED: &'static str = "a name of an image, the beginning of names with `*` behind it, or a part of names between two `*`";

    fn from_value(value: &Value) -> Option<Self> {
        match value {
            Value::Text(text) => text.parse().ok().map(Self),
            _ => None,
        }
    }

    fn to_yaml(&self) -> String {
        quoted(self.0.as_str())
    }
}

/// Text as YAML: plain where that cannot be misread, else in double quotes (JSON's escapes are YAML's too).
pub(crate) fn quoted(text: &str) -> String {
    let plain = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/')
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "_-./".contains(c))
        && !matches!(
            text.to_ascii_lowercase().as_str(),
            "true" | "false" | "null" | "yes" | "no" | "on" | "off" | "y" | "n"
        );
    if plain {
        text.to_owned()
    } else {
        serde_json::Value::from(text).to_string()
    }
}

impl Scalar for Duration {
    const EXPECTED: &'static str = "a duration such as `30s`, `1m30s` or `500ms`";

    fn from_value(value: &Value) -> Option<Self> {
        match value {
            Value::Text(text) => parse_duration(text),
            Value::Int(0) => Some(Self::ZERO),
            _ => None,
        }
    }

    fn to_yaml(&self) -> String {
        show_duration(*self)
    }
}

/// Units of durations, greatest first, in nanoseconds.
const DURATION_UNITS: [(&str, u128); 6] = [
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("ns", 1),
];

/// Whole numbers with units, greatest first as in `1h30m`; `0` needs no unit.
pub(crate) fn parse_duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut rest = text;
    let mut total_ns: u128 = 0;
    let mut units = DURATION_UNITS.iter();
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let number: u64 = rest[..digits].parse().ok()?;
        let unit_end = rest[digits..]
            .find(|c: char| !c.is_ascii_alphabetic())
            .map_or(rest.len(), |length| digits + length);
        // The iterator goes on from the unit before, so that units can neither repeat nor grow.
        let (_, unit_ns) = units.find(|(name, _)| *name == &rest[digits..unit_end])?;
        total_ns = total_ns.checked_add(u128::from(number).checked_mul(*unit_ns)?)?;
        rest = &rest[unit_end..];
    }
    // Also refuses the empty text, and keeps what is accepted printable again.
    (!text.is_empty())
        .then(|| u64::try_from(total_ns).ok())
        .flatten()
        .map(Duration::from_nanos)
}

/// The shortest spelling that [`parse_duration`] reads back.
pub(crate) fn show_duration(duration: Duration) -> String {
    let mut rest_ns = duration.as_nanos();
    if rest_ns == 0 {
        return "0s".to_owned();
    }
    let mut text = String::new();
    for (unit, unit_ns) in DURATION_UNITS {
        let number = rest_ns / unit_ns;
        if number > 0 {
            // Writing to a String cannot fail.
            let _ = write!(text, "{number}{unit}");
            rest_ns %= unit_ns;
        }
    }
    text
}

/// A number of bytes, written as `16MiB`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ByteSize(pub(crate) u64);

/// Units of sizes. The first group is printed, greatest first; the others are understood.
const SIZE_UNITS: [(&str, u64); 14] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("B", 1),
    ("Ti", 1 << 40),
    ("Gi", 1 << 30),
    ("Mi", 1 << 20),
    ("Ki", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("KB", 1_000),
    ("kB", 1_000),
];

impl ByteSize {
    /// Reads `16MiB`, `16Mi`, `16MB` or plain bytes.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let end = text
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(text.len());
        let number: u64 = text[..end].parse().ok()?;
        let unit = text[end..].trim_start_matches(' ');
        let factor = match unit {
            "" => 1,
            unit => SIZE_UNITS.iter().find(|(name, _)| *name == unit)?.1,
        };
        number.checked_mul(factor).map(Self)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, factor) = SIZE_UNITS[..5]
            .iter()
            .find(|(_, factor)| self.0 != 0 && self.0.is_multiple_of(*factor))
            .unwrap_or(&SIZE_UNITS[4]);
        write!(f, "{}{unit}", self.0 / factor)
    }
}

impl Scalar for ByteSize {
    const EXPECTED: &'static str = "a size such as `16MiB`";

    fn from_value(value: &Value) -> Option<Self> {
        match value {
            Value::Text(text) => Self::parse(text),
            Value::Int(bytes) => (*bytes).try_into().ok().map(Self),
            _ => None,
        }
    }

    fn to_yaml(&self) -> String {
        self.to_string()
    }
}

/// A resource limit of a process: soft and hard, `None` for unlimited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Limit {
    /// What the process starts with.
    pub(crate) soft: Option<u64>,
    /// Up to where it may raise that.
    pub(crate) hard: Option<u64>,
}

impl Scalar for Limit {
    const EXPECTED: &'static str = "a limit such as `1024`, `1024:65536` or `unlimited`";

    fn from_value(value: &Value) -> Option<Self> {
        let one = |text: &str| match text {
            "unlimited" => Some(None),
            number => number.parse().ok().map(Some),
        };
        let text = String::from_value(value)?;
        let (soft, hard) = text.split_once(':').unwrap_or((&text, &text));
        let limit = Self {
            soft: one(soft)?,
            hard: one(hard)?,
        };
        let ordered = match (limit.soft, limit.hard) {
            (_, None) => true,
            (None, Some(_)) => false,
            (Some(soft), Some(hard)) => soft <= hard,
        };
        ordered.then_some(limit)
    }

    fn to_yaml(&self) -> String {
        let one = |limit: Option<u64>| limit.map_or("unlimited".to_owned(), |n| n.to_string());
        if self.soft == self.hard {
            one(self.soft)
        } else {
            quoted(&format!("{}:{}", one(self.soft), one(self.hard)))
        }
    }
}

/// Scalars under names, such as sysctls. Null takes an entry out.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Table<N, T>(pub(crate) BTreeMap<N, T>);

impl<N: Ord, T> Default for Table<N, T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

/// A name in a [`Table`].
pub(crate) trait TableName: Ord + Sized {
    /// The name, if it is one.
    fn from_key(key: &str) -> Option<Self>;
    /// As it is printed.
    fn to_key(&self) -> String;
    /// All names, where there is a fixed set of them.
    fn all() -> Vec<&'static str> {
        Vec::new()
    }
}

impl TableName for String {
    fn from_key(key: &str) -> Option<Self> {
        Some(key.to_owned())
    }

    fn to_key(&self) -> String {
        self.clone()
    }
}

impl TableName for RlimitKind {
    fn from_key(key: &str) -> Option<Self> {
        key.parse().ok()
    }

    fn to_key(&self) -> String {
        self.name().to_owned()
    }

    fn all() -> Vec<&'static str> {
        Self::ALL.iter().map(|kind| kind.name()).collect()
    }
}

impl<N: TableName, T: Scalar + Default> Setting for Table<N, T> {
    fn read(mut self, node: Node, key: &str, problems: &mut Vec<Problem>) -> Self {
        for entry in entries_of(node, key, problems) {
            let Some(name) = N::from_key(&entry.key) else {
                problems.push(unknown(key, &entry.key, entry.at, &N::all()));
                continue;
            };
            let known = self.0.remove(&name).unwrap_or_default();
            if matches!(entry.value.value, Value::Null) {
                continue;
            }
            let path = join(key, &entry.key);
            let value = read_scalar(known, entry.value, &path, problems);
            self.0.insert(name, value);
        }
        self
    }

    fn shown(&self) -> Shown {
        Shown::Map {
            entries: self
                .0
                .iter()
                .map(|(name, value)| (name.to_key(), Shown::Scalar(value.to_yaml())))
                .collect(),
            example: None,
        }
    }
}

impl Scalar for SocketAddr {
    const EXPECTED: &'static str = "an address with a port, such as `127.0.0.1:0` or `[::1]:10010`";

    fn from_value(value: &Value) -> Option<Self> {
        match value {
            Value::Text(text) => text.parse().ok(),
            _ => None,
        }
    }

    fn to_yaml(&self) -> String {
        quoted(&self.to_string())
    }
}

impl Scalar for Capability {
    const EXPECTED: &'static str = "a capability such as `NET_ADMIN`";

    fn from_value(value: &Value) -> Option<Self> {
        match value {
            Value::Text(text) => text.parse().ok(),
            _ => None,
        }
    }

    fn to_yaml(&self) -> String {
        let name = self.name();
        name.strip_prefix("CAP_").unwrap_or(name).to_owned()
    }
}

/// Declares an enum whose variants are words of the configuration.
macro_rules! words {
    (
        $(#[doc = $doc:literal])*
        pub(crate) enum $name:ident { $( $(#[doc = $text:literal])* $variant:ident = $word:literal ),+ $(,)? }
        expected $expected:literal
    ) => {
        $(#[doc = $doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum $name { $( $(#[doc = $text])* $variant, )+ }

        impl $crate::config::setting::Scalar for $name {
            const EXPECTED: &'static str = $expected;

            fn from_value(value: &$crate::config::node::Value) -> Option<Self> {
                match value {
                    $crate::config::node::Value::Text(text) => match text.as_str() {
                        $( $word => Some(Self::$variant), )+
                        _ => None,
                    },
                    _ => None,
                }
            }

            fn to_yaml(&self) -> String {
                match self { $( Self::$variant => $word.to_owned(), )+ }
            }
        }

        $crate::config::setting::scalar_settings!($name);
    };
}
pub(crate) use words;
