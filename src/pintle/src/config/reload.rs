//! What a changed configuration means for a running server.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    keys::Config,
    setting::{Setting, Shown, join},
};

/// One key that differs between two configurations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Change {
    /// Dotted path.
    pub(crate) key: String,
    /// Whether the running server takes it over; else it waits for a restart.
    pub(crate) live: bool,
}

/// The keys in which `new` differs from `old`, in the order of their names. `runtimes` are those that are in use.
pub(crate) fn changes(old: &Config, new: &Config, runtimes: &BTreeSet<String>) -> Vec<Change> {
    let before = flat(old);
    let after = flat(new);
    let mut keys: Vec<&String> = before.keys().chain(after.keys()).collect();
    keys.sort();
    keys.dedup();
    keys.into_iter()
        .filter(|key| before.get(*key) != after.get(*key))
        .map(|key| Change {
            key: key.clone(),
            live: after
                .get(key)
                .or_else(|| before.get(key))
                .is_some_and(|value| value.live)
                && !is_of_any(key, runtimes),
        })
        .collect()
}

/// A runtime in use keeps its binary, arguments and state directory until a restart: pods were made with them.
fn is_of_any(key: &str, runtimes: &BTreeSet<String>) -> bool {
    runtimes.iter().any(|name| {
        key.strip_prefix(&join("runtimes", name))
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    })
}

#[derive(PartialEq)]
struct Leaf {
    text: String,
    live: bool,
}

fn flat(config: &Config) -> BTreeMap<String, Leaf> {
    let mut leaves = BTreeMap::new();
    flatten(String::new(), &config.shown(), false, &mut leaves);
    leaves
}

fn flatten(path: String, value: &Shown, live: bool, leaves: &mut BTreeMap<String, Leaf>) {
    match value {
        Shown::Scalar(text) => {
            let text = text.clone();
            leaves.insert(path, Leaf { text, live });
        }
        Shown::List(items) => {
            let text = items.join("\n");
            leaves.insert(path, Leaf { text, live });
        }
        Shown::Map { entries, .. } => {
            for (name, value) in entries {
                flatten(join(&path, name), value, live, leaves);
            }
        }
        Shown::Section(keys) => {
            for key in keys {
                flatten(join(&path, key.name), &key.value, live || key.live, leaves);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use rstest::rstest;

    use super::{Change, changes};
    use crate::config::{
        Config,
        keys::{LogFilter, Registry, Runtime},
    };

    fn live(key: &str) -> Change {
        Change {
            key: key.to_owned(),
            live: true,
        }
    }

    fn in_use() -> BTreeSet<String> {
        ["runc".to_owned()].into()
    }

    fn after_restart(key: &str) -> Change {
        Change {
            key: key.to_owned(),
            live: false,
        }
    }

    #[rstest]
    #[case::nothing(|_: &mut Config| {}, vec![])]
    #[case::log_level(
        |c: &mut Config| c.log.level = LogFilter("debug".into()),
        vec![live("log.level")],
    )]
    #[case::root(|c: &mut Config| c.root = "/x".into(), vec![after_restart("root")])]
    #[case::known_runtime(
        |c: &mut Config| c.runtimes.entry("runc".into()).or_default().args.push("--debug".into()),
        vec![after_restart("runtimes.runc.args")],
    )]
    fn one_change(#[case] edit: fn(&mut Config), #[case] expected: Vec<Change>) {
        let old = Config::default();
        let mut new = old.clone();
        edit(&mut new);
        assert_eq!(changes(&old, &new, &in_use()), expected);
    }

    #[test]
    fn runtimes_that_are_not_in_use_yet_are_taken_over() {
        let old = Config::default();
        let mut new = old.clone();
        new.runtimes.insert("runcvm".into(), Runtime::default());
        new.runtimes.entry("crun".into()).or_default().path = Some("/opt/crun".into());
        let found = changes(&old, &new, &in_use());
        assert!(found.iter().all(|change| change.live), "{found:?}");
        assert!(found.contains(&live("runtimes.runcvm.path")));
        assert!(found.contains(&live("runtimes.crun.path")));
    }

    #[test]
    fn a_key_of_the_operators_choice_is_named_in_full() {
        let old = Config::default();
        let mut new = old.clone();
        new.image
            .registries
            .insert("r.example:5000".into(), Registry::default());
        let found = changes(&old, &new, &in_use());
        assert!(found.contains(&live("image.registries.\"r.example:5000\".ca")));
    }
}
