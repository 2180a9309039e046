//! How a value of the configuration is read from YAML and shown again.
//!
//! [`section!`] is the one place where a key is declared: its name, type, default and documentation. The struct, the
//! reader, the printed comments and the list of known keys all come from that declaration, so they cannot disagree.

use std::collections::BTreeMap;

use super::{
    error::{Hint, Problem},
    nearest::nearest,
    node::{Node, Value},
};

/// A value of the configuration.
pub(crate) trait Setting: Sized {
    /// Reads what a file says over `self`, the value so far. What is wrong goes to `problems`, and `self` stays.
    fn read(self, node: Node, key: &str, problems: &mut Vec<Problem>) -> Self;

    /// The value as it is printed.
    fn shown(&self) -> Shown;

    /// Appends the dotted path of every key below `key`, itself included.
    fn keys(key: &str, into: &mut Vec<String>) {
        into.push(key.to_owned());
    }
}

/// A value without keys of its own.
pub(crate) trait Scalar: Sized {
    /// What to write here, for "expected …".
    const EXPECTED: &'static str;

    /// The value, if `value` is one. Never called with [`Value::Null`].
    fn from_value(value: &Value) -> Option<Self>;

    /// The value in YAML.
    fn to_yaml(&self) -> String;
}

/// A configuration value ready to be printed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Shown {
    /// YAML text of a scalar.
    Scalar(String),
    /// YAML texts of a list's items.
    List(Vec<String>),
    /// Keys that the operator chose.
    Map {
        /// What is there.
        entries: Vec<(String, Shown)>,
        /// What an entry would look like, for the explanation of an empty map.
        example: Option<(&'static str, Box<Shown>)>,
    },
    /// Keys that Pintle defines.
    Section(Vec<ShownKey>),
}

/// One key of a [`Shown::Section`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ShownKey {
    /// Its name.
    pub(crate) name: &'static str,
    /// Its documentation, line by line.
    pub(crate) doc: &'static [&'static str],
    /// Whether a running server takes a change over.
    pub(crate) live: bool,
    /// Its value.
    pub(crate) value: Shown,
}

/// A section that stands in a map under names of the operator's choice.
pub(crate) trait Named {
    /// A name to show in examples.
    const EXAMPLE: &'static str;
    /// Names that are there by default, so that their absence has to be shown.
    const BUILT_IN: &'static [&'static str] = &[];

    /// What a name has to be, where not every text will do.
    fn refused(_name: &str) -> Option<&'static str> {
        None
    }
}

/// Declares a section: `/// documentation`, then `key: Type = default`, with `@live` in front of a key that SIGHUP reloads.
macro_rules! section {
    (
        $(#[doc = $doc:literal])*
        pub(crate) struct $name:ident {
            $( $(#[doc = $text:literal])+ $(@$live:ident)? $field:ident: $type:ty = $default:expr, )+
        }
    ) => {
        $(#[doc = $doc])*
        #[derive(Clone, Debug, PartialEq)]
        pub(crate) struct $name {
            $( $(#[doc = $text])+ pub(crate) $field: $type, )+
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $( $field: $default, )+ }
            }
        }

        impl $crate::config::setting::Setting for $name {
            fn read(
                mut self,
                node: $crate::config::node::Node,
                key: &str,
                problems: &mut Vec<$crate::config::error::Problem>,
            ) -> Self {
                for entry in $crate::config::setting::entries_of(node, key, problems) {
                    let path = $crate::config::setting::join(key, &entry.key);
                    match entry.key.as_str() {
                        $( stringify!($field) => {
                            self.$field = $crate::config::setting::Setting::read(
                                self.$field, entry.value, &path, problems,
                            );
                        } )+
                        _ => problems.push($crate::config::setting::unknown(
                            key, &entry.key, entry.at, &[$( stringify!($field) ),+],
                        )),
                    }
                }
                self
            }

            fn shown(&self) -> $crate::config::setting::Shown {
                $crate::config::setting::Shown::Section(vec![ $(
                    $crate::config::setting::ShownKey {
                        name: stringify!($field),
                        doc: &[$( $text ),+],
                        live: [$( stringify!($live) )?].contains(&"live"),
                        value: $crate::config::setting::Setting::shown(&self.$field),
                    },
                )+ ])
            }

            fn keys(key: &str, into: &mut Vec<String>) {
                $(
                    let path = $crate::config::setting::join(key, stringify!($field));
                    <$type as $crate::config::setting::Setting>::keys(&path, into);
                )+
            }
        }
    };
}
pub(crate) use section;

/// The entries of a mapping; anything else but null is a problem.
pub(crate) fn entries_of(
    node: Node,
    key: &str,
    problems: &mut Vec<Problem>,
) -> Vec<super::node::Entry> {
    match node.value {
        Value::Map(entries) => entries,
        Value::Null => Vec::new(),
        other => {
            problems.push(wrong(key, node.at, "a map of keys", &other));
            Vec::new()
        }
    }
}

/// `section.key`; names of the operator's choice that hold a dot or a colon are quoted.
pub(crate) fn join(section: &str, key: &str) -> String {
    let plain = !key.is_empty()
        && key
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
    match (section, plain) {
        ("", true) => key.to_owned(),
        ("", false) => format!("{key:?}"),
        (_, true) => format!("{section}.{key}"),
        (_, false) => format!("{section}.{key:?}"),
    }
}

/// The problem of a key that its section does not have.
pub(crate) fn unknown(
    section: &str,
    key: &str,
    at: super::node::Place,
    siblings: &[&'static str],
) -> Problem {
    let hint = nearest(key, siblings.iter().copied())
        .map(|known| join(section, known))
        .or_else(|| super::known_elsewhere(key));
    Problem::UnknownKey {
        key: join(section, key),
        at,
        hint: Hint(hint),
    }
}

fn wrong(key: &str, at: super::node::Place, expected: &str, found: &Value) -> Problem {
    let expected = expected.to_owned();
    let found = found.describe();
    if key.is_empty() {
        return Problem::Syntax {
            at,
            message: format!("expected {expected}, found {found}"),
        };
    }
    Problem::WrongValue {
        key: key.to_owned(),
        at,
        expected,
        found,
    }
}

/// Reads a scalar; null leaves the default.
pub(crate) fn read_scalar<T: Scalar>(
    default: T,
    node: Node,
    key: &str,
    problems: &mut Vec<Problem>,
) -> T {
    if matches!(node.value, Value::Null) {
        return default;
    }
    T::from_value(&node.value).unwrap_or_else(|| {
        problems.push(wrong(key, node.at, T::EXPECTED, &node.value));
        default
    })
}

/// Makes each [`Scalar`] named a [`Setting`]. A blanket implementation would collide with those of the collections.
macro_rules! scalar_settings {
    ($($type:ty),+ $(,)?) => { $(
        impl $crate::config::setting::Setting for $type {
            fn read(
                self,
                node: $crate::config::node::Node,
                key: &str,
                problems: &mut Vec<$crate::config::error::Problem>,
            ) -> Self {
                $crate::config::setting::read_scalar(self, node, key, problems)
            }

            fn shown(&self) -> $crate::config::setting::Shown {
                $crate::config::setting::Shown::Scalar($crate::config::setting::Scalar::to_yaml(self))
            }
        }
    )+ };
}
pub(crate) use scalar_settings;

/// A key that need not have a value: null means none.
impl<T: Scalar> Setting for Option<T> {
    fn read(self, node: Node, key: &str, problems: &mut Vec<Problem>) -> Self {
        if matches!(node.value, Value::Null) {
            return None;
        }
        T::from_value(&node.value).or_else(|| {
            problems.push(wrong(key, node.at, T::EXPECTED, &node.value));
            self
        })
    }

    fn shown(&self) -> Shown {
        Shown::Scalar(self.as_ref().map_or("null".to_owned(), Scalar::to_yaml))
    }
}

/// A list is replaced as a whole.
impl<T: Scalar> Setting for Vec<T> {
    fn read(self, node: Node, key: &str, problems: &mut Vec<Problem>) -> Self {
        match node.value {
            Value::Null => self,
            Value::List(items) => items
                .into_iter()
                .enumerate()
                .filter_map(|(index, item)| {
                    let value = T::from_value(&item.value);
                    if value.is_none() {
                        let key = format!("{key}[{index}]");
                        problems.push(wrong(&key, item.at, T::EXPECTED, &item.value));
                    }
                    value
                })
                .collect(),
            other => {
                problems.push(wrong(key, node.at, "a list", &other));
                self
            }
        }
    }

    fn shown(&self) -> Shown {
        Shown::List(self.iter().map(Scalar::to_yaml).collect())
    }
}

/// Names of the operator's choice. Null takes an entry out, a built-in one too.
impl<T: Setting + Default + Named> Setting for BTreeMap<String, T> {
    fn read(mut self, node: Node, key: &str, problems: &mut Vec<Problem>) -> Self {
        for entry in entries_of(node, key, problems) {
            if matches!(entry.value.value, Value::Null) {
                self.remove(&entry.key);
                continue;
            }
            let path = join(key, &entry.key);
            if let Some(expected) = T::refused(&entry.key) {
                problems.push(wrong(
                    key,
                    entry.at,
                    expected,
                    &Value::Text(entry.key.clone()),
                ));
            }
            let known = self.remove(&entry.key).unwrap_or_default();
            let value = known.read(entry.value, &path, problems);
            self.insert(entry.key, value);
        }
        self
    }

    fn shown(&self) -> Shown {
        let taken_out = T::BUILT_IN
            .iter()
            .filter(|name| !self.contains_key(**name))
            .map(|name| ((*name).to_owned(), Shown::Scalar("null".to_owned())));
        Shown::Map {
            entries: self
                .iter()
                .map(|(name, value)| (name.clone(), value.shown()))
                .chain(taken_out)
                .collect(),
            example: Some((T::EXAMPLE, Box::new(T::default().shown()))),
        }
    }

    fn keys(key: &str, into: &mut Vec<String>) {
        into.push(key.to_owned());
        T::keys(&format!("{key}.<name>"), into);
    }
}
