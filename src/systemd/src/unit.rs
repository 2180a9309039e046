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

/// Whether systemd would take this for the name of a slice that can be made: parts between hyphens, none of them empty.
#[must_use]
pub fn is_slice_name(name: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || ":_.\\@-".contains(c);
    name.len() <= 255
        && name.strip_suffix(".slice").is_some_and(|stem| {
            !stem.is_empty() && stem.chars().all(fits) && stem.split('-').all(|part| !part.is_empty())
        })
}

#[cfg(test)]
mod tests {
    use super::is_slice_name;

    #[test]
    fn names_of_slices() {
        for good in ["a.slice", "kubepods-burstable-pod1_2.slice", "a\\x2db.slice"] {
            assert!(is_slice_name(good), "{good}");
        }
        let long = format!("{}.slice", "a".repeat(250));
        for bad in ["", ".slice", "-.slice", "a--b.slice", "-a.slice", "a-.slice", "a.scope", "a/b.slice", "a b.slice", &long] {
            assert!(!is_slice_name(bad), "{bad}");
        }
    }
}
