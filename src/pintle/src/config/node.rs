//! YAML as a tree in which every key and value knows its file, line and column.
//!
//! Configuration files are read into such trees first, the trees are merged, and only then are values given their
//! types: an error can so name the very place, whichever file it stands in.

use std::{fmt, path::Path, sync::Arc};

use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;

use super::error::Problem;

/// A place in a configuration file. Lines and columns count from 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// The file.
    pub(crate) file: Arc<Path>,
    /// Its line; 0 when the parser could not tell.
    pub(crate) line: u64,
    /// The column, in characters.
    pub(crate) column: u64,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line == 0 {
            write!(f, "{}", self.file.display())
        } else {
            write!(f, "{}:{}:{}", self.file.display(), self.line, self.column)
        }
    }
}

/// A value and where it stands.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    /// Where it stands.
    pub(crate) at: Place,
    /// What it is.
    pub(crate) value: Value,
}

/// What YAML can say.
#[derive(Clone, Debug)]
pub(crate) enum Value {
    /// `null`, `~` or nothing.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A whole number.
    Int(i128),
    /// Any other number.
    Float(f64),
    /// Everything else that is not a collection.
    Text(String),
    /// A sequence.
    List(Vec<Node>),
    /// A mapping, in the order of the file.
    Map(Vec<Entry>),
}

/// One key of a mapping.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    /// The key.
    pub(crate) key: String,
    /// Where the key stands.
    pub(crate) at: Place,
    /// Its value.
    pub(crate) value: Node,
}

impl Node {
    /// Reads one YAML document. An empty one is an empty mapping.
    pub(crate) fn parse(text: &str, file: &Path) -> Result<Self, Problem> {
        let file: Arc<Path> = Arc::from(file);
        let options = serde_saphyr::options! {
            // `yes` and `off` are words; only `true` and `false` are truth values.
            strict_booleans: true,
            // 0755 and 1_000 are better refused where a number is wanted than read as something unexpected.
            leading_zero_numbers_as_strings: true,
            underscored_numbers_as_strings: true,
            with_snippet: false,
            emit_comments: false,
        };
        match serde_saphyr::from_str_with_options::<Option<Located>>(text, options) {
            Ok(Some(located)) => Ok(located.place_in(&file)),
            Ok(None) => Ok(Self {
                at: Place {
                    file,
                    line: 1,
                    column: 1,
                },
                value: Value::Map(Vec::new()),
            }),
            Err(error) => {
                let (line, column) = error
                    .location()
                    .map_or((0, 0), |location| (location.line(), location.column()));
                Err(Problem::Syntax {
                    at: Place { file, line, column },
                    message: syntax_message(&error),
                })
            }
        }
    }

    /// Lays `over` on top: mappings are merged key by key, anything else is replaced.
    pub(crate) fn merge(&mut self, over: Self) {
        match (&mut self.value, over.value) {
            (Value::Map(entries), Value::Map(new)) => {
                for entry in new {
                    match entries.iter_mut().find(|known| known.key == entry.key) {
                        Some(known) => {
                            known.at = entry.at;
                            known.value.merge(entry.value);
                        }
                        None => entries.push(entry),
                    }
                }
            }
            (value, new) => {
                *value = new;
                self.at = over.at;
            }
        }
    }

    /// The place of the value at a dotted path, if a file gives it.
    pub(crate) fn place_of(&self, path: &[&str]) -> Option<&Place> {
        let Some((first, rest)) = path.split_first() else {
            return Some(&self.at);
        };
        match &self.value {
            Value::Map(entries) => entries
                .iter()
                .find(|entry| entry.key == *first)
                .and_then(|entry| entry.value.place_of(rest)),
            _ => None,
        }
    }
}

impl Value {
    /// What this is, for "expected …, found …".
    pub(crate) fn describe(&self) -> String {
        match self {
            Self::Null => "nothing".to_owned(),
            Self::Bool(value) => format!("`{value}`"),
            Self::Int(value) => format!("the number {value}"),
            Self::Float(value) => format!("the number {value}"),
            Self::Text(text) => format!("{text:?}"),
            Self::List(_) => "a list".to_owned(),
            Self::Map(_) => "a map".to_owned(),
        }
    }
}

/// The parser's message without its own location, which we print in front of it in our way.
fn syntax_message(error: &serde_saphyr::Error) -> String {
    let message = error.without_snippet().render();
    let end = message
        .rfind(" at line ")
        .or_else(|| message.rfind(": line "))
        .unwrap_or(message.len());
    message[..end].to_owned()
}

/// A value as the deserializer hands it over, before it knows its file.
struct Located(Spanned<Shape>);

enum Shape {
    Scalar(Value),
    List(Vec<Located>),
    Map(Vec<(Spanned<String>, Located)>),
}

impl Located {
    fn place_in(self, file: &Arc<Path>) -> Node {
        let at = Place {
            file: Arc::clone(file),
            line: self.0.referenced.line(),
            column: self.0.referenced.column(),
        };
        let value = match self.0.value {
            Shape::Scalar(value) => value,
            Shape::List(items) => {
                Value::List(items.into_iter().map(|item| item.place_in(file)).collect())
            }
            Shape::Map(entries) => Value::Map(
                entries
                    .into_iter()
                    .map(|(key, value)| Entry {
                        at: Place {
                            file: Arc::clone(file),
                            line: key.referenced.line(),
                            column: key.referenced.column(),
                        },
                        key: key.value,
                        value: value.place_in(file),
                    })
                    .collect(),
            ),
        };
        Node { at, value }
    }
}

impl<'de> Deserialize<'de> for Located {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Spanned::deserialize(deserializer).map(Self)
    }
}

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ShapeVisitor)
    }
}

struct ShapeVisitor;

impl<'de> Visitor<'de> for ShapeVisitor {
    type Value = Shape;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Shape, E> {
        Ok(Shape::Scalar(Value::Null))
    }

    fn visit_none<E: de::Error>(self) -> Result<Shape, E> {
        Ok(Shape::Scalar(Value::Null))
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Shape, E> {
        Ok(Shape::Scalar(Value::Bool(value)))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Shape, E> {
        Ok(Shape::Scalar(Value::Int(value.into())))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Shape, E> {
        Ok(Shape::Scalar(Value::Int(value.into())))
    }

    fn visit_i128<E: de::Error>(self, value: i128) -> Result<Shape, E> {
        Ok(Shape::Scalar(Value::Int(value)))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Shape, E> {
        Ok(Shape::Scalar(Value::Float(value)))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Shape, E> {
        Ok(Shape::Scalar(Value::Text(value.to_owned())))
    }

    fn visit_string<E: de::Error>(self, value: String) -> Result<Shape, E> {
        Ok(Shape::Scalar(Value::Text(value)))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Shape, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Shape::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Shape, A::Error> {
        let mut map = Vec::new();
        while let Some(entry) = entries.next_entry()? {
            map.push(entry);
        }
        Ok(Shape::Map(map))
    }
}
