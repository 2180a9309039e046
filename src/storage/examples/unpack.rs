//! Unpacks a layer from a file, and says how long that took: `unpack BLOB DIRECTORY [discard]`.
//!
//! With `discard` it only uncompresses and hashes, which is the least that any puller has to do.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
    time::Instant,
};

use pintle_storage::{Compression, LayerStore, UnpackLimits};
use sha2::{Digest, Sha256};

/// Hashes the compressed bytes as they pass, as a pull does.
struct Hashing {
    file: File,
    hash: Sha256,
}

impl Read for Hashing {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read(buffer)?;
        self.hash.update(&buffer[..count]);
        Ok(count)
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [blob, root, rest @ ..] = arguments.as_slice() else {
        return Err("usage: unpack BLOB DIRECTORY [discard]".into());
    };
    let mut input = Hashing {
        file: File::open(blob)?,
        hash: Sha256::new(),
    };
    let start = Instant::now();
    if rest.is_empty() {
        let store = LayerStore::open(Path::new(root), &[])?;
        let layer = store.unpack(&mut input, Compression::Detect, &UnpackLimits::default())?;
        let unpacked = start.elapsed();
        let chain = state::ChainId::child(None, &layer.diff);
        let rows = store.commit(vec![(layer, chain, None)])?;
        let committed = start.elapsed();
        let row = &rows[0];
        println!(
            "{} inodes, {} MiB: unpacked {unpacked:.2?}, committed {committed:.2?}",
            row.inodes,
            row.size_bytes >> 20
        );
    } else {
        let mut decoder = flate2::bufread::MultiGzDecoder::new(io::BufReader::with_capacity(
            128 << 10,
            &mut input,
        ));
        let mut hash = Sha256::new();
        let mut buffer = vec![0; 256 << 10];
        loop {
            let count = decoder.read(&mut buffer)?;
            if count == 0 {
                break;
            }
            hash.update(&buffer[..count]);
        }
        println!("inflated and hashed {:.2?}", start.elapsed());
    }
    Ok(())
}
