//! From CRI messages to the words of `spec::model`: the border at which requests are parsed and refused.
//!
//! What gets past here is complete (no absent message that is required), every enum is one of CRI's values, every path
//! is absolute or relative as it must be, and every number fits its range. What can only be judged with the image, the
//! pod or the node at hand is left to `engine` and `spec`. A refusal names the field as the client wrote it, such as
//! `config.metadata.uid`.

use std::fmt;
use std::net::IpAddr;

use tonic::{Code, Status};

mod container;
mod namespaces;
mod pod;
mod resources;
mod security;

pub(crate) use container::container_config;
pub(crate) use pod::pod_config;
pub(crate) use resources::new_limits;

use crate::errors::status;

/// Where in a request a value stands. Rendered only when it is refused.
#[derive(Clone, Copy)]
pub(crate) struct At<'a> {
    parent: Option<&'a At<'a>>,
    step: Step<'a>,
}

#[derive(Clone, Copy)]
enum Step<'a> {
    Field(&'a str),
    Index(usize),
}

impl<'a> At<'a> {
    /// A field of the request itself.
    pub(crate) fn root(name: &'a str) -> Self {
        Self {
            parent: None,
            step: Step::Field(name),
        }
    }

    fn field(&'a self, name: &'a str) -> Self {
        Self {
            parent: Some(self),
            step: Step::Field(name),
        }
    }

    fn index(&'a self, index: usize) -> Self {
        Self {
            parent: Some(self),
            step: Step::Index(index),
        }
    }

    /// The value at this place is not acceptable.
    pub(crate) fn refuse(&self, why: impl fmt::Display) -> Refusal {
        Refusal {
            code: Code::InvalidArgument,
            message: format!("{self}: {why}"),
        }
    }
}

impl fmt::Display for At<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(parent) = self.parent {
            parent.fmt(f)?;
        }
        match self.step {
            Step::Field(name) if self.parent.is_some() => write!(f, ".{name}"),
            Step::Field(name) => f.write_str(name),
            Step::Index(index) => write!(f, "[{index}]"),
        }
    }
}

/// A request that cannot be taken.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    code: Code,
    message: String,
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        status(refusal.code, &refusal.message)
    }
}

/// The id that a request must give.
pub(crate) fn required_id<'a>(name: &str, id: &'a str) -> Result<&'a str, Refusal> {
    present(At::root(name), id)
}

/// A duration that CRI gives in seconds.
pub(crate) fn seconds(name: &str, value: i64) -> Result<std::time::Duration, Refusal> {
    u64::try_from(value)
        .map(std::time::Duration::from_secs)
        .map_err(|_| At::root(name).refuse(format_args!("{value} is negative")))
}

/// A message that must be there.
pub(crate) fn required<T>(at: At<'_>, value: Option<T>) -> Result<T, Refusal> {
    value.ok_or_else(|| at.refuse("must be given"))
}

fn present<'a>(at: At<'_>, value: &'a str) -> Result<&'a str, Refusal> {
    if value.is_empty() {
        return Err(at.refuse("must not be empty"));
    }
    Ok(value)
}

/// An enum value of CRI's. prost keeps numbers that it does not know, and they must not become the default.
fn enumeration<E: TryFrom<i32>>(at: At<'_>, value: i32) -> Result<E, Refusal> {
    E::try_from(value).map_err(|_| at.refuse(format_args!("{value} is not a value of this enum")))
}

/// A path that begins with a slash.
fn absolute(at: At<'_>, path: String) -> Result<String, Refusal> {
    present(at, &path)?;
    if !path.starts_with('/') {
        return Err(at.refuse(format_args!("{path:?} is not an absolute path")));
    }
    no_nul(at, path)
}

/// An absolute path or none.
fn absolute_if_any(at: At<'_>, path: String) -> Result<String, Refusal> {
    if path.is_empty() {
        return Ok(path);
    }
    absolute(at, path)
}

/// A path that stays below where it starts.
fn relative_inside(at: At<'_>, path: String) -> Result<String, Refusal> {
    if path.starts_with('/') {
        return Err(at.refuse(format_args!("{path:?} must be relative")));
    }
    no_climbing(at, path)
}

fn no_climbing(at: At<'_>, path: String) -> Result<String, Refusal> {
    if path.split('/').any(|part| part == "..") {
        return Err(at.refuse(format_args!("{path:?} must not contain \"..\"")));
    }
    no_nul(at, path)
}

fn no_nul(at: At<'_>, text: String) -> Result<String, Refusal> {
    if text.contains('\0') {
        return Err(at.refuse("must not contain a NUL byte"));
    }
    Ok(text)
}

/// A word of a line in one of our files: an empty one or one with white space would be read as something else.
fn one_word(at: At<'_>, text: String) -> Result<String, Refusal> {
    present(at, &text)?;
    if text.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err(at.refuse(format_args!("{text:?} must not contain white space")));
    }
    Ok(text)
}

fn address_if_any(at: At<'_>, text: String) -> Result<String, Refusal> {
    if !text.is_empty() && text.parse::<IpAddr>().is_err() {
        return Err(at.refuse(format_args!("{text:?} is not an IP address")));
    }
    Ok(text)
}

/// Applies `convert` to each element, telling it where the element stands.
fn each<T, U>(
    at: At<'_>,
    values: Vec<T>,
    convert: impl Fn(At<'_>, T) -> Result<U, Refusal>,
) -> Result<Vec<U>, Refusal> {
    values
        .into_iter()
        .enumerate()
        .map(|(index, value)| convert(at.index(index), value))
        .collect()
}

#[cfg(test)]
mod tests;
