//! A plan in words, for the operator, and the last error of each host, which is remembered for that.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use super::plan::{Plan, PlannedHost};
use crate::credentials::NodeCredentialsError;
use crate::error::chain;
use crate::reference::Reference;

/// The most hosts whose last errors are remembered; the oldest error is forgotten first.
const MAX_ERRORS: usize = 64;

/// How the server would look for an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// The namespace of the pods that it is for.
    pub namespace: Option<String>,
    /// The file and line that give a short name its meaning.
    pub short_name: Option<String>,
    /// Full names, in the order in which they are looked for. Several only for short names.
    pub references: Vec<ExplainedReference>,
}

/// One full name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExplainedReference {
    /// The full name.
    pub reference: String,
    /// The file and line that forbid it.
    pub blocked: Option<String>,
    /// In the order in which they are asked.
    pub hosts: Vec<ExplainedHost>,
    /// Which policy of trust decides about it.
    pub policy: Option<String>,
}

/// One host that may have an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExplainedHost {
    /// The repository on that host: scheme, host and path, without tag or digest.
    pub url: String,
    /// The file and line, or the key of the configuration, that names the host.
    pub from: String,
    /// Whether it is the registry that the reference names.
    pub origin: bool,
    /// What it may be asked for: `resolve` (where a tag leads), `pull` (what a digest names).
    pub capabilities: Vec<&'static str>,
    /// Why it is not asked for this reference.
    pub skipped: Option<&'static str>,
    /// How the connection is secured, in words.
    pub tls: String,
    /// Names of headers that are sent along.
    pub headers: Vec<String>,
    /// The proxy on the way, without its user and password.
    pub proxy: Option<String>,
    /// Whose credentials it is shown.
    pub credentials: Option<String>,
    /// What went wrong with it last.
    pub last_error: Option<LastError>,
}

/// What went wrong with a host, and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastError {
    /// When it happened.
    pub at: SystemTime,
    /// In one line.
    pub words: String,
}

/// The last error of each host, by where its API begins.
#[derive(Debug, Default)]
pub(crate) struct LastErrors(Mutex<HashMap<String, LastError>>);

impl LastErrors {
    /// Remembers an error of the host whose API begins at `root`.
    pub(crate) fn note(&self, root: &str, error: &impl std::error::Error) {
        let error = LastError {
            at: SystemTime::now(),
            words: chain(error),
        };
        let mut errors = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        errors.insert(root.to_owned(), error);
        if errors.len() > MAX_ERRORS {
            let oldest = errors.iter().min_by_key(|(_, error)| error.at);
            if let Some(oldest) = oldest.map(|(root, _)| root.clone()) {
                errors.remove(&oldest);
            }
        }
    }

    fn of(&self, host: &PlannedHost) -> Option<LastError> {
        let errors = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        errors.get(&host.root()).cloned()
    }
}

impl ExplainedReference {
    /// Tells a plan, and whose credentials each host is shown. The policy is for others to fill in.
    pub(crate) fn new(
        reference: &Reference,
        plan: Plan,
        errors: &LastErrors,
        shown: impl Fn(&PlannedHost) -> Result<Option<String>, NodeCredentialsError>,
    ) -> Self {
        let explained = |host: &PlannedHost| ExplainedHost {
            credentials: shown(host)
                .unwrap_or_else(|error| Some(format!("none can be used: {}", chain(&error)))),
            ..explained(host, errors.of(host))
        };
        Self {
            reference: reference.to_string(),
            blocked: plan.blocked,
            hosts: plan.hosts.iter().map(explained).collect(),
            policy: None,
        }
    }
}

fn explained(host: &PlannedHost, last_error: Option<LastError>) -> ExplainedHost {
    let mut headers: Vec<String> = host
        .headers
        .iter()
        .map(|(name, _)| name.to_string())
        .collect();
    headers.dedup();
    ExplainedHost {
        url: host.url(),
        from: host.from.clone(),
        origin: host.origin,
        capabilities: [("resolve", host.resolve), ("pull", host.pull)]
            .into_iter()
            .filter_map(|(word, has)| has.then_some(word))
            .collect(),
        skipped: host.skipped,
        tls: tls(host),
        headers,
        proxy: host.transport.proxy.as_ref().map(ToString::to_string),
        credentials: None,
        last_error,
    }
}

fn tls(host: &PlannedHost) -> String {
    use super::plan::Scheme;

    if host.transport.scheme == Scheme::Http {
        return "none, plain HTTP".to_owned();
    }
    let tls = &host.transport.tls;
    let mut words = vec![if tls.skip_verify {
        "any certificate is accepted".to_owned()
    } else {
        "verified by the system's authorities".to_owned()
    }];
    if !tls.skip_verify {
        for authority in &tls.authorities {
            words.push(format!("by {}", authority.display()));
        }
    }
    if !tls.identities.is_empty() {
        let shown: Vec<String> = tls
            .identities
            .iter()
            .map(|identity| identity.certificate.display().to_string())
            .collect();
        // Which one is for the host to say.
        words.push(format!("shows {}", shown.join(" or ")));
    }
    if host.plain.is_some() {
        words.push("plain HTTP if it does not speak TLS".to_owned());
    }
    words.join(", ")
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn only_the_latest_errors_are_remembered() {
        let errors = LastErrors::default();
        for number in 0..2 * MAX_ERRORS {
            errors.note(
                &format!("https://h{number}/v2"),
                &std::io::Error::other("no\nroute"),
            );
        }
        let held = errors.0.lock().unwrap_or_else(PoisonError::into_inner);
        assert_eq!(held.len(), MAX_ERRORS);
        assert!(held.contains_key(&format!("https://h{}/v2", 2 * MAX_ERRORS - 1)));
        assert!(held.values().all(|error| !error.words.contains('\n')));
    }
}
