//! The known word that a mistyped one most likely stands for.

/// The most similar of `known`, if one is similar enough to be worth a suggestion.
pub(crate) fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    /// Below this, suggestions confuse more than they help.
    const SIMILAR: f64 = 0.78;
    known
        .map(|candidate| (similarity(word, candidate), candidate))
        .filter(|(score, _)| *score >= SIMILAR)
        .max_by(|left, right| left.0.total_cmp(&right.0))
        .map(|(_, candidate)| candidate)
}

/// Jaro–Winkler similarity, 0 to 1. It forgives swapped and missing letters, and rates a shared beginning highly, which
/// is how keys are misremembered: `runtime_handler` for `runtimes`.
fn similarity(left: &str, right: &str) -> f64 {
    let left: Vec<char> = left.chars().collect();
    let right: Vec<char> = right.chars().collect();
    if left.is_empty() || right.is_empty() {
        return 0.0;
    }
    let window = (left.len().max(right.len()) / 2).saturating_sub(1);
    let mut taken = vec![false; right.len()];
    let mut from_left = Vec::new();
    for (index, letter) in left.iter().enumerate() {
        let low = index.saturating_sub(window);
        let high = (index + window + 1).min(right.len());
        if let Some(found) = (low..high).find(|&at| !taken[at] && right[at] == *letter) {
            taken[found] = true;
            from_left.push(*letter);
        }
    }
    if from_left.is_empty() {
        return 0.0;
    }
    let from_right = right.iter().zip(&taken).filter(|(_, taken)| **taken);
    let moved = from_left
        .iter()
        .zip(from_right)
        .filter(|(ours, (theirs, _))| ours != theirs)
        .count();
    let matches = ratio(from_left.len(), 1);
    let jaro = (ratio(from_left.len(), left.len())
        + ratio(from_left.len(), right.len())
        + (matches - ratio(moved, 2)) / matches)
        / 3.0;
    let prefix = left
        .iter()
        .zip(&right)
        .take(4)
        .take_while(|(ours, theirs)| ours == theirs)
        .count();
    jaro + ratio(prefix, 10) * (1.0 - jaro)
}

/// Keys are short: the lengths that come here fit a u16, so the division is exact enough.
fn ratio(part: usize, whole: usize) -> f64 {
    let small = |number: usize| f64::from(u16::try_from(number).unwrap_or(u16::MAX));
    small(part) / small(whole)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::nearest;

    #[rstest]
    #[case("runtime_handler", Some("runtimes"))]
    #[case("sokcet", Some("socket"))]
    #[case("logs", Some("log"))]
    #[case("imagse", Some("image"))]
    #[case("cgroups", Some("cgroup"))]
    #[case("zzz", None)]
    #[case("", None)]
    fn suggests(#[case] word: &str, #[case] expected: Option<&str>) {
        let known = [
            "root",
            "run",
            "socket",
            "log",
            "default_runtime",
            "runtimes",
            "cgroup",
            "network",
            "image",
        ];
        assert_eq!(nearest(word, known.into_iter()), expected);
    }
}
