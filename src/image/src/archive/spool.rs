//! An archive as a seekable, uncompressed file, however it arrives.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::AsyncRead;
use tokio::runtime::Handle;
use tokio_util::io::SyncIoBridge;

use crate::error::ImageError;

/// Where an archive comes from.
pub(super) enum Source {
    File(PathBuf),
    Stream(Box<dyn AsyncRead + Send + Unpin>),
}

/// Gets an uncompressed, seekable file with the archive in it: the file itself, or a copy that has no name and goes
/// away with its last handle. Blocks.
pub(super) fn open(
    source: Source,
    temp_dir: &Path,
    max_bytes: u64,
    runtime: &Handle,
) -> Result<File, ImageError> {
    match source {
        Source::File(path) => {
            let what = || format!("read {}", path.display());
            let mut file = File::open(&path).map_err(|error| ImageError::file(what(), error))?;
            let start = first_bytes(&mut file).map_err(|error| ImageError::file(what(), error))?;
            if !is_compressed(&start) {
                return Ok(file);
            }
            file.seek(SeekFrom::Start(0))
                .map_err(|error| ImageError::file(what(), error))?;
            copy(decoder(file, &start), temp_dir, max_bytes)
        }
        Source::Stream(stream) => {
            let mut reader = SyncIoBridge::new_with_handle(stream, runtime.clone());
            let start = first_bytes(&mut reader)
                .map_err(|error| ImageError::file("read the archive", error))?;
            let whole = io::Cursor::new(start.clone()).chain(reader);
            copy(decoder(whole, &start), temp_dir, max_bytes)
        }
    }
}

fn first_bytes(reader: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut start = Vec::with_capacity(4);
    reader.take(4).read_to_end(&mut start)?;
    Ok(start)
}

const GZIP: &[u8] = &[0x1f, 0x8b];
const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];

fn is_compressed(start: &[u8]) -> bool {
    start.starts_with(GZIP) || start.starts_with(ZSTD)
}

/// Decompresses what starts with these bytes, if it is compressed.
fn decoder<'a>(reader: impl Read + 'a, start: &[u8]) -> Box<dyn Read + 'a> {
    if start.starts_with(GZIP) {
        return Box::new(flate2::read::MultiGzDecoder::new(reader));
    }
    if start.starts_with(ZSTD) {
        return match zstd::Decoder::new(reader) {
            Ok(decoder) => Box::new(decoder),
            Err(error) => Box::new(Failing(Some(error))),
        };
    }
    Box::new(reader)
}

/// A decoder that could not be set up: the first read tells why.
struct Failing(Option<io::Error>);

impl Read for Failing {
    fn read(&mut self, _buffer: &mut [u8]) -> io::Result<usize> {
        Err(self.0.take().unwrap_or_else(|| io::ErrorKind::Other.into()))
    }
}

fn copy(reader: impl Read, temp_dir: &Path, max_bytes: u64) -> Result<File, ImageError> {
    let mut file = nameless(temp_dir)?;
    let copied = io::copy(&mut reader.take(max_bytes.saturating_add(1)), &mut file);
    match copied {
        Ok(bytes) if bytes > max_bytes => Err(ImageError::TooLarge {
            what: "the archive".to_owned(),
            reason: format!("more than the {max_bytes} bytes that are allowed"),
        }),
        Ok(_) => Ok(file),
        Err(error) if error.kind() == io::ErrorKind::StorageFull => Err(ImageError::DiskFull {
            what: "a copy of the archive".to_owned(),
            source: std::sync::Arc::new(error),
        }),
        Err(error) => Err(ImageError::file(
            format!("read the archive into {}", temp_dir.display()),
            error,
        )),
    }
}

/// A file without a name, in a folder that is emptied at every start in case we die before the name is gone.
pub(crate) fn nameless(folder: &Path) -> Result<File, ImageError> {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let path = folder.join(format!(
        "archive-{}-{}",
        std::process::id(),
        NUMBER.fetch_add(1, Ordering::Relaxed)
    ));
    let failed = |error| ImageError::file(format!("create {}", path.display()), error);
    std::fs::create_dir_all(folder).map_err(failed)?;
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&path)
        .map_err(failed)?;
    std::fs::remove_file(&path).map_err(failed)?;
    Ok(file)
}

#[cfg(test)]
mod test {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use std::io::Write;

    use super::*;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    async fn spooled(bytes: Vec<u8>, limit: u64) -> Result<Vec<u8>, ImageError> {
        let folder = tempfile::tempdir().unwrap();
        let runtime = Handle::current();
        let result = tokio::task::spawn_blocking({
            let folder = folder.path().to_owned();
            move || {
                let source = Source::Stream(Box::new(io::Cursor::new(bytes)));
                let mut file = open(source, &folder, limit, &runtime)?;
                let mut out = Vec::new();
                file.seek(SeekFrom::Start(0)).unwrap();
                file.read_to_end(&mut out).unwrap();
                Ok(out)
            }
        })
        .await
        .unwrap();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        result
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn streams_are_copied_and_decompressed() {
        let content = vec![7_u8; 100_000];
        let zstd = zstd::encode_all(&content[..], 1).unwrap();
        for bytes in [content.clone(), gzip(&content), zstd] {
            assert_eq!(spooled(bytes, 100_000).await.unwrap(), content);
        }
        assert_eq!(spooled(vec![1, 2], 10).await.unwrap(), [1, 2]);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_bomb_is_stopped() {
        let bomb = gzip(&vec![0_u8; 4 << 20]);
        assert!(matches!(
            spooled(bomb, 1 << 20).await,
            Err(ImageError::TooLarge { .. })
        ));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn damage_is_an_error() {
        let mut bytes = gzip(&vec![7_u8; 100_000]);
        bytes.truncate(40);
        assert!(spooled(bytes, 1 << 20).await.is_err());
    }
}
