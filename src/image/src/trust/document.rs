//! JSON in which nothing is overlooked: a key that occurs twice and a key that nobody knows are faults, each named by its
//! place. Policies and what signatures sign are read through this, because a reader that skips what it does not
//! understand would skip a demand.
//!
//! Pure. The caller has bounded the bytes; how deep they may nest is bounded by serde_json.

use serde::Deserialize;
use serde::de::{Deserializer, Error, MapAccess, SeqAccess, Visitor};
use std::fmt;

use crate::reference::clip;

/// How much of a key or value an error repeats, in characters.
const QUOTED_CHARACTERS: usize = 100;

/// One JSON value. Objects keep their order.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Node {
    Null,
    Bool,
    Whole(i64),
    /// A number that is no `i64`.
    Number,
    Text(String),
    List(Vec<Node>),
    Object(Vec<(String, Node)>),
}

/// What is wrong, and where in the document: `transports.docker["quay.io"][0].keyPath`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) place: String,
    pub(super) reason: String,
}

impl Fault {
    pub(super) fn new(place: &str, reason: impl Into<String>) -> Self {
        Self {
            place: place.to_owned(),
            reason: reason.into(),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.place.is_empty() {
            f.write_str(&self.reason)
        } else {
            write!(f, "{}: {}", self.place, self.reason)
        }
    }
}

impl Node {
    /// Reads one document. The error tells line and column.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, Fault> {
        serde_json::from_slice(bytes)
            .map_err(|error| Fault::new("", clip(&format!("not usable JSON: {error}"), 300)))
    }

    /// Its members, none of which may have another name than these.
    pub(super) fn fields<'a>(&'a self, place: &str, known: &[&str]) -> Result<Fields<'a>, Fault> {
        let fields = self.members(place)?;
        match fields
            .pairs
            .iter()
            .find(|(key, _)| !known.contains(&key.as_str()))
        {
            Some((key, _)) => Err(Fault::new(
                &member(place, key),
                format!("unknown key; known here are {}", known.join(", ")),
            )),
            None => Ok(fields),
        }
    }

    /// Its members, whatever they are called.
    pub(super) fn members<'a>(&'a self, place: &str) -> Result<Fields<'a>, Fault> {
        match self {
            Self::Object(pairs) => Ok(Fields {
                place: place.to_owned(),
                pairs,
            }),
            other => Err(wrong(place, "an object", other)),
        }
    }

    pub(super) fn list(&self, place: &str) -> Result<&[Node], Fault> {
        match self {
            Self::List(items) => Ok(items),
            other => Err(wrong(place, "a list", other)),
        }
    }

    pub(super) fn text(&self, place: &str) -> Result<&str, Fault> {
        match self {
            Self::Text(text) => Ok(text),
            other => Err(wrong(place, "a string", other)),
        }
    }

    pub(super) fn whole(&self, place: &str) -> Result<i64, Fault> {
        match self {
            Self::Whole(number) => Ok(*number),
            other => Err(wrong(place, "a whole number", other)),
        }
    }
}

/// The members of an object.
#[derive(Debug)]
pub(super) struct Fields<'a> {
    place: String,
    pub(super) pairs: &'a [(String, Node)],
}

impl<'a> Fields<'a> {
    /// Where a member stands.
    pub(super) fn place(&self, key: &str) -> String {
        member(&self.place, key)
    }

    pub(super) fn get(&self, key: &str) -> Option<&'a Node> {
        self.pairs
            .iter()
            .find(|(name, _)| name == key)
            .map(|(_, node)| node)
    }

    pub(super) fn required(&self, key: &str) -> Result<&'a Node, Fault> {
        self.get(key)
            .ok_or_else(|| Fault::new(&self.place(key), "is missing"))
    }

    pub(super) fn text(&self, key: &str) -> Result<Option<&'a str>, Fault> {
        self.get(key)
            .map(|node| node.text(&self.place(key)))
            .transpose()
    }

    pub(super) fn required_text(&self, key: &str) -> Result<&'a str, Fault> {
        self.required(key)?.text(&self.place(key))
    }

    /// A list of strings that is not empty, each with its place.
    pub(super) fn texts(&self, key: &str) -> Result<Option<Vec<(String, &'a str)>>, Fault> {
        let Some(node) = self.get(key) else {
            return Ok(None);
        };
        let place = self.place(key);
        let items = node.list(&place)?;
        if items.is_empty() {
            return Err(Fault::new(&place, "the list is empty"));
        }
        items
            .iter()
            .enumerate()
            .map(|(position, item)| {
                let place = element(&place, position);
                let text = item.text(&place)?;
                Ok((place, text))
            })
            .collect::<Result<Vec<_>, _>>()
            .map(Some)
    }
}

/// The place of an element of a list.
pub(super) fn element(place: &str, position: usize) -> String {
    format!("{place}[{position}]")
}

/// The place of a member of an object.
fn member(place: &str, key: &str) -> String {
    let plain = !key.is_empty()
        && key
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
    let key = clip(key, QUOTED_CHARACTERS);
    match (place.is_empty(), plain) {
        (true, true) => key,
        (false, true) => format!("{place}.{key}"),
        (_, false) => format!("{place}[\"{key}\"]"),
    }
}

fn wrong(place: &str, expected: &str, found: &Node) -> Fault {
    let found = match found {
        Node::Null => "null",
        Node::Bool => "true or false",
        Node::Whole(_) | Node::Number => "a number",
        Node::Text(_) => "a string",
        Node::List(_) => "a list",
        Node::Object(_) => "an object",
    };
    Fault::new(place, format!("expected {expected}, found {found}"))
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Null)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Node, E> {
        Ok(Node::Bool)
    }

    fn visit_i64<E>(self, number: i64) -> Result<Node, E> {
        Ok(Node::Whole(number))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Node, E> {
        Ok(i64::try_from(number).map_or(Node::Number, Node::Whole))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Node, E> {
        Ok(Node::Number)
    }

    fn visit_str<E>(self, text: &str) -> Result<Node, E> {
        Ok(Node::Text(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Node, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = access.next_element()? {
            items.push(item);
        }
        Ok(Node::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Node, A::Error> {
        let mut pairs: Vec<(String, Node)> = Vec::new();
        let mut seen = std::collections::HashSet::new();
        while let Some(key) = access.next_key::<String>()? {
            if !seen.insert(key.clone()) {
                let key = clip(&key, QUOTED_CHARACTERS);
                return Err(A::Error::custom(format!("the key \"{key}\" occurs twice")));
            }
            pairs.push((key, access.next_value()?));
        }
        Ok(Node::Object(pairs))
    }
}
