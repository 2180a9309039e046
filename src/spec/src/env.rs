//! The environment: the image's, then what every container has, then the request's, each name once.
//!
//! Laws (tested as properties): a later value of a name replaces an earlier one in place, so the image's order is kept;
//! names are unique; merging the same request twice changes nothing; `PATH` is always there.

use std::collections::HashMap;

use crate::args::MAX_STRING_BYTES;
use crate::error::SpecError;

/// Where programs are looked for when neither image nor request says so.
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What a process with a terminal has unless told otherwise.
pub(crate) const TERM: &str = "TERM=xterm";

/// The most that arguments and environment can ever take together: three quarters of the 8 MiB that the kernel counts on
/// as stack. It takes less from a process with a smaller stack limit, and then says so itself.
const MAX_TOTAL_BYTES: usize = 6 * 1024 * 1024;

/// Entries in order, each name once.
#[derive(Default)]
struct Environment {
    entries: Vec<String>,
    positions: HashMap<String, usize>,
}

impl Environment {
    fn set(&mut self, name: &str, entry: String) {
        if let Some(&position) = self.positions.get(name) {
            self.entries[position] = entry;
        } else {
            self.positions.insert(name.to_owned(), self.entries.len());
            self.entries.push(entry);
        }
    }

    fn has(&self, name: &str) -> bool {
        self.positions.contains_key(name)
    }
}

/// Cut for a message: a name may be as long as the client likes.
fn shortened(entry: &str) -> String {
    let mut short: String = entry.chars().take(64).collect();
    if short.len() < entry.len() {
        short.push('…');
    }
    short
}

fn check(field: &str, name: &str, entry: &str) -> Result<(), SpecError> {
    let field = || format!("{field}[{}]", shortened(name));
    if entry.contains('\0') {
        return Err(SpecError::Nul { field: field() });
    }
    if entry.len() > MAX_STRING_BYTES {
        return Err(SpecError::TooLong {
            field: field(),
            bytes: entry.len(),
            limit: MAX_STRING_BYTES,
        });
    }
    Ok(())
}

/// Puts the environment together.
pub(crate) fn env(
    image: &[String],
    hostname: &str,
    tty: bool,
    request: &[(String, Vec<u8>)],
) -> Result<Vec<String>, SpecError> {
    let mut result = Environment::default();
    for entry in image {
        let name = match entry.split_once('=') {
            Some((name, _)) if !name.is_empty() => name,
            _ => {
                return Err(SpecError::EnvName {
                    field: "image config.Env",
                    entry: shortened(entry),
                });
            }
        };
        check("image config.Env", name, entry)?;
        result.set(name, entry.clone());
    }
    result.set("HOSTNAME", format!("HOSTNAME={hostname}"));
    if tty && !result.has("TERM") {
        result.set("TERM", TERM.to_owned());
    }
    for (name, value) in request {
        if name.is_empty() || name.contains('=') {
            return Err(SpecError::EnvName {
                field: "config.envs",
                entry: shortened(name),
            });
        }
        let value = str::from_utf8(value).map_err(|_| SpecError::EnvNotUtf8 {
            name: shortened(name),
        })?;
        let entry = format!("{name}={value}");
        check("config.envs", name, &entry)?;
        result.set(name, entry);
    }
    if !result.has("PATH") {
        result.entries.insert(0, PATH.to_owned());
    }
    // Each entry costs its bytes, a NUL and a pointer.
    let total = result.entries.iter().map(|entry| entry.len() + 9).sum();
    if total > MAX_TOTAL_BYTES {
        return Err(SpecError::TooLong {
            field: "config.envs".to_owned(),
            bytes: total,
            limit: MAX_TOTAL_BYTES,
        });
    }
    Ok(result.entries)
}

#[cfg(test)]
mod test {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    fn request(pairs: &[(&str, &str)]) -> Vec<(String, Vec<u8>)> {
        pairs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec()))
            .collect()
    }

    #[test]
    fn the_request_replaces_in_place() {
        let image = ["PATH=/bin".to_owned(), "A=1".to_owned(), "B=2".to_owned()];
        let merged = env(&image, "pod", false, &request(&[("C", "3"), ("A", "9")])).unwrap();
        assert_eq!(merged, ["PATH=/bin", "A=9", "B=2", "HOSTNAME=pod", "C=3"]);
    }

    #[rstest]
    #[case(false, &[], None)]
    #[case(true, &[], Some("TERM=xterm"))]
    #[case(true, &["TERM=vt100"], Some("TERM=vt100"))]
    fn a_terminal_has_a_kind(
        #[case] tty: bool,
        #[case] image: &[&str],
        #[case] expected: Option<&str>,
    ) {
        let image: Vec<String> = image.iter().map(|entry| (*entry).to_owned()).collect();
        let merged = env(&image, "pod", tty, &[]).unwrap();
        let term = merged.iter().find(|entry| entry.starts_with("TERM="));
        assert_eq!(term.map(String::as_str), expected);
    }

    #[test]
    fn values_may_be_empty_or_hold_equal_signs() {
        let merged = env(&[], "pod", false, &request(&[("A", ""), ("B", "x=y=z")])).unwrap();
        assert!(merged.contains(&"A=".to_owned()));
        assert!(merged.contains(&"B=x=y=z".to_owned()));
    }

    #[rstest]
    #[case("", b"x".to_vec(), "not of the form")]
    #[case("A=B", b"x".to_vec(), "not of the form")]
    #[case("A\0", b"x".to_vec(), "NUL")]
    #[case("A", b"x\0y".to_vec(), "config.envs[A]: must not contain a NUL")]
    #[case("LATIN", b"caf\xe9".to_vec(), "the value of LATIN is not UTF-8")]
    #[case("LONG", vec![b'x'; 131_072], "at most 131071")]
    fn what_cannot_be_carried_is_refused(
        #[case] name: &str,
        #[case] value: Vec<u8>,
        #[case] message: &str,
    ) {
        let error = env(&[], "pod", false, &[(name.to_owned(), value)]).unwrap_err();
        assert!(error.to_string().contains(message), "{error}");
    }

    #[rstest]
    #[case("NOVALUE")]
    #[case("=x")]
    #[case("A=\0")]
    fn an_image_that_lies_about_its_environment_is_refused(#[case] entry: &str) {
        assert!(env(&[entry.to_owned()], "pod", false, &[]).is_err());
    }

    #[test]
    fn more_than_any_kernel_takes_is_refused() {
        let many: Vec<_> = (0..70)
            .map(|index| (format!("V{index}"), vec![b'x'; 100_000]))
            .collect();
        let error = env(&[], "pod", false, &many).unwrap_err();
        assert!(matches!(error, SpecError::TooLong { .. }));
        assert!(env(&[], "pod", false, &many[..40]).is_ok());
    }

    fn as_map(entries: &[String]) -> BTreeMap<String, String> {
        entries
            .iter()
            .map(|entry| entry.split_once('=').unwrap())
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect()
    }

    fn pairs() -> impl Strategy<Value = Vec<(String, String)>> {
        proptest::collection::vec(("[A-E]{1,2}|PATH|TERM|HOSTNAME", "[a-z=]{0,4}"), 0..12)
    }

    proptest! {
        #[test]
        fn merging_keeps_its_laws(image in pairs(), asked in pairs(), tty: bool) {
            let image: Vec<String> = image.iter().map(|(name, value)| format!("{name}={value}")).collect();
            let asked: Vec<_> = asked.into_iter().map(|(name, value)| (name, value.into_bytes())).collect();
            let merged = env(&image, "pod", tty, &asked).unwrap();
            let map = as_map(&merged);
            // Each name once.
            prop_assert_eq!(map.len(), merged.len());
            // The last word of the request holds.
            let last: BTreeMap<_, _> = asked.iter().cloned().collect();
            for (name, value) in &last {
                prop_assert_eq!(map[name].as_bytes(), value.as_slice());
            }
            // What nobody asked about is the image's.
            for (name, value) in as_map(&image) {
                if !last.contains_key(&name) && name != "HOSTNAME" {
                    prop_assert_eq!(&map[&name], &value);
                }
            }
            prop_assert!(map.contains_key("PATH") && map.contains_key("HOSTNAME"));
            // Twice is the same as once.
            let twice: Vec<_> = asked.iter().chain(&asked).cloned().collect();
            prop_assert_eq!(&env(&image, "pod", tty, &twice).unwrap(), &merged);
            // The image's order is kept.
            let mut seen = BTreeSet::new();
            let names: Vec<&str> = image
                .iter()
                .map(|entry| entry.split_once('=').unwrap().0)
                .filter(|name| seen.insert((*name).to_owned()))
                .collect();
            let kept: Vec<&str> = merged
                .iter()
                .map(|entry| entry.split_once('=').unwrap().0)
                .filter(|name| names.contains(name))
                .collect();
            prop_assert_eq!(kept, names);
        }
    }
}
