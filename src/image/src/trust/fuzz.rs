//! What the fuzz target of policies calls.

#![expect(clippy::expect_used, reason = "a broken promise is a finding")]

use std::path::Path;

use serde_json::{Value, json};

use super::policy::{Keys, Policy, Requirement};
use super::read_demands;
use super::scope::scopes;
use crate::config::TrustConfig;
use crate::error::ImageError;
use crate::fuzz::{check, references};
use crate::reference::Reference;

/// A policy: one that cannot be read accepts nothing, and one that can accepts only where it says so in so many words.
/// `folder` takes the file that it is, and is otherwise empty.
pub fn policy_json(bytes: &[u8], folder: &Path) {
    let file = folder.join("policy.json");
    let trust = TrustConfig {
        policy: None,
        policy_dir: None,
        default_policy: file.clone(),
        registries_d: folder.join("registries.d"),
        lookaside: folder.join("lookaside"),
    };
    std::fs::write(&file, bytes).expect("write the policy");
    let policy = match Policy::parse(bytes) {
        Ok(policy) => policy,
        Err(fault) => {
            assert!(!fault.to_string().is_empty());
            let reference = Reference::parse("busybox").expect("a reference");
            // As the node's policy, and as that of a namespace.
            for own in [None, Some(file)] {
                let refusal = read_demands(&trust, &reference, own).err();
                refused(&refusal.expect("a policy that cannot be read accepts nothing"));
            }
            return;
        }
    };
    let raw: Value = serde_json::from_slice(bytes).expect("what was read once");
    for reference in references() {
        let (_, requirements) = policy.demands(&reference);
        assert!(!requirements.is_empty());
        let accepts = requirements
            .iter()
            .all(|requirement| *requirement == Requirement::AcceptAnything);
        assert_eq!(accepts, says_so(&raw, &reference), "{reference}");
        // Which files there are is no matter of the policy, and of some the opening alone does something.
        if requirements.iter().any(names_files) {
            continue;
        }
        match read_demands(&trust, &reference, None) {
            Ok(demands) => {
                assert_eq!(demands.proofs.is_empty(), accepts, "{reference}");
                assert_eq!(demands.place.is_none(), accepts, "{reference}");
            }
            Err(error) => {
                assert!(!accepts, "{error}");
                refused(&error);
            }
        }
    }
}

fn refused(error: &ImageError) {
    check(error);
    let is_refusal = matches!(error, ImageError::SignatureValidationFailed { .. });
    assert!(is_refusal, "{error:?}");
}

fn names_files(requirement: &Requirement) -> bool {
    let are_files = |keys: &Keys| matches!(keys, Keys::Files(_));
    match requirement {
        Requirement::AcceptAnything | Requirement::Reject | Requirement::Certificate { .. } => {
            false
        }
        Requirement::SignedBy { keys, .. } => are_files(keys),
        Requirement::SigstoreSigned { keys, log_keys, .. } => {
            are_files(keys) || log_keys.as_ref().is_some_and(are_files)
        }
    }
}

/// Whether all that the document has for an image is the permission to use it, found without the code that is tested.
fn says_so(policy: &Value, reference: &Reference) -> bool {
    let docker = &policy["transports"]["docker"];
    let mut names = scopes(reference);
    names.push(String::new());
    let found = names
        .iter()
        .find_map(|scope| docker.get(scope))
        .unwrap_or(&policy["default"]);
    let permission = json!({"type": "insecureAcceptAnything"});
    found
        .as_array()
        .is_some_and(|items| items.iter().all(|item| *item == permission))
}
