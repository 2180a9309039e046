//! A layer, or a part of one, as a registry begins to send it: whether it is the part that was asked for.
//!
//! What comes is one of three: the part, the whole from its start (registries may ignore ranges, and answer so when their
//! content has another version), or something that makes no sense, after which the host is better asked without ranges.

use http::{HeaderValue, StatusCode};

use crate::error::ImageError;
use crate::manifest::Descriptor;

use super::answer::Answer;
use super::exchange::Request;
use super::pace::Download;

/// Which part of a layer is wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Part {
    /// The first byte.
    pub(crate) from: u64,
    /// The end, exclusive. `None`: that of the layer.
    pub(crate) to: Option<u64>,
    /// The version that the host had before.
    pub(crate) etag: Option<HeaderValue>,
}

/// A layer, or a part of one, on its way.
#[derive(Debug)]
pub(crate) struct Blob {
    pub(crate) download: Download,
    /// The first byte, which is that of the [`Part`] or 0.
    pub(crate) from: u64,
    /// The end, exclusive.
    pub(crate) to: u64,
    pub(crate) etag: Option<HeaderValue>,
}

/// Why there is none.
#[derive(Debug)]
pub(crate) enum BlobError {
    /// The host has to be asked for the whole.
    NoRanges,
    /// The host does not give it.
    Failed(ImageError),
}

impl From<ImageError> for BlobError {
    fn from(error: ImageError) -> Self {
        Self::Failed(error)
    }
}

impl Part {
    fn is_whole(&self) -> bool {
        self.from == 0 && self.to.is_none()
    }

    pub(super) fn request<'a>(&self, request: Request<'a>) -> Request<'a> {
        if self.is_whole() {
            return request;
        }
        let last = match self.to {
            Some(to) => to.saturating_sub(1).to_string(),
            None => String::new(),
        };
        match HeaderValue::try_from(format!("bytes={}-{last}", self.from)) {
            Ok(range) => request.range(range, self.etag.clone()),
            // Never, of digits. The whole will do, too.
            Err(_) => request,
        }
    }
}

impl Blob {
    /// Takes a successful answer, or one of 416, for what it is.
    pub(super) fn check(
        answer: Answer,
        descriptor: &Descriptor,
        part: &Part,
        host: &str,
    ) -> Result<Self, BlobError> {
        let size = descriptor.size;
        let (from, to) = match answer.status() {
            StatusCode::RANGE_NOT_SATISFIABLE => return Err(BlobError::NoRanges),
            StatusCode::PARTIAL_CONTENT if part.is_whole() => {
                return Err(BlobError::Failed(ImageError::RegistryUnavailable {
                    host: host.to_owned(),
                    reason: "it sends a part of a layer where the whole was asked for".to_owned(),
                }));
            }
            StatusCode::PARTIAL_CONTENT => {
                let told = answer.content_range();
                if let Some(range) = told.and_then(|told| told.answers(part, size)) {
                    range
                } else {
                    tracing::debug!(host, ?told, ?part, "another part than was asked for");
                    return Err(BlobError::NoRanges);
                }
            }
            _ => (0, size),
        };
        if let Some(length) = answer.length()
            && length != to - from
        {
            let wrong = ImageError::corrupt(
                format!("layer {}", descriptor.digest),
                format!(
                    "the manifest says {size} bytes, {host} sends {length}{}",
                    if from == 0 {
                        String::new()
                    } else {
                        format!(" after the first {from}")
                    }
                ),
            );
            return Err(wrong.into());
        }
        Ok(Self {
            etag: answer.strong_etag(),
            download: answer.download(),
            from,
            to,
        })
    }
}

/// `bytes 100-199/1000`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ContentRange {
    first: u64,
    last: u64,
    /// `None`: the server does not know.
    total: Option<u64>,
}

impl ContentRange {
    pub(super) fn parse(text: &str) -> Option<Self> {
        let number = |digits: &str| {
            let plain = digits.bytes().all(|byte| byte.is_ascii_digit());
            plain.then(|| digits.parse().ok()).flatten()
        };
        let (unit, rest) = text.trim().split_once(' ')?;
        let (range, total) = rest.trim().split_once('/')?;
        let (first, last) = range.split_once('-')?;
        let total = match total.trim() {
            "*" => None,
            total => Some(number(total)?),
        };
        let range = Self {
            first: number(first.trim())?,
            last: number(last.trim())?,
            total,
        };
        (unit.eq_ignore_ascii_case("bytes") && range.first <= range.last).then_some(range)
    }

    /// Start and end, if this is what was asked of a layer of `size` bytes. Servers may send less than that; those that do are
    /// not worth the requests.
    fn answers(self, part: &Part, size: u64) -> Option<(u64, u64)> {
        let end = self.last.checked_add(1)?;
        let right = self.first == part.from
            && end == part.to.unwrap_or(size).min(size)
            && self.total.is_none_or(|total| total == size);
        right.then_some((self.first, end))
    }
}

#[cfg(test)]
mod test {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("bytes 100-199/200", Some((100, 200)))]
    #[case("bytes 100-199/*", Some((100, 200)))]
    #[case("Bytes  100 - 199 / 200", Some((100, 200)))]
    #[case("bytes 100-149/200", None)]
    #[case("bytes 0-99/200", None)]
    #[case("bytes 101-199/200", None)]
    #[case("bytes 100-200/201", None)]
    #[case("bytes 100-199/5000", None)]
    #[case("bytes 199-100/200", None)]
    #[case("bytes */200", None)]
    #[case("bytes +100-199/200", None)]
    #[case("bytes 100-18446744073709551615/200", None)]
    #[case("items 100-199/200", None)]
    #[case("", None)]
    fn parts_that_are_believed(#[case] text: &str, #[case] expected: Option<(u64, u64)>) {
        let part = Part {
            from: 100,
            to: None,
            etag: None,
        };
        let told = ContentRange::parse(text).and_then(|told| told.answers(&part, 200));
        assert_eq!(told, expected, "{text}");
    }

    #[test]
    fn no_more_than_was_asked_for() {
        let part = Part {
            from: 0,
            to: Some(50),
            etag: None,
        };
        let answers = |text| ContentRange::parse(text).and_then(|told| told.answers(&part, 200));
        assert_eq!(answers("bytes 0-49/200"), Some((0, 50)));
        assert_eq!(answers("bytes 0-199/200"), None);
    }
}
