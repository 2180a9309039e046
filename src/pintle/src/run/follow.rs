//! The container's log file, followed while it grows.

use std::{io, path::PathBuf};

use tokio::{
    fs::File,
    io::{AsyncReadExt, AsyncWriteExt, Stderr, Stdout},
};

use super::log::{LogReader, Stream};

/// What is read at once.
const CHUNK_BYTES: usize = 64 << 10;

/// Passes what the container writes on to our own standard output and standard error.
#[derive(Debug)]
pub(crate) struct Follower {
    path: PathBuf,
    file: Option<File>,
    reader: LogReader,
    stdout: Stdout,
    stderr: Stderr,
}

impl Follower {
    /// Follows a file that need not exist yet.
    pub(crate) fn new(path: PathBuf) -> Self {
        Self {
            path,
            file: None,
            reader: LogReader::default(),
            stdout: tokio::io::stdout(),
            stderr: tokio::io::stderr(),
        }
    }

    /// Passes on what has been written since the last call; whether there was anything.
    pub(crate) async fn catch_up(&mut self) -> io::Result<bool> {
        let file = match &mut self.file {
            Some(file) => file,
            None => match File::open(&self.path).await {
                Ok(file) => self.file.insert(file),
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
                Err(error) => return Err(error),
            },
        };
        let mut any = false;
        let mut chunk = vec![0; CHUNK_BYTES];
        loop {
            let length = file.read(&mut chunk).await?;
            if length == 0 {
                break;
            }
            any = true;
            for (stream, bytes) in self.reader.feed(&chunk[..length]) {
                match stream {
                    Stream::Stdout => self.stdout.write_all(&bytes).await?,
                    Stream::Stderr => self.stderr.write_all(&bytes).await?,
                }
            }
        }
        if any {
            self.stdout.flush().await?;
            self.stderr.flush().await?;
        }
        Ok(any)
    }
}
