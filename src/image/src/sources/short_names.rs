//! Names without a host: which full names they stand for. Pure.
//!
//! A short name means what its alias says; else it is of the one registry that `unqualified-search-registries` names; else
//! of `docker.io`, as everywhere with Kubernetes. With several such registries there is nobody who could be asked which one
//! is meant: unless `short-name-mode` says that all of them are to be tried, the name is refused.

use std::collections::BTreeMap;

use super::SourcesError;
use super::registries_conf::{RegistriesConf, ShortNameMode};
use crate::reference::{Reference, ReferenceError, clip, has_host};

/// How much of a name an error message repeats, in characters.
const QUOTED_CHARACTERS: usize = 80;
/// How much of what a name may stand for an error message lists, in characters.
const LISTED_CHARACTERS: usize = 800;

/// The part of `registries.conf` that gives short names their meaning. Small, and kept in memory: questions for images by
/// short names are answered without a look at files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ShortNames {
    aliases: BTreeMap<Box<str>, (Box<str>, Box<str>)>,
    search: Vec<String>,
    search_place: Option<String>,
    guesses: bool,
}

/// What a name stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Meaning {
    /// To be tried in this order; never empty.
    pub(crate) references: Vec<Reference>,
    /// Which line says so; `None` for full names and for what is so by default.
    pub(crate) from: Option<String>,
    /// Several registries may have it, and none is to be guessed.
    pub(crate) ambiguous: bool,
}

impl ShortNames {
    pub(crate) fn new(conf: &RegistriesConf) -> Self {
        let aliases = conf.aliases.iter().filter_map(|(name, target)| {
            let target = target.as_ref()?;
            let place = target.place.to_string();
            Some((
                name.as_str().into(),
                (target.value.as_str().into(), place.into()),
            ))
        });
        Self {
            aliases: aliases.collect(),
            search: conf
                .search
                .as_ref()
                .map_or_else(Vec::new, |search| search.value.clone()),
            search_place: conf.search.as_ref().map(|search| search.place.to_string()),
            guesses: matches!(
                conf.mode,
                Some(ShortNameMode::Permissive | ShortNameMode::Disabled)
            ),
        }
    }

    /// What a name as a user writes it stands for.
    pub(crate) fn meaning(&self, text: &str) -> Result<Meaning, ReferenceError> {
        // Also refuses what is no name at all.
        let usual = Reference::parse(text)?;
        if has_host(text) {
            return Ok(Meaning::plain(usual));
        }
        let (name, rest) = text.split_at(text.find([':', '@']).unwrap_or(text.len()));
        if let Some((target, place)) = self.aliases.get(name) {
            return Ok(Meaning {
                references: vec![Reference::parse(&format!("{target}{rest}"))?],
                from: Some(place.to_string()),
                ambiguous: false,
            });
        }
        if self.search.is_empty() {
            return Ok(Meaning::plain(usual));
        }
        let references = self
            .search
            .iter()
            .map(|registry| Reference::parse_located(&format!("{registry}/{text}")))
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Meaning {
            ambiguous: references.len() > 1 && !self.guesses,
            references,
            from: self.search_place.clone(),
        })
    }
}

impl Meaning {
    fn plain(reference: Reference) -> Self {
        Self {
            references: vec![reference],
            from: None,
            ambiguous: false,
        }
    }

    /// The references to try, unless nothing is to be guessed.
    pub(crate) fn decided(self, text: &str) -> Result<Vec<Reference>, SourcesError> {
        if !self.ambiguous {
            return Ok(self.references);
        }
        let names: Vec<String> = self.references.iter().map(Reference::name).collect();
        Err(SourcesError::Ambiguous {
            name: clip(text, QUOTED_CHARACTERS),
            candidates: clip(&names.join(", "), LISTED_CHARACTERS),
            place: self.from.unwrap_or_default(),
        })
    }
}

#[cfg(test)]
mod test {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use std::path::Path;

    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    fn names(text: &str) -> ShortNames {
        ShortNames::new(&RegistriesConf::parse(Path::new("/r.conf"), text).unwrap().0)
    }

    const ALIASES: &str = "[aliases]\n\"fish\" = \"quay.io/sea/fish\"\n\"a/b\" = \"r.example/c\"\n";
    const ONE: &str = "unqualified-search-registries = ['r.example:5000']\n";
    const TWO: &str = "unqualified-search-registries = ['r.example', 'docker.io']\n";
    const GUESS: &str = "short-name-mode = 'permissive'\nunqualified-search-registries = ['r.example', 'docker.io']\n";

    #[rstest]
    #[case("", "fish", &["docker.io/library/fish:latest"])]
    #[case(ALIASES, "fish", &["quay.io/sea/fish:latest"])]
    #[case(ALIASES, "fish:1", &["quay.io/sea/fish:1"])]
    #[case(ALIASES, "a/b", &["r.example/c:latest"])]
    #[case(ALIASES, "docker.io/fish", &["docker.io/library/fish:latest"])]
    #[case(ALIASES, "fish/fish", &["docker.io/fish/fish:latest"])]
    #[case(ONE, "fish", &["r.example:5000/fish:latest"])]
    #[case("unqualified-search-registries = ['hub']\n", "fish", &["hub/fish:latest"])]
    #[case(ONE, "localhost/fish", &["localhost/fish:latest"])]
    #[case(GUESS, "fish:2", &["r.example/fish:2", "docker.io/library/fish:2"])]
    fn meanings(#[case] conf: &str, #[case] text: &str, #[case] expected: &[&str]) {
        let found = names(conf).meaning(text).unwrap().decided(text).unwrap();
        let found: Vec<String> = found.iter().map(ToString::to_string).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn nothing_is_guessed_unless_that_is_allowed() {
        let error = names(TWO).meaning("fish").unwrap().decided("fish");
        let words = error.unwrap_err().to_string();
        assert!(
            words.contains("r.example/fish") && words.contains("/r.conf:1"),
            "{words}"
        );
    }

    proptest! {
        #[test]
        fn full_names_mean_themselves(path in "[a-z]{1,8}(/[a-z]{1,8}){0,2}", tag in "[a-z0-9]{1,8}") {
            let text = format!("r.example/{path}:{tag}");
            for conf in [ALIASES, ONE, TWO, GUESS] {
                let found = names(conf).meaning(&text).unwrap();
                prop_assert_eq!(&found.references, &vec![Reference::parse(&text).unwrap()]);
                prop_assert!(!found.ambiguous && found.from.is_none());
            }
        }
    }
}
