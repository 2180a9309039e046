//! How a session's outcome is told on its error stream.

use engine::streams::StreamEnd;
use serde::Serialize;

/// What is said, by the version that was agreed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StatusForm {
    /// Before v4: nothing when all went well, else a sentence.
    Text,
    /// v4 and later: a `Status` of Kubernetes in JSON.
    Json,
}

/// How a session with a process came to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The process ended, or there is no more to hear of it.
    Ended(StreamEnd),
    /// It could not be started or was lost; the sentence says why.
    Failed(String),
}

#[derive(Serialize)]
#[expect(clippy::struct_field_names, reason = "it is what Kubernetes calls it")]
struct Status<'a> {
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    details: Option<Details>,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<u16>,
}

#[derive(Serialize)]
struct Details {
    causes: [Cause; 1],
}

#[derive(Serialize)]
struct Cause {
    // What Kubernetes calls the type of a cause in its code is called reason on the wire.
    reason: &'static str,
    message: String,
}

impl Outcome {
    /// The bytes for the error stream; empty for nothing to say.
    pub(crate) fn tell(&self, form: StatusForm) -> Vec<u8> {
        let success = Status {
            status: "Success",
            message: None,
            reason: None,
            details: None,
            code: None,
        };
        match (self, form) {
            (Self::Ended(StreamEnd::Exited(0) | StreamEnd::Detached), StatusForm::Text) => {
                Vec::new()
            }
            (Self::Ended(StreamEnd::Exited(0) | StreamEnd::Detached), StatusForm::Json) => {
                json(&success)
            }
            (Self::Ended(StreamEnd::Exited(code)), _) => {
                let sentence = format!("command terminated with exit code {code}");
                match form {
                    StatusForm::Text => sentence.into_bytes(),
                    StatusForm::Json => json(&Status {
                        status: "Failure",
                        message: Some(&sentence),
                        reason: Some("NonZeroExitCode"),
                        details: Some(Details {
                            causes: [Cause {
                                reason: "ExitCode",
                                // Clients read eight bits, and take nothing else for a code.
                                message: (code & 0xff).to_string(),
                            }],
                        }),
                        ..success
                    }),
                }
            }
            (Self::Failed(why), StatusForm::Text) => why.clone().into_bytes(),
            (Self::Failed(why), StatusForm::Json) => json(&Status {
                status: "Failure",
                message: Some(why),
                reason: Some("InternalError"),
                code: Some(500),
                ..success
            }),
        }
    }
}

fn json(status: &Status<'_>) -> Vec<u8> {
    // Strings and numbers can always be written.
    serde_json::to_vec(status).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(
        Outcome::Ended(StreamEnd::Exited(0)),
        StatusForm::Json,
        r#"{"status":"Success"}"#
    )]
    #[case(
        Outcome::Ended(StreamEnd::Detached),
        StatusForm::Json,
        r#"{"status":"Success"}"#
    )]
    #[case(Outcome::Ended(StreamEnd::Exited(0)), StatusForm::Text, "")]
    #[case(
        Outcome::Ended(StreamEnd::Exited(137)),
        StatusForm::Json,
        r#"{"status":"Failure","message":"command terminated with exit code 137","reason":"NonZeroExitCode","details":{"causes":[{"reason":"ExitCode","message":"137"}]}}"#
    )]
    #[case(
        Outcome::Ended(StreamEnd::Exited(3)),
        StatusForm::Text,
        "command terminated with exit code 3"
    )]
    #[case(
        Outcome::Failed("no \"x\"".to_owned()),
        StatusForm::Json,
        r#"{"status":"Failure","message":"no \"x\"","reason":"InternalError","code":500}"#
    )]
    #[case(Outcome::Failed("no x".to_owned()), StatusForm::Text, "no x")]
    fn outcomes_are_told(#[case] outcome: Outcome, #[case] form: StatusForm, #[case] said: &str) {
        assert_eq!(String::from_utf8(outcome.tell(form)).unwrap(), said);
    }
}
