//! Units: what is asked of systemd, and what it tells.

use crate::Property;

/// A scope to be made around processes that run already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    /// Its name, `….scope`.
    pub unit: String,
    /// The slice that it stands in.
    pub slice: String,
    /// For people, and to know it again.
    pub description: String,
    /// The processes.
    pub pids: Vec<u32>,
    /// What else it has.
    pub properties: Vec<Property>,
}

/// A slice to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slice {
    /// Its name, `….slice`, which says where it stands.
    pub unit: String,
    /// For people, and to know it again.
    pub description: String,
    /// What else it has.
    pub properties: Vec<Property>,
}

/// A unit that systemd knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unit {
    /// Its name.
    pub name: String,
    /// How it describes itself.
    pub description: String,
    /// `active`, `failed`, `inactive`, …
    pub active: String,
}
