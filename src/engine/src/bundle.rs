//! A bundle's `config.json`, as the OCI runtime reads it.

use std::{
    fs::File,
    io::{BufReader, BufWriter, Write},
    path::Path,
};

use oci_spec::runtime::Spec;

use crate::{error::EngineError, pod_files};

const NAME: &str = "config.json";

/// Write the spec into the bundle.
pub(crate) fn write(bundle: &Path, spec: &Spec) -> Result<(), EngineError> {
    let path = bundle.join(NAME);
    let failed = |source| EngineError::Io {
        action: "write",
        path: path.clone(),
        source,
    };
    // Its environment holds secrets, and the way here is open to all users.
    let file = pod_files::create_private(&path).map_err(failed)?;
    let mut file = BufWriter::new(file);
    let written = if has_rdt(spec) {
        with_rdts_names(spec).and_then(|spec| serde_json::to_writer(&mut file, &spec))
    } else {
        serde_json::to_writer(&mut file, spec)
    };
    written.map_err(|source| failed(source.into()))?;
    file.flush().map_err(failed)
}

fn has_rdt(spec: &Spec) -> bool {
    spec.linux()
        .as_ref()
        .is_some_and(|linux| linux.intel_rdt().is_some())
}

/// `oci_spec` writes two names of Intel RDT in another case than the OCI runtime specification, and runtimes would not find
/// them.
fn with_rdts_names(spec: &Spec) -> serde_json::Result<serde_json::Value> {
    let mut spec = serde_json::to_value(spec)?;
    if let Some(rdt) = spec["linux"]["intelRdt"].as_object_mut() {
        for (ours, name) in [("enableCmt", "enableCMT"), ("enableMbm", "enableMBM")] {
            if let Some(value) = rdt.remove(ours) {
                rdt.insert(name.to_owned(), value);
            }
        }
    }
    Ok(spec)
}

/// Read the bundle's spec.
pub(crate) fn read(bundle: &Path) -> Result<Spec, EngineError> {
    let path = bundle.join(NAME);
    let failed = |source| EngineError::Io {
        action: "read",
        path: path.clone(),
        source,
    };
    let file = File::open(&path).map_err(failed)?;
    serde_json::from_reader(BufReader::new(file)).map_err(|source| failed(source.into()))
}

#[cfg(test)]
mod test {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn the_names_of_rdt_are_those_that_runtimes_read() {
        let rdt = json!({"closID": "a", "enableCmt": true, "enableMbm": true});
        let spec: Spec = serde_json::from_value(json!({
            "ociVersion": "1.0.2",
            "linux": {"intelRdt": rdt},
        }))
        .unwrap();
        let directory = tempfile::tempdir().unwrap();
        write(directory.path(), &spec).unwrap();
        let text = std::fs::read_to_string(directory.path().join(NAME)).unwrap();
        let written: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(
            written["linux"]["intelRdt"],
            json!({"closID": "a", "enableCMT": true, "enableMBM": true})
        );
        assert_eq!(read(directory.path()).unwrap().version(), "1.0.2");
    }
}
