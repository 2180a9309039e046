//! What is signed: a small JSON document that says "this digest is the image of that name". Pure.
//!
//! It is read only after its signature was verified, and as strictly as a policy: the part called critical may hold nothing
//! that is not understood.

use state::Digest;

use crate::reference::clip;

use super::document::{Fault, Node};

/// Whose form the document has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// "Simple signing" with OpenPGP.
    Simple,
    Cosign,
}

impl Form {
    fn name(self) -> &'static str {
        match self {
            Self::Simple => "atomic container signature",
            Self::Cosign => "cosign container image signature",
        }
    }
}

/// What a signature says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Statement {
    pub(super) digest: Digest,
    /// The name of the image, as the signer wrote it.
    pub(super) reference: String,
}

impl Statement {
    /// Reads a document whose signature was verified.
    pub(super) fn read(bytes: &[u8], form: Form) -> Result<Self, String> {
        Self::strictly(bytes, form)
            .map_err(|fault| clip(&format!("its payload is not usable: {fault}"), 300))
    }

    fn strictly(bytes: &[u8], form: Form) -> Result<Self, Fault> {
        let root = Node::parse(bytes)?;
        let fields = root.fields("", &["critical", "optional"])?;
        match (form, fields.required("optional")?) {
            // cosign writes null for no annotations.
            (Form::Cosign, Node::Null) => {}
            (_, optional) => {
                let optional = optional.members("optional")?;
                optional.text("creator")?;
                if let Some(timestamp) = optional.get("timestamp") {
                    timestamp.whole("optional.timestamp")?;
                }
            }
        }
        let critical = fields
            .required("critical")?
            .fields("critical", &["type", "image", "identity"])?;
        let kind = critical.required_text("type")?;
        if kind != form.name() {
            return Err(Fault::new(
                "critical.type",
                format!("\"{}\", expected \"{}\"", clip(kind, 60), form.name()),
            ));
        }
        let image = critical
            .required("image")?
            .fields("critical.image", &["docker-manifest-digest"])?;
        let digest = image.required_text("docker-manifest-digest")?;
        let identity = critical
            .required("identity")?
            .fields("critical.identity", &["docker-reference"])?;
        Ok(Self {
            digest: digest.parse().map_err(|_| {
                Fault::new(
                    "critical.image.docker-manifest-digest",
                    format!("\"{}\" is not a digest", clip(digest, 100)),
                )
            })?,
            reference: identity.required_text("docker-reference")?.to_owned(),
        })
    }
}

#[cfg(test)]
mod test {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use rstest::rstest;

    use super::*;

    const D: &str = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

    fn document(kind: &str, critical: &str, optional: &str) -> String {
        format!(
            r#"{{"critical":{{"type":"{kind}","image":{{"docker-manifest-digest":"{D}"}},
            "identity":{{"docker-reference":"r.example/a:1"}}{critical}}},"optional":{optional}}}"#
        )
    }

    #[rstest]
    #[case("atomic container signature", Form::Simple, "{}")]
    #[case(
        "atomic container signature",
        Form::Simple,
        r#"{"creator":"skopeo","timestamp":1700000000,"x":[1]}"#
    )]
    #[case("cosign container image signature", Form::Cosign, "null")]
    #[case("cosign container image signature", Form::Cosign, r#"{"team":"a"}"#)]
    fn reads(#[case] kind: &str, #[case] form: Form, #[case] optional: &str) {
        assert_eq!(
            Statement::read(document(kind, "", optional).as_bytes(), form).unwrap(),
            Statement {
                digest: D.parse().unwrap(),
                reference: "r.example/a:1".to_owned(),
            }
        );
    }

    #[rstest]
    #[case(
        "cosign container image signature",
        Form::Simple,
        "",
        "{}",
        "critical.type"
    )]
    #[case("atomic container signature", Form::Cosign, "", "{}", "critical.type")]
    #[case(
        "atomic container signature",
        Form::Simple,
        "",
        "null",
        "optional: expected an object"
    )]
    #[case(
        "atomic container signature",
        Form::Simple,
        "",
        r#"{"timestamp":1.5}"#,
        "optional.timestamp"
    )]
    #[case(
        "atomic container signature",
        Form::Simple,
        r#","x":1"#,
        "{}",
        "critical.x: unknown key"
    )]
    #[case(
        "atomic container signature",
        Form::Simple,
        r#","image":{}"#,
        "{}",
        "occurs twice"
    )]
    fn refuses(
        #[case] kind: &str,
        #[case] form: Form,
        #[case] critical: &str,
        #[case] optional: &str,
        #[case] expected: &str,
    ) {
        let words =
            Statement::read(document(kind, critical, optional).as_bytes(), form).unwrap_err();
        assert!(words.contains(expected), "{words}");
    }

    #[test]
    fn a_digest_of_another_kind_is_refused() {
        let json = document("atomic container signature", "", "{}").replace("sha256:", "md5:");
        assert!(Statement::read(json.as_bytes(), Form::Simple).is_err());
    }
}
