//! What a check found, and how it is printed.

use std::fmt::Write;

use serde::Serialize;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Level {
    /// As it should be.
    Ok,
    /// Pods run, but something is missing or worse than it could be.
    Warn,
    /// Pods do not run.
    Fail,
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    /// What was looked at.
    pub(crate) area: &'static str,
    /// How it is.
    pub(crate) level: Level,
    /// What was seen.
    pub(crate) found: String,
    /// What would mend it; there is always one for [`Level::Warn`] and [`Level::Fail`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) mend: Option<String>,
}

impl Finding {
    /// As it should be.
    pub(crate) fn ok(area: &'static str, found: impl Into<String>) -> Self {
        Self {
            area,
            level: Level::Ok,
            found: found.into(),
            mend: None,
        }
    }

    /// Not as good as it could be.
    pub(crate) fn warn(
        area: &'static str,
        found: impl Into<String>,
        mend: impl Into<String>,
    ) -> Self {
        Self {
            area,
            level: Level::Warn,
            found: found.into(),
            mend: Some(mend.into()),
        }
    }

    /// Pods cannot run.
    pub(crate) fn fail(
        area: &'static str,
        found: impl Into<String>,
        mend: impl Into<String>,
    ) -> Self {
        Self {
            level: Level::Fail,
            ..Self::warn(area, found, mend)
        }
    }
}

/// The worst level of all.
pub(crate) fn worst(findings: &[Finding]) -> Level {
    findings
        .iter()
        .map(|finding| finding.level)
        .max()
        .unwrap_or(Level::Ok)
}

/// A line per finding, and one below it with what would mend it.
pub(crate) fn text(findings: &[Finding]) -> String {
    let width = findings
        .iter()
        .map(|finding| finding.area.len())
        .max()
        .unwrap_or(0);
    let mut text = String::new();
    for finding in findings {
        let level = match finding.level {
            Level::Ok => "ok  ",
            Level::Warn => "WARN",
            Level::Fail => "FAIL",
        };
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{level}  {:<width$}  {}", finding.area, finding.found);
        if let Some(mend) = &finding.mend {
            let _ = writeln!(text, "      {:<width$}  -> {mend}", "");
        }
    }
    let count = |level| {
        findings
            .iter()
            .filter(|finding| finding.level == level)
            .count()
    };
    let _ = match worst(findings) {
        Level::Ok => writeln!(text, "this node can run pods"),
        Level::Warn => writeln!(
            text,
            "this node can run pods; warnings: {}",
            count(Level::Warn)
        ),
        Level::Fail => writeln!(
            text,
            "this node cannot run pods; failures: {}",
            count(Level::Fail)
        ),
    };
    text
}

/// One JSON object with all of it.
pub(crate) fn json(findings: &[Finding]) -> String {
    let value = serde_json::json!({ "level": worst(findings), "findings": findings });
    format!("{value:#}")
}

#[cfg(test)]
mod tests {
    use super::{Finding, Level, json, text, worst};

    #[test]
    fn printed() {
        let findings = [
            Finding::ok("kernel", "Linux 6.18"),
            Finding::warn("rights", "none", "run as root"),
            Finding::fail("cni", "no network", "install one"),
        ];
        let expected = "\
ok    kernel  Linux 6.18
WARN  rights  none
              -> run as root
FAIL  cni     no network
              -> install one
this node cannot run pods; failures: 1
";
        assert_eq!(text(&findings), expected);
        assert_eq!(worst(&findings[..2]), Level::Warn);
        assert_eq!(worst(&[]), Level::Ok);
        assert!(json(&findings).contains("\"level\": \"fail\""));
    }
}
