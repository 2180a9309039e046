//! Levels: `s0`, `s0:c1,c2`, `s0-s0:c0.c1023`.

use std::fmt;

/// Longest level that is looked at; a list of all categories one by one has 6 KiB.
const LEVEL_MAX_BYTES: usize = 8 << 10;

/// Two different categories of the sensitivity `s0`, which tell one pod from all others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Categories {
    low: u16,
    high: u16,
}

impl Categories {
    /// How many pairs of different categories there are below `count`.
    pub fn pairs(count: u16) -> u64 {
        let count = u64::from(count);
        count * count.saturating_sub(1) / 2
    }

    /// The pair of this number: 0 is `c0,c1`, 1 is `c0,c2`, 2 is `c1,c2` and so on; `None` past the last.
    pub fn nth(number: u64) -> Option<Self> {
        // Those below (h − 1, h) have a higher one of less than h: h (h − 1) / 2 of them.
        let high = number.checked_mul(8)?.checked_add(1)?.isqrt().div_ceil(2);
        let mut high = high.max(1);
        while high * (high - 1) / 2 > number {
            high -= 1;
        }
        while (high + 1) * high / 2 <= number {
            high += 1;
        }
        let low = number - high * (high - 1) / 2;
        Some(Self {
            low: low.try_into().ok()?,
            high: high.try_into().ok()?,
        })
    }

    /// The pair that a level consists of; `None` for any other level.
    pub fn of_level(level: &str) -> Option<Self> {
        let (one, other) = level.strip_prefix("s0:")?.split_once(',')?;
        let (one, other) = (category(one)?, category(other)?);
        (one != other).then(|| Self {
            low: one.min(other),
            high: one.max(other),
        })
    }
}

impl fmt::Display for Categories {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "s0:c{},c{}", self.low, self.high)
    }
}

fn number(text: &str, letter: char, digits_max: usize) -> Option<u16> {
    let digits = text.strip_prefix(letter)?;
    let fits = (1..=digits_max).contains(&digits.len())
        && digits.bytes().all(|byte| byte.is_ascii_digit());
    fits.then(|| digits.parse().ok()).flatten()
}

fn category(text: &str) -> Option<u16> {
    number(text, 'c', 4)
}

/// Whether a text has the form of a level, or of a range of two: whether the policy has it, only the kernel knows.
pub fn is_level(text: &str) -> bool {
    let is_set = |part: &str| match part.split_once('.') {
        Some((from, to)) => {
            matches!((category(from), category(to)), (Some(from), Some(to)) if from <= to)
        }
        None => category(part).is_some(),
    };
    let is_single = |level: &str| {
        let (sensitivity, categories) = match level.split_once(':') {
            Some((sensitivity, categories)) => (sensitivity, Some(categories)),
            None => (level, None),
        };
        number(sensitivity, 's', 2).is_some()
            && categories.is_none_or(|categories| categories.split(',').all(is_set))
    };
    text.len() <= LEVEL_MAX_BYTES
        && match text.split_once('-') {
            Some((low, high)) => is_single(low) && is_single(high),
            None => is_single(text),
        }
}

/// The lower level of a range, without categories.
pub(super) fn without_categories(level: &str) -> &str {
    level.split([':', '-']).next().unwrap_or_default()
}

#[cfg(test)]
mod test {
    use std::collections::BTreeSet;

    use rstest::rstest;

    use super::*;

    #[test]
    fn every_pair_has_one_number() {
        let count = 40;
        let pairs: BTreeSet<_> = (0..Categories::pairs(count))
            .filter_map(Categories::nth)
            .collect();
        assert_eq!(pairs.len(), 40 * 39 / 2);
        for pair in &pairs {
            assert!(pair.low < pair.high && pair.high < count, "{pair}");
        }
        let last = Categories::nth(Categories::pairs(1024) - 1);
        assert_eq!(
            last.map(|pair| pair.to_string()).as_deref(),
            Some("s0:c1022,c1023")
        );
        assert_eq!(Categories::nth(u64::MAX), None);
        assert_eq!(Categories::pairs(0), 0);
        assert_eq!(Categories::pairs(1), 0);
    }

    #[rstest]
    #[case("s0:c1,c2", Some("s0:c1,c2"))]
    #[case("s0:c2,c1", Some("s0:c1,c2"))]
    #[case("s0:c1", None)]
    #[case("s0:c1,c1", None)]
    #[case("s0:c1.c2", None)]
    #[case("s1:c1,c2", None)]
    #[case("s0:c1,c2,c3", None)]
    #[case("s0", None)]
    #[case("", None)]
    fn levels_that_are_a_pair(#[case] level: &str, #[case] expected: Option<&str>) {
        let pair = Categories::of_level(level).map(|pair| pair.to_string());
        assert_eq!(pair.as_deref(), expected);
    }

    #[rstest]
    #[case("s0", true)]
    #[case("s15", true)]
    #[case("s0:c4,c5", true)]
    #[case("s0:c0.c1023", true)]
    #[case("s0:c1,c5.c9,c20", true)]
    #[case("s0-s0:c0.c1023", true)]
    #[case("s0:c1-s3:c1,c2", true)]
    #[case("", false)]
    #[case("s0,c4,c5", false)]
    #[case("s0:", false)]
    #[case("s0:c4,", false)]
    #[case("s0:c5.c4", false)]
    #[case("s0-", false)]
    #[case("s0-s0-s0", false)]
    #[case("c4,c5", false)]
    #[case("s+0", false)]
    #[case("s0:c12345", false)]
    #[case("SystemLow", false)]
    fn forms_of_levels(#[case] text: &str, #[case] expected: bool) {
        assert_eq!(is_level(text), expected);
    }

    #[rstest]
    #[case("s0:c1,c2", "s0")]
    #[case("s0-s3:c1", "s0")]
    #[case("s2", "s2")]
    #[case("", "")]
    fn categories_are_taken_away(#[case] level: &str, #[case] expected: &str) {
        assert_eq!(without_categories(level), expected);
    }
}
