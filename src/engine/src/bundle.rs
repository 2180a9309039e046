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
    serde_json::to_writer(&mut file, spec).map_err(|source| failed(source.into()))?;
    file.flush().map_err(failed)
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
