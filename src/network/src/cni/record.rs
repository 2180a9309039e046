//! Records of attachments on disk, in the form and place of libcni's result cache: `<cache>/results/<network>-<pod id>-<interface>`.
//!
//! A record is written before the first plugin runs (without a result) and again, in the background, when the last one has answered;
//! each time by rename and never synced: a crash of the server loses none, and after a power cut at most the newest are missing.
//! It holds the configuration as it was, so that an attachment is undone with the plugins that made it. Other runtimes may share
//! the directory: ours are told by `owner`, a key that libcni does not know and ignores; the others are never touched.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use tokio::task::spawn_blocking;

use super::catalog::Chain;
use super::request::Capabilities;
use super::result::AddResult;
use super::serial::Turn;
use super::version::Version;
use crate::{INTERFACE, NetworkError};

const KIND: &str = "cniCacheV1";
const OWNER: &str = "pintle";
const MAX_RECORD_BYTES: u64 = 8 << 20;
/// Begins the name of a file that is being written; `-` keeps it out of the names that are records.
const UNFINISHED: &str = ".pintle-";

/// One attachment on record. Field names in JSON are libcni's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Record {
    kind: String,
    /// The pod's id.
    pub container_id: String,
    /// The network list that the attachment was made with.
    #[serde(with = "base64_bytes")]
    pub config: Vec<u8>,
    if_name: String,
    /// Name of the network.
    pub network_name: String,
    /// Where the namespace was pinned.
    #[serde(default)]
    pub netns: PathBuf,
    /// `CNI_ARGS`.
    #[serde(default)]
    pub cni_args: Vec<(String, String)>,
    /// Values by capability.
    #[serde(default)]
    pub capability_args: Capabilities,
    /// The chain's final result; absent while the attach is under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<AddResult>,
    /// The version that was spoken with the plugins; not libcni's.
    #[serde(default)]
    cni_version: String,
    /// Not libcni's.
    #[serde(default)]
    owner: String,
}

impl Record {
    /// A record of an attach that is about to begin.
    pub(super) fn new(
        chain: &Chain,
        container_id: String,
        netns: PathBuf,
        cni_args: Vec<(String, String)>,
        capability_args: Capabilities,
    ) -> Self {
        let conf = &chain.conf;
        Self {
            kind: KIND.to_owned(),
            container_id,
            config: conf.list_json.clone(),
            if_name: INTERFACE.to_owned(),
            network_name: conf.name.clone(),
            netns,
            cni_args,
            capability_args,
            result: None,
            cni_version: chain.version.to_string(),
            owner: OWNER.to_owned(),
        }
    }

    /// The version that was spoken when the attachment was made.
    pub(super) fn version(&self) -> Option<Version> {
        Version::parse(&self.cni_version)
    }

    /// The value of one of the arguments, empty if it is not there.
    pub(super) fn argument(&self, name: &str) -> String {
        let found = self.cni_args.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.clone()).unwrap_or_default()
    }
}

/// The directory of records, and which of them are ours.
#[derive(Clone, Debug)]
pub(super) struct Records(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    dir: PathBuf,
    /// Networks by pod id. Locked for moments only, never while a file is touched.
    index: Mutex<BTreeMap<String, BTreeSet<String>>>,
    unfinished: AtomicU64,
}

impl Records {
    /// Opens or makes `<cache_dir>/results` and learns which records are ours.
    pub(super) fn open(cache_dir: &Path) -> Result<Self, NetworkError> {
        let dir = cache_dir.join("results");
        let mut index: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        let mut scan = || -> io::Result<()> {
            DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
            for entry in fs::read_dir(&dir)? {
                let name = entry?.file_name();
                let Some(name) = name.to_str() else { continue };
                if name.starts_with(UNFINISHED) {
                    let _ = fs::remove_file(dir.join(name));
                } else if name.ends_with(&format!("-{INTERFACE}")) {
                    match read(&dir.join(name)) {
                        Ok(Some(record))
                            if record.owner == OWNER
                                && file_name(&record.network_name, &record.container_id)
                                    == name =>
                        {
                            index
                                .entry(record.container_id)
                                .or_default()
                                .insert(record.network_name);
                        }
                        Ok(_) => {}
                        Err(error) => {
                            tracing::warn!(record = name, %error, "network record is unreadable and left alone");
                        }
                    }
                }
            }
            Ok(())
        };
        match scan() {
            Ok(()) => Ok(Self(Arc::new(Inner {
                dir,
                index: Mutex::new(index),
                unfinished: AtomicU64::new(0),
            }))),
            Err(source) => Err(NetworkError::Record { path: dir, source }),
        }
    }

    /// Pods with a record of ours.
    pub(super) fn pods(&self) -> Vec<String> {
        self.index(|index| index.keys().cloned().collect())
    }

    /// Whether the pod has a record of ours.
    pub(super) fn contains(&self, pod_id: &str) -> bool {
        self.index(|index| index.contains_key(pod_id))
    }

    /// The pod's records: one per network it was attached to.
    pub(super) async fn load(&self, pod_id: &str) -> Result<Vec<Record>, NetworkError> {
        let (records, pod_id) = (self.clone(), pod_id.to_owned());
        let joined = spawn_blocking(move || records.load_now(&pod_id)).await;
        joined.unwrap_or_else(|join| {
            Err(NetworkError::Record {
                path: self.0.dir.clone(),
                source: io::Error::other(join),
            })
        })
    }

    /// The same, blocking.
    pub(super) fn load_now(&self, pod_id: &str) -> Result<Vec<Record>, NetworkError> {
        let networks = self.index(|index| index.get(pod_id).cloned().unwrap_or_default());
        let mut records = Vec::with_capacity(networks.len());
        for network in networks {
            let path = self.path(&network, pod_id);
            match read(&path) {
                Ok(Some(record)) => records.push(record),
                // Somebody took it away, so there is nothing to undo it with.
                Ok(None) => self.forget(&network, pod_id),
                Err(source) => return Err(NetworkError::Record { path, source }),
            }
        }
        Ok(records)
    }

    /// Writes the record of an attachment that is about to be made.
    pub(super) async fn put(&self, record: &Record, turn: &Turn) -> Result<(), NetworkError> {
        let (records, record, turn) = (self.clone(), record.clone(), turn.clone());
        let path = self.path(&record.network_name, &record.container_id);
        let written = blocking(move || {
            let _turn = turn;
            records.write(&record)
        });
        written
            .await
            .map_err(|source| NetworkError::Record { path, source })
    }

    /// Writes the record of an attachment that has been made, in place of the former one, without making anybody wait
    /// but the pod's next operation. Should it be lost, the former one still says how to detach.
    pub(super) fn put_in_background(&self, record: Record, turn: Turn) {
        let records = self.clone();
        spawn_blocking(move || {
            let _turn = turn;
            if let Err(error) = records.write(&record) {
                let path = records.path(&record.network_name, &record.container_id);
                tracing::warn!(record = %path.display(), %error, "result of an attach is not on record");
            }
        });
    }

    fn write(&self, record: &Record) -> io::Result<()> {
        let (network, pod_id) = (&record.network_name, &record.container_id);
        // Known before it is there: a detach that finds no file is harmless, a file that no detach finds is not.
        self.index(|index| {
            let networks = index.entry(pod_id.clone()).or_default();
            networks.insert(network.clone());
        });
        let json = serde_json::to_vec(record)?;
        let serial = self.0.unfinished.fetch_add(1, Ordering::Relaxed);
        let unfinished = format!("{UNFINISHED}{}-{serial}", std::process::id());
        let unfinished = self.0.dir.join(unfinished);
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&unfinished)?;
        let written = file.write_all(&json);
        let done = written.and_then(|()| fs::rename(&unfinished, self.path(network, pod_id)));
        if done.is_err() {
            let _ = fs::remove_file(&unfinished);
        }
        done
    }

    /// Removes a record; one that is gone already is fine.
    pub(super) async fn remove(
        &self,
        network: &str,
        pod_id: &str,
        turn: &Turn,
    ) -> Result<(), NetworkError> {
        let path = self.path(network, pod_id);
        let (target, turn) = (path.clone(), turn.clone());
        let removed = blocking(move || {
            let _turn = turn;
            fs::remove_file(target)
        });
        match removed.await {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(NetworkError::Record { path, source })
            }
            _ => {
                self.forget(network, pod_id);
                Ok(())
            }
        }
    }

    fn forget(&self, network: &str, pod_id: &str) {
        self.index(|index| {
            if let Some(networks) = index.get_mut(pod_id) {
                networks.remove(network);
                if networks.is_empty() {
                    index.remove(pod_id);
                }
            }
        });
    }

    fn index<T>(&self, with: impl FnOnce(&mut BTreeMap<String, BTreeSet<String>>) -> T) -> T {
        // Every change is a single call on the map: a panic elsewhere cannot leave it half-made.
        with(&mut self.0.index.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn path(&self, network: &str, pod_id: &str) -> PathBuf {
        self.0.dir.join(file_name(network, pod_id))
    }
}

fn file_name(network: &str, pod_id: &str) -> String {
    format!("{network}-{pod_id}-{INTERFACE}")
}

/// File operations go to the blocking pool: a disk may take seconds, and other pods' plugins wait on this thread.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    spawn_blocking(work)
        .await
        .unwrap_or_else(|join| Err(io::Error::other(join)))
}

/// The record in a file; `None` if there is no such file.
fn read(path: &Path) -> io::Result<Option<Record>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let size = file.metadata()?.len().min(MAX_RECORD_BYTES);
    let mut json = Vec::with_capacity(usize::try_from(size).unwrap_or_default() + 1);
    file.take(MAX_RECORD_BYTES + 1).read_to_end(&mut json)?;
    if json.len() as u64 > MAX_RECORD_BYTES {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            "larger than any record",
        ));
    }
    let record = serde_json::from_slice(&json)?;
    Ok(Some(record))
}

/// Go writes byte strings as base64.
mod base64_bytes {
    use base64::Engine as _;
    use base64::prelude::BASE64_STANDARD;
    use serde::Deserialize as _;
    use serde::de::Error as _;
    use serde::{Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&BASE64_STANDARD.encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(deserializer)?;
        BASE64_STANDARD.decode(text).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests;
