//! A TOML file as typed values that know their lines. Keys come in the order of the file; those that nobody asked for are
//! warned about, those of a wrong type are errors.

use std::cell::RefCell;
use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

use super::SourcesError;
use crate::reference::clip;

/// How much of a value an error message repeats, in characters.
const QUOTED_CHARACTERS: usize = 80;

/// A line of a file, the first one being 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) file: Arc<Path>,
    pub(crate) line: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file.display(), self.line)
    }
}

/// A value and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct At<T> {
    pub(crate) value: T,
    pub(crate) place: Place,
}

/// What all sections of one file share.
#[derive(Debug)]
pub(super) struct Document<'t> {
    file: Arc<Path>,
    text: &'t str,
    warnings: RefCell<Vec<String>>,
}

type Value<'t> = Spanned<DeValue<'t>>;
type Taken<T> = Result<Option<T>, SourcesError>;

impl<'t> Document<'t> {
    pub(super) fn new(file: &Path, text: &'t str) -> Self {
        Self {
            file: file.into(),
            text,
            warnings: RefCell::default(),
        }
    }

    /// The keys outside of any section.
    pub(super) fn root(&self) -> Result<Section<'_, 't>, SourcesError> {
        let table = DeTable::parse(self.text).map_err(|error| {
            let start = error.span().map_or(0, |span| span.start);
            let message = error
                .message()
                .lines()
                .next()
                .unwrap_or_default()
                .to_owned();
            self.wrong_at(start, format!("this is not TOML: {message}"))
        })?;
        let start = 0..0;
        Ok(self.section(String::new(), start, table.into_inner()))
    }

    /// What was found that is not wrong enough to stop.
    pub(super) fn into_warnings(self) -> Vec<String> {
        self.warnings.into_inner()
    }

    fn section(&self, name: String, span: Range<usize>, table: DeTable<'t>) -> Section<'_, 't> {
        let mut entries: Vec<(Spanned<DeString<'t>>, Value<'t>)> = table.into_iter().collect();
        entries.sort_by_key(|(key, _)| key.span().start);
        Section {
            document: self,
            name,
            at: span.start,
            entries,
        }
    }

    fn place(&self, at: usize) -> Place {
        let before = &self.text[..self.text.floor_char_boundary(at)];
        Place {
            file: Arc::clone(&self.file),
            line: 1 + before.matches('\n').count(),
        }
    }

    fn wrong_at(&self, at: usize, reason: impl Into<String>) -> SourcesError {
        self.place(at).wrong(reason)
    }
}

impl Place {
    /// The error of what stands here.
    pub(super) fn wrong(&self, reason: impl Into<String>) -> SourcesError {
        SourcesError::Wrong {
            place: self.to_string(),
            reason: reason.into(),
        }
    }
}

/// A table whose keys are taken out one by one.
#[derive(Debug)]
pub(super) struct Section<'d, 't> {
    document: &'d Document<'t>,
    /// Dotted, as people may be told it, empty for the root.
    name: String,
    at: usize,
    entries: Vec<(Spanned<DeString<'t>>, Value<'t>)>,
}

impl<'d, 't> Section<'d, 't> {
    pub(super) fn place(&self) -> Place {
        self.document.place(self.at)
    }

    fn take(&mut self, key: &str) -> Option<Value<'t>> {
        let position = self
            .entries
            .iter()
            .position(|(name, _)| name.get_ref() == key)?;
        Some(self.entries.remove(position).1)
    }

    fn path(&self, key: &str) -> String {
        let key = told(key);
        if self.name.is_empty() {
            key
        } else {
            format!("{}.{key}", self.name)
        }
    }

    fn wrong(&self, key: &str, value: &Value<'t>, expected: &str) -> SourcesError {
        let found = match value.get_ref() {
            DeValue::String(text) => format!("\"{}\"", told(text)),
            DeValue::Array(_) => "an array".to_owned(),
            DeValue::Table(_) => "a table".to_owned(),
            other => format!("a value of the type {}", other.type_str()),
        };
        self.document.wrong_at(
            value.span().start,
            format!("`{}` has to be {expected}, not {found}", self.path(key)),
        )
    }

    fn at<T>(&self, value: T, span: &Range<usize>) -> At<T> {
        At {
            value,
            place: self.document.place(span.start),
        }
    }

    /// Text.
    pub(super) fn string(&mut self, key: &str) -> Taken<At<String>> {
        let Some(value) = self.take(key) else {
            return Ok(None);
        };
        match value.get_ref() {
            DeValue::String(text) => Ok(Some(self.at(text.to_string(), &value.span()))),
            _ => Err(self.wrong(key, &value, "text")),
        }
    }

    /// `true` or `false`.
    pub(super) fn boolean(&mut self, key: &str) -> Taken<bool> {
        let Some(value) = self.take(key) else {
            return Ok(None);
        };
        match value.get_ref() {
            DeValue::Boolean(truth) => Ok(Some(*truth)),
            _ => Err(self.wrong(key, &value, "`true` or `false`")),
        }
    }

    /// Texts, in the order of the file.
    pub(super) fn strings(&mut self, key: &str) -> Taken<At<Vec<At<String>>>> {
        let Some(value) = self.take(key) else {
            return Ok(None);
        };
        let DeValue::Array(items) = value.get_ref() else {
            return Err(self.wrong(key, &value, "an array of texts"));
        };
        let mut texts = Vec::with_capacity(items.len());
        for item in items {
            match item.get_ref() {
                DeValue::String(text) => texts.push(self.at(text.to_string(), &item.span())),
                _ => return Err(self.wrong(key, item, "an array of texts")),
            }
        }
        Ok(Some(self.at(texts, &value.span())))
    }

    /// One text or several.
    pub(super) fn text_or_texts(&mut self, key: &str) -> Taken<Vec<At<String>>> {
        match self.peek(key) {
            Some(DeValue::String(_)) => Ok(self.string(key)?.map(|text| vec![text])),
            Some(DeValue::Array(_)) => Ok(self.strings(key)?.map(|texts| texts.value)),
            Some(_) => Err(self.wrong_peeked(key, "text or an array of texts")),
            None => Ok(None),
        }
    }

    /// One text, several, or several pairs: each with the text or texts that belong together.
    pub(super) fn texts_or_pairs(&mut self, key: &str) -> Taken<Vec<At<Vec<String>>>> {
        let Some(value) = self.take(key) else {
            return Ok(None);
        };
        let expected = "text, an array of texts or an array of pairs of texts";
        let mut groups = Vec::new();
        match value.get_ref() {
            DeValue::String(text) => {
                groups.push(self.at(vec![text.to_string()], &value.span()));
            }
            DeValue::Array(items) => {
                for item in items {
                    let group = match item.get_ref() {
                        DeValue::String(text) => vec![text.to_string()],
                        DeValue::Array(pair) if pair.len() == 2 => pair
                            .iter()
                            .map(|part| match part.get_ref() {
                                DeValue::String(text) => Ok(text.to_string()),
                                _ => Err(self.wrong(key, part, expected)),
                            })
                            .collect::<Result<_, _>>()?,
                        _ => return Err(self.wrong(key, item, expected)),
                    };
                    groups.push(self.at(group, &item.span()));
                }
            }
            _ => return Err(self.wrong(key, &value, expected)),
        }
        Ok(Some(groups))
    }

    /// A table.
    pub(super) fn table(&mut self, key: &str) -> Taken<Section<'d, 't>> {
        let Some(value) = self.take(key) else {
            return Ok(None);
        };
        if !value.get_ref().is_table() {
            return Err(self.wrong(key, &value, "a table"));
        }
        let span = value.span();
        let DeValue::Table(table) = value.into_inner() else {
            return Ok(None);
        };
        Ok(Some(self.document.section(self.path(key), span, table)))
    }

    /// An array of tables, `[[key]]`.
    pub(super) fn tables(&mut self, key: &str) -> Result<Vec<Section<'d, 't>>, SourcesError> {
        let Some(value) = self.take(key) else {
            return Ok(Vec::new());
        };
        if !value.get_ref().is_array() {
            let expected = format!("an array of tables, as in `[[{}]]`", self.path(key));
            return Err(self.wrong(key, &value, &expected));
        }
        let DeValue::Array(items) = value.into_inner() else {
            return Ok(Vec::new());
        };
        let mut sections = Vec::with_capacity(items.len());
        for item in items {
            if !item.get_ref().is_table() {
                return Err(self.wrong(key, &item, "an array of tables"));
            }
            let span = item.span();
            if let DeValue::Table(table) = item.into_inner() {
                sections.push(self.document.section(self.path(key), span, table));
            }
        }
        Ok(sections)
    }

    /// The names that are left, in the order of the file.
    pub(super) fn names(&self) -> Vec<At<String>> {
        self.entries
            .iter()
            .map(|(key, _)| self.at(key.get_ref().to_string(), &key.span()))
            .collect()
    }

    /// Whether a key is there that was not taken yet.
    pub(super) fn has(&self, key: &str) -> bool {
        self.peek(key).is_some()
    }

    /// Passes over keys that mean something to others.
    pub(super) fn ignore(&mut self, keys: &[&str]) {
        self.entries
            .retain(|(key, _)| !keys.contains(&key.get_ref().as_ref()));
    }

    /// Warns of something in this section.
    pub(super) fn warn(&self, place: &Place, words: impl fmt::Display) {
        self.document
            .warnings
            .borrow_mut()
            .push(format!("{place}: {words}"));
    }

    /// Warns of the keys that nobody took.
    pub(super) fn finish(self) {
        for name in self.names() {
            let path = self.path(&name.value);
            self.warn(&name.place, format_args!("unknown key `{path}` is ignored"));
        }
    }

    fn peek(&self, key: &str) -> Option<&DeValue<'t>> {
        self.entries
            .iter()
            .find(|(name, _)| name.get_ref() == key)
            .map(|(_, value)| value.get_ref())
    }

    fn wrong_peeked(&mut self, key: &str, expected: &str) -> SourcesError {
        match self.take(key) {
            Some(value) => self.wrong(key, &value, expected),
            None => self.place().wrong(format!("`{key}` has to be {expected}")),
        }
    }
}

/// What an error message repeats of a text that may be long, or a URL with a user and a password: neither all of it, nor what
/// stands in front of an at sign.
pub(super) fn told(text: &str) -> String {
    match text.rsplit_once('@') {
        Some((_, rest)) => format!("…@{}", clip(rest, QUOTED_CHARACTERS)),
        None => clip(text, QUOTED_CHARACTERS),
    }
}

#[cfg(test)]
mod test {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use rstest::rstest;

    use super::*;

    #[test]
    fn keys_come_in_the_order_of_the_file_and_know_their_lines() {
        let document = Document::new(Path::new("/f"), "z = 'a'\n\n[t.y]\n[t.b]\n[t.x]\n");
        let mut root = document.root().unwrap();
        assert_eq!(root.string("z").unwrap().unwrap().place.to_string(), "/f:1");
        let names = root.table("t").unwrap().unwrap().names();
        let names: Vec<_> = names
            .iter()
            .map(|name| (name.value.as_str(), name.place.line))
            .collect();
        assert_eq!(names, [("y", 3), ("b", 4), ("x", 5)]);
    }

    #[test]
    fn what_nobody_asked_for_is_warned_about() {
        let document = Document::new(Path::new("/f"), "a = true\n[t]\nb = 1\n");
        let mut root = document.root().unwrap();
        root.table("t").unwrap().unwrap().finish();
        root.finish();
        assert_eq!(
            document.into_warnings(),
            [
                "/f:3: unknown key `t.b` is ignored",
                "/f:1: unknown key `a` is ignored"
            ]
        );
    }

    #[rstest]
    #[case("a = ", "/f:1: this is not TOML")]
    #[case(
        "\n\na = 1",
        "/f:3: `a` has to be text, not a value of the type integer"
    )]
    fn wrong_files_are_told_by_line(#[case] text: &str, #[case] words: &str) {
        let document = Document::new(Path::new("/f"), text);
        let error = document
            .root()
            .and_then(|mut root| root.string("a"))
            .unwrap_err()
            .to_string();
        assert!(error.starts_with(words), "{error}");
    }
}
