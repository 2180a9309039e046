//! Which images nobody may collect: patterns over the names of images, as an operator writes them.
//!
//! | pattern | pins |
//! | --- | --- |
//! | `registry.example/app:1` | the image of exactly this name; short forms are completed as everywhere |
//! | `registry.example/team/*` | images whose full name begins so |
//! | `*fluent*` | images with this anywhere in their full name, in upper or lower case |
//! | `*` | all images |
//!
//! These are the forms that CRI-O has, so a list that works there works here. Full names are those that lists show
//! (`docker.io/library/busybox:1`), with a tag or with a digest.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

use crate::reference::Reference;

/// A pattern of names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PinnedImages {
    /// As it was written.
    text: String,
    names: Names,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Names {
    /// The normal form of one reference.
    Exactly(String),
    StartingWith(String),
    /// In lower case.
    Containing(String),
}

/// A text that is no pattern of names.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("\"{text}\" is neither {}", PinnedImages::FORM)]
pub struct BadPattern {
    /// What was written.
    pub text: String,
}

impl PinnedImages {
    /// What a pattern has to be.
    pub const FORM: &'static str =
        "an image's name, nor the beginning of names and `*`, nor a part of names between two `*`";

    /// Whether an image of this normal name is pinned by it.
    pub fn matches(&self, name: &str) -> bool {
        match &self.names {
            Names::Exactly(exact) => name == exact,
            Names::StartingWith(start) => name.starts_with(start.as_str()),
            Names::Containing(part) => name.to_ascii_lowercase().contains(part.as_str()),
        }
    }

    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl FromStr for PinnedImages {
    type Err = BadPattern;

    fn from_str(text: &str) -> Result<Self, BadPattern> {
        let bad = || BadPattern {
            text: crate::reference::clip(text, 80),
        };
        let names = match (text.strip_prefix('*'), text.strip_suffix('*')) {
            // One and the same star.
            (Some(""), _) => Names::StartingWith(String::new()),
            (Some(rest), Some(_)) => {
                Names::Containing(rest.trim_end_matches('*').to_ascii_lowercase())
            }
            (Some(_), None) => return Err(bad()),
            (None, Some(start)) => Names::StartingWith(start.to_owned()),
            (None, None) => Names::Exactly(Reference::parse(text).map_err(|_| bad())?.identity()),
        };
        let (Names::Exactly(said) | Names::StartingWith(said) | Names::Containing(said)) = &names;
        if said.contains('*') {
            return Err(bad());
        }
        Ok(Self {
            text: text.to_owned(),
            names,
        })
    }
}

impl fmt::Display for PinnedImages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod test {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("busybox", "docker.io/library/busybox:latest", true)]
    #[case("busybox", "docker.io/library/busybox:1", false)]
    #[case("docker.io/busybox:1", "docker.io/library/busybox:1", true)]
    #[case("registry.k8s.io/pause:3.9", "registry.k8s.io/pause:3.9", true)]
    #[case("registry.k8s.io/pause:3.9", "registry.k8s.io/pause:3.9.1", false)]
    #[case("registry.k8s.io/*", "registry.k8s.io/pause:3.9", true)]
    #[case("registry.k8s.io/pa*", "registry.k8s.io/pause@sha256:00", true)]
    #[case("registry.k8s.io/*", "mirror.registry.k8s.io/pause:3.9", false)]
    #[case("*PAUSE*", "registry.k8s.io/pause:3.9", true)]
    #[case("*pause*", "registry.k8s.io/coredns:1", false)]
    // Nothing in a pattern means anything but the stars.
    #[case("registry.k8s.io/*", "registryxk8s.io/pause:3.9", false)]
    #[case("*a.c*", "registry.example/abc:1", false)]
    #[case("*", "registry.example/abc:1", true)]
    #[case("**", "registry.example/abc:1", true)]
    fn names_match(#[case] pattern: &str, #[case] name: &str, #[case] expected: bool) {
        let pattern: PinnedImages = pattern.parse().unwrap();
        assert_eq!(pattern.matches(name), expected);
    }

    #[rstest]
    #[case("")]
    #[case("*:latest")]
    #[case("registry.example/*:1")]
    #[case("registry.example/*/x*")]
    #[case("*a*b*")]
    #[case("UPPER/case")]
    #[case("https://registry.example/x")]
    fn bad_patterns_are_told(#[case] pattern: &str) {
        let error = pattern.parse::<PinnedImages>().unwrap_err().to_string();
        assert!(error.contains(&format!("\"{pattern}\"")), "{error}");
    }
}
