//! The floor of a pull: a bare pipeline. One thread reads a layer from the registry, hashes it and inflates it, another hashes
//! the tar and writes the files; one layer after the other, and one `syncfs` at the end.
//!
//! It trusts the registry, knows no links and no owners, and keeps no records.

use std::{
    collections::HashMap,
    fmt::Write as _,
    fs::File,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::mpsc::{Receiver, sync_channel},
    thread,
};

use anyhow::{Context, Result, bail, ensure};
use pintle_test::registry;
use rustix::fs::{CWD, Mode, OFlags};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use tar::EntryType;

/// How many bytes go from one thread to the other at a time, and how many such pieces may wait.
const PIECE_BYTES: usize = 256 << 10;
const PIECES: usize = 8;

/// Pulls the image of this name from the registry into a directory.
pub(crate) fn run(name: &str, target: &Path) -> Result<()> {
    let accept = "application/vnd.oci.image.manifest.v1+json";
    let mut text = String::new();
    get(&format!("/v2/{name}/manifests/latest"), accept)?.read_to_string(&mut text)?;
    let manifest: Value = serde_json::from_str(&text).context("the manifest")?;
    let layers = manifest["layers"].as_array().context("no layers")?;
    for (number, layer) in layers.iter().enumerate() {
        let digest = layer["digest"].as_str().context("no digest")?;
        let dir = target.join(number.to_string());
        std::fs::create_dir(&dir).with_context(|| format!("making {}", dir.display()))?;
        unpack(
            get(&format!("/v2/{name}/blobs/{digest}"), "*/*")?,
            digest,
            &dir,
        )
        .with_context(|| format!("layer {digest}"))?;
    }
    rustix::fs::syncfs(File::open(target)?).context("syncfs")
}

/// What the registry answers, without its headers.
fn get(path: &str, accept: &str) -> Result<impl Read + Send + use<>> {
    let mut stream = TcpStream::connect(registry::HOST).context("connecting")?;
    // By 1.0 the body ends with the connection.
    write!(
        stream,
        "GET {path} HTTP/1.0\r\nHost: {}\r\nAccept: {accept}\r\n\r\n",
        registry::HOST
    )?;
    let mut answer = BufReader::with_capacity(PIECE_BYTES, stream);
    let mut line = String::new();
    answer.read_line(&mut line)?;
    ensure!(line.contains(" 200 "), "GET {path}: {line}");
    while line.trim() != "" {
        line.clear();
        answer.read_line(&mut line)?;
    }
    Ok(answer)
}

/// Reads, hashes and inflates on this thread, hashes and writes on another.
fn unpack(body: impl Read, digest: &str, dir: &Path) -> Result<()> {
    let (pieces, waiting) = sync_channel(PIECES);
    thread::scope(|scope| {
        let writer = scope.spawn(move || write_files(waiting, dir));
        let mut body = Hashed {
            input: body,
            hash: Sha256::new(),
        };
        let mut tar = flate2::read::GzDecoder::new(&mut body);
        loop {
            let mut piece = Vec::with_capacity(PIECE_BYTES);
            let count = tar
                .by_ref()
                .take(PIECE_BYTES as u64)
                .read_to_end(&mut piece)?;
            if count == 0 || pieces.send(piece).is_err() {
                break;
            }
        }
        drop(pieces);
        let found = format!("sha256:{}", hex(&body.hash.finalize()));
        ensure!(found == digest, "it has the digest {found}");
        writer
            .join()
            .map_err(|_| anyhow::anyhow!("the writer panicked"))?
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

struct Hashed<R> {
    input: R,
    hash: Sha256,
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.input.read(buffer)?;
        self.hash.update(&buffer[..count]);
        Ok(count)
    }
}

/// The other thread's end of the channel.
struct Pieces {
    waiting: Receiver<Vec<u8>>,
    current: Vec<u8>,
    position: usize,
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.position == self.current.len() {
            let Ok(piece) = self.waiting.recv() else {
                return Ok(0);
            };
            (self.current, self.position) = (piece, 0);
        }
        let count = buffer.len().min(self.current.len() - self.position);
        buffer[..count].copy_from_slice(&self.current[self.position..][..count]);
        self.position += count;
        Ok(count)
    }
}

/// Writes the files of a tar, looking no directory up twice.
fn write_files(waiting: Receiver<Vec<u8>>, dir: &Path) -> Result<()> {
    let mut tar = Hashed {
        input: Pieces {
            waiting,
            current: Vec::new(),
            position: 0,
        },
        hash: Sha256::new(),
    };
    let mut dirs: HashMap<PathBuf, OwnedFd> = HashMap::new();
    let root = dir_of(CWD, dir)?;
    let mut archive = tar::Archive::new(&mut tar);
    let mut piece = vec![0; PIECE_BYTES];
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = entry.path()?.into_owned();
        let mode = Mode::from_raw_mode(entry.header().mode()? & 0o7777);
        match entry.header().entry_type() {
            EntryType::Directory => make_dir(&root, &path)?,
            EntryType::Regular => {
                let parent = path.parent().context("a file without a directory")?;
                if !dirs.contains_key(parent) {
                    for above in parent.ancestors().collect::<Vec<_>>().into_iter().rev() {
                        if above != Path::new("") {
                            make_dir(&root, above)?;
                        }
                    }
                    dirs.insert(parent.to_owned(), dir_of(&root, parent)?);
                }
                let name = path.file_name().context("a file without a name")?;
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
                let mut file = File::from(rustix::fs::openat(&dirs[parent], name, flags, mode)?);
                loop {
                    let count = entry.read(&mut piece)?;
                    if count == 0 {
                        break;
                    }
                    file.write_all(&piece[..count])?;
                }
            }
            other => bail!("{}: no {other:?} was expected", path.display()),
        }
    }
    std::io::copy(&mut tar, &mut std::io::sink())?;
    std::hint::black_box(tar.hash.finalize());
    Ok(())
}

fn make_dir(root: &OwnedFd, path: &Path) -> Result<()> {
    match rustix::fs::mkdirat(root, path, Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => Ok(()),
        Err(error) => Err(error).with_context(|| format!("making {}", path.display())),
    }
}

fn dir_of(above: impl std::os::fd::AsFd, path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let path = if path == Path::new("") {
        Path::new(".")
    } else {
        path
    };
    rustix::fs::openat(above, path, flags, Mode::empty())
        .with_context(|| format!("opening {}", path.display()))
}
