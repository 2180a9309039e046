//! How readily the kernel kills a container when memory runs out.

use crate::error::SpecError;
use crate::input::NodeFacts;

/// The score, no lower than the node may give; `field` is the CRI field that it came from.
pub fn oom_score_adj(
    asked: i64,
    field: &str,
    facts: &NodeFacts,
    warnings: &mut Vec<String>,
) -> Result<i32, SpecError> {
    let refuse = || SpecError::OutOfRange {
        field: field.to_owned(),
        value: asked,
        range: "-1000 to 1000",
    };
    if !(-1000..=1000).contains(&asked) {
        return Err(refuse());
    }
    let given = asked.max(facts.oom_score_adj_min);
    if given != asked {
        warnings.push(format!(
            "oom_score_adj {given} instead of {asked}, for the server lacks CAP_SYS_RESOURCE"
        ));
    }
    i32::try_from(given).map_err(|_| refuse())
}

#[cfg(test)]
mod test {
    use rstest::rstest;

    use super::*;
    use crate::container::sample;

    #[rstest]
    #[case(-998, -1000, Some(-998), 0)]
    #[case(-998, 0, Some(0), 1)]
    #[case(1000, 0, Some(1000), 0)]
    #[case(0, 200, Some(200), 1)]
    #[case(1001, -1000, None, 0)]
    #[case(-1001, 0, None, 0)]
    #[case(i64::MIN, 0, None, 0)]
    fn scores_are_clamped_and_said_to_be(
        #[case] asked: i64,
        #[case] lowest: i64,
        #[case] given: Option<i32>,
        #[case] warned: usize,
    ) {
        let facts = NodeFacts {
            oom_score_adj_min: lowest,
            ..sample::facts()
        };
        let mut warnings = Vec::new();
        let result = oom_score_adj(asked, "oom_score_adj", &facts, &mut warnings);
        assert_eq!(result.ok(), given);
        assert_eq!(warnings.len(), warned);
    }
}
