//! `policy.json`: what an image has to show before it may be used, by where it comes from. Pure.
//!
//! The file is the one of containers-policy.json(5). Images are pulled from registries only, so of its transports `docker`
//! counts; the others are read as strictly and not used. An unknown key, kind or value anywhere makes the whole file
//! unusable: what is not understood might be a demand.

use std::collections::BTreeMap;
use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::reference::{Reference, clip};

use super::document::{Fault, Fields, Node, element};
use super::identity::Identity;
use super::scope::scopes;

/// The transport whose scopes are those of registries.
const REGISTRIES: &str = "docker";

/// A whole policy.
#[derive(Debug)]
pub(super) struct Policy {
    /// For what no scope is about. Never empty.
    default: Vec<Requirement>,
    /// By scope; the empty one is for all registries.
    docker: BTreeMap<String, Vec<Requirement>>,
}

/// One of the things that all have to hold.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub(super) enum Requirement {
    AcceptAnything,
    Reject,
    /// A "simple signing" signature by one of these OpenPGP keys.
    SignedBy {
        keys: Keys,
        identity: Identity,
    },
    /// A cosign signature by one of these public keys, and if there are keys of a transparency log, an entry in it.
    SigstoreSigned {
        keys: Keys,
        log_keys: Option<Keys>,
        identity: Identity,
    },
    /// A cosign signature by a certificate (`fulcio` or `pki`), which we do not verify: it accepts nothing.
    Certificate {
        /// The key of the file that asks for it.
        key: &'static str,
    },
}

/// Where public keys are.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub(super) enum Keys {
    Files(Vec<PathBuf>),
    /// What the policy itself holds.
    Data(Vec<Vec<u8>>),
}

impl Policy {
    /// Reads a policy.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, Fault> {
        let root = Node::parse(bytes)?;
        let fields = root.fields("", &["default", "transports"])?;
        let default = requirements(fields.required("default")?, &fields.place("default"))?;
        let mut docker = BTreeMap::new();
        if let Some(node) = fields.get("transports") {
            let transports = node.members(&fields.place("transports"))?;
            for (name, node) in transports.pairs {
                let place = transports.place(name);
                let scopes = node.members(&place)?;
                for (scope, node) in scopes.pairs {
                    let demanded = requirements(node, &scopes.place(scope))?;
                    if name == REGISTRIES {
                        docker.insert(scope.clone(), demanded);
                    }
                }
            }
        }
        Ok(Self { default, docker })
    }

    /// What an image has to show, and which scope says so, in words.
    pub(super) fn demands(&self, reference: &Reference) -> (String, &[Requirement]) {
        for scope in scopes(reference) {
            if let Some(found) = self.docker.get(&scope) {
                return (format!("scope {scope}"), found);
            }
        }
        match self.docker.get("") {
            Some(found) => (format!("the default of the transport {REGISTRIES}"), found),
            None => ("the default".to_owned(), &self.default),
        }
    }
}

impl Requirement {
    /// In words, for a person.
    pub(super) fn describe(&self) -> String {
        match self {
            Self::AcceptAnything => "accepts anything".to_owned(),
            Self::Reject => "rejects everything".to_owned(),
            Self::SignedBy { keys, .. } => format!("wants an OpenPGP signature by {keys}"),
            Self::SigstoreSigned { keys, log_keys, .. } => {
                let log = match log_keys {
                    Some(_) => ", with an entry in a transparency log",
                    None => "",
                };
                format!("wants a cosign signature by {keys}{log}")
            }
            Self::Certificate { key } => {
                format!(
                    "wants signatures by certificates (\"{key}\"), which this version does not verify: rejects everything"
                )
            }
        }
    }
}

impl std::fmt::Display for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Files(paths) => {
                let names: Vec<String> = paths
                    .iter()
                    .take(4)
                    .map(|path| path.display().to_string())
                    .collect();
                write!(f, "a key of {}", names.join(" or "))?;
                if paths.len() > names.len() {
                    f.write_str(" or others")?;
                }
                Ok(())
            }
            Self::Data(_) => f.write_str("a key that the policy holds"),
        }
    }
}

fn requirements(node: &Node, place: &str) -> Result<Vec<Requirement>, Fault> {
    let items = node.list(place)?;
    if items.is_empty() {
        return Err(Fault::new(
            place,
            "the list of requirements is empty; {\"type\": \"insecureAcceptAnything\"} asks for nothing",
        ));
    }
    items
        .iter()
        .enumerate()
        .map(|(position, item)| requirement(item, &element(place, position)))
        .collect()
}

fn requirement(node: &Node, place: &str) -> Result<Requirement, Fault> {
    let members = node.members(place)?;
    match members.required_text("type")? {
        "insecureAcceptAnything" => node
            .fields(place, &["type"])
            .map(|_| Requirement::AcceptAnything),
        "reject" => node.fields(place, &["type"]).map(|_| Requirement::Reject),
        "signedBy" => signed_by(node, place),
        "sigstoreSigned" => sigstore_signed(node, place),
        "signedBaseLayer" => Err(Fault::new(
            &members.place("type"),
            "signedBaseLayer was never given a meaning; take the requirement out",
        )),
        other => Err(Fault::new(
            &members.place("type"),
            format!(
                "unknown requirement \"{}\"; known are insecureAcceptAnything, reject, signedBy, sigstoreSigned",
                clip(other, 60)
            ),
        )),
    }
}

fn signed_by(node: &Node, place: &str) -> Result<Requirement, Fault> {
    let fields = node.fields(
        place,
        &[
            "type",
            "keyType",
            "keyPath",
            "keyPaths",
            "keyData",
            "signedIdentity",
        ],
    )?;
    let kind = fields.required_text("keyType")?;
    if kind != "GPGKeys" {
        return Err(Fault::new(
            &fields.place("keyType"),
            format!("\"{}\" is not supported, only GPGKeys", clip(kind, 60)),
        ));
    }
    let sources = ["keyPath", "keyPaths", "keyData"];
    Ok(Requirement::SignedBy {
        keys: one_of(&fields, place, &sources)?
            .ok_or_else(|| Fault::new(place, format!("one of {} is needed", sources.join(", "))))?,
        identity: identity(&fields)?,
    })
}

fn sigstore_signed(node: &Node, place: &str) -> Result<Requirement, Fault> {
    let fields = node.fields(
        place,
        &[
            "type",
            "keyPath",
            "keyPaths",
            "keyData",
            "keyDatas",
            "fulcio",
            "pki",
            "rekorPublicKeyPath",
            "rekorPublicKeyPaths",
            "rekorPublicKeyData",
            "rekorPublicKeyDatas",
            "signedIdentity",
        ],
    )?;
    let keys = one_of(
        &fields,
        place,
        &["keyPath", "keyPaths", "keyData", "keyDatas"],
    )?;
    let log_keys = one_of(
        &fields,
        place,
        &[
            "rekorPublicKeyPath",
            "rekorPublicKeyPaths",
            "rekorPublicKeyData",
            "rekorPublicKeyDatas",
        ],
    )?;
    let fulcio = section(
        &fields,
        "fulcio",
        &["caPath", "caData", "oidcIssuer", "subjectEmail"],
    )?;
    let pki = section(
        &fields,
        "pki",
        &[
            "caRootsPath",
            "caRootsData",
            "caIntermediatesPath",
            "caIntermediatesData",
            "subjectEmail",
            "subjectHostname",
        ],
    )?;
    let identity = identity(&fields)?;
    match (keys, fulcio, pki) {
        (Some(keys), false, false) => Ok(Requirement::SigstoreSigned {
            keys,
            log_keys,
            identity,
        }),
        (None, true, false) if log_keys.is_none() => Err(Fault::new(
            place,
            "\"fulcio\" needs a rekorPublicKeyPath, …Paths, …Data or …Datas",
        )),
        (None, false, true) if log_keys.is_some() => Err(Fault::new(
            place,
            "\"pki\" and the keys of a transparency log exclude each other",
        )),
        (None, true, false) => Ok(Requirement::Certificate { key: "fulcio" }),
        (None, false, true) => Ok(Requirement::Certificate { key: "pki" }),
        _ => Err(Fault::new(
            place,
            "exactly one of keyPath, keyPaths, keyData, keyDatas, fulcio, pki is needed",
        )),
    }
}

/// Whether an object is there, all of whose members are strings of these names.
fn section(fields: &Fields<'_>, key: &str, known: &[&str]) -> Result<bool, Fault> {
    let Some(node) = fields.get(key) else {
        return Ok(false);
    };
    let section = node.fields(&fields.place(key), known)?;
    for (name, _) in section.pairs {
        section.text(name)?;
    }
    Ok(true)
}

fn identity(fields: &Fields<'_>) -> Result<Identity, Fault> {
    Identity::read(
        fields.get("signedIdentity"),
        &fields.place("signedIdentity"),
    )
}

/// The keys that one of these members tells; `None` if none of them is there. What a member is follows from the end of its
/// name.
fn one_of(fields: &Fields<'_>, place: &str, names: &[&str]) -> Result<Option<Keys>, Fault> {
    let given: Vec<&&str> = names
        .iter()
        .filter(|name| fields.get(name).is_some())
        .collect();
    let name = match given.as_slice() {
        [] => return Ok(None),
        [name] => **name,
        [one, other, ..] => {
            return Err(Fault::new(
                place,
                format!("{one} and {other} exclude each other"),
            ));
        }
    };
    let texts = if name.ends_with('s') {
        fields.texts(name)?.unwrap_or_default()
    } else {
        vec![(fields.place(name), fields.required_text(name)?)]
    };
    if name.contains("Path") {
        let paths = texts.into_iter().map(|(place, text)| {
            if text.starts_with('/') {
                Ok(PathBuf::from(text))
            } else {
                Err(Fault::new(
                    &place,
                    format!("\"{}\" is not an absolute path", clip(text, 100)),
                ))
            }
        });
        return Ok(Some(Keys::Files(paths.collect::<Result<_, _>>()?)));
    }
    let data = texts.into_iter().map(|(place, text)| {
        STANDARD
            .decode(text)
            .map_err(|_| Fault::new(&place, "it is not base64"))
    });
    Ok(Some(Keys::Data(data.collect::<Result<_, _>>()?)))
}

#[cfg(test)]
#[path = "policy_test.rs"]
mod test;
