//! Authentication files of the node and of namespaces: whether pulls can use them, and who else can.

use image::{AuthFileProblem, AuthFileState};

use super::finding::Finding;
use crate::{assemble, config::Config, exit::in_full};

/// The name of this part.
const AREA: &str = "credentials";

/// All of it.
pub(super) fn check(config: &Config) -> Vec<Finding> {
    let files = assemble::node_credentials(config).look();
    if files.is_empty() {
        return vec![Finding::ok(
            AREA,
            "no authentication files: pulls that bring no credentials are anonymous",
        )];
    }
    files.iter().map(judge).collect()
}

fn judge(state: &AuthFileState) -> Finding {
    let file = state.file.display();
    match &state.problem {
        None => Finding::ok(AREA, file.to_string()),
        Some(AuthFileProblem::Unusable(error)) => Finding::warn(
            AREA,
            in_full(error),
            "mend the file: pulls that need it fail; docs/credentials.md shows its form",
        ),
        Some(AuthFileProblem::Exposed(problem)) => Finding::warn(
            AREA,
            format!("{file} {problem}"),
            format!("`chown root:root {file}` and `chmod 600 {file}`"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::check::finding::Level;

    #[rstest]
    #[case(None, Level::Ok, None)]
    #[case(
        Some(AuthFileProblem::Exposed("can be read by others than root")),
        Level::Warn,
        Some("chmod 600 /a.json")
    )]
    #[case(
        Some(AuthFileProblem::Unusable(image::NodeCredentialsError::NotAFile { file: "/a.json".into() })),
        Level::Warn,
        Some("mend the file")
    )]
    fn judges(
        #[case] problem: Option<AuthFileProblem>,
        #[case] level: Level,
        #[case] mend: Option<&str>,
    ) {
        let finding = judge(&AuthFileState {
            file: "/a.json".into(),
            problem,
        });
        assert_eq!(finding.level, level);
        assert!(finding.found.contains("/a.json"), "{finding:?}");
        let told = finding.mend.as_deref();
        assert_eq!(told.is_some(), mend.is_some(), "{finding:?}");
        assert!(told.unwrap_or_default().contains(mend.unwrap_or_default()));
    }
}
