//! How to write a layer's tar again, bit for bit, though only its files were kept.
//!
//! While a layer is unpacked, every byte of its tar that does not become contents of a file (headers, padding, what follows
//! the end) is put down, and between these bytes the names of the files whose contents belong there. Compressed, that takes
//! about one part in a hundred of the layer. An image can so be exported with the very digests it was pulled with.
//!
//! An entry can take the place of an earlier one. Then what was there is kept beside the recipe, as `replaced/0`,
//! `replaced/1` and so on, and the recipe says at which point it was replaced: contents that belong before that point are
//! found there.
//!
//! The file is one zstd stream of pieces, each a letter, a length and that many bytes: `b` for bytes of the tar; `f` for a
//! file, whose name is followed by how many of its bytes belong here; `r` for the name of what is replaced from here on.
//! Numbers are 64 bits, little-endian.

use std::{
    fs::File,
    io::{self, BufReader, BufWriter, Read, Write},
    path::{Path, PathBuf},
};

/// Headers repeat themselves so much that the fastest level is good enough.
const LEVEL: i32 = 1;

/// How many bytes of the tar are gathered into a piece.
const PIECE_BYTES: usize = 64 << 10;

const BYTES: u8 = b'b';
const FILE: u8 = b'f';
const REPLACED: u8 = b'r';

/// The recipe itself in a recipe's directory.
pub(crate) fn file_in(dir: &Path) -> PathBuf {
    dir.join("recipe.zst")
}

/// The directory of replaced files in a recipe's directory.
pub(crate) fn kept_in(dir: &Path) -> PathBuf {
    dir.join("replaced")
}

/// Writes a recipe while the tar passes.
pub(crate) struct Recorder {
    output: zstd::stream::write::Encoder<'static, BufWriter<File>>,
    gathered: Vec<u8>,
}

impl Recorder {
    pub(crate) fn new(output: File) -> io::Result<Self> {
        Ok(Self {
            output: zstd::stream::write::Encoder::new(BufWriter::new(output), LEVEL)?,
            gathered: Vec::with_capacity(PIECE_BYTES),
        })
    }

    /// The next bytes of the tar.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.gathered.extend_from_slice(bytes);
        if self.gathered.len() >= PIECE_BYTES {
            self.flush_gathered()?;
        }
        Ok(())
    }

    /// The next `length` bytes of the tar are the contents of this file of the layer.
    pub(crate) fn contents(&mut self, path: &[u8], length: u64) -> io::Result<()> {
        self.flush_gathered()?;
        write_piece(&mut self.output, FILE, path)?;
        self.output.write_all(&length.to_le_bytes())
    }

    /// What this path named so far is kept aside from here on.
    pub(crate) fn replaced(&mut self, path: &[u8]) -> io::Result<()> {
        self.flush_gathered()?;
        write_piece(&mut self.output, REPLACED, path)
    }

    pub(crate) fn finish(mut self) -> io::Result<()> {
        self.flush_gathered()?;
        self.output.finish()?.flush()
    }

    fn flush_gathered(&mut self) -> io::Result<()> {
        if !self.gathered.is_empty() {
            write_piece(&mut self.output, BYTES, &self.gathered)?;
            self.gathered.clear();
        }
        Ok(())
    }
}

fn write_piece(output: &mut impl Write, letter: u8, bytes: &[u8]) -> io::Result<()> {
    output.write_all(&[letter])?;
    output.write_all(&(bytes.len() as u64).to_le_bytes())?;
    output.write_all(bytes)
}

/// A piece of a tar.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    /// These bytes.
    Bytes(Vec<u8>),
    /// The first `length` bytes of a file of the layer.
    Contents { path: Vec<u8>, length: u64 },
    /// None, but what was at this path was moved aside here.
    Replaced { path: Vec<u8> },
}

/// Reads a recipe.
pub(crate) struct Recipe {
    input: zstd::stream::read::Decoder<'static, BufReader<File>>,
}

impl Recipe {
    pub(crate) fn new(input: File) -> io::Result<Self> {
        Ok(Self {
            input: zstd::stream::read::Decoder::new(input)?,
        })
    }

    /// The path of the file, if the layer is a blob that was stored as it is: a tar begins with a header.
    pub(crate) fn blob(mut self) -> io::Result<Option<Vec<u8>>> {
        Ok(match self.next()? {
            Some(Piece::Contents { path, .. }) => Some(path),
            _ => None,
        })
    }

    /// The next piece, `None` at the end.
    pub(crate) fn next(&mut self) -> io::Result<Option<Piece>> {
        let mut letter = [0];
        if self.input.read(&mut letter)? == 0 {
            return Ok(None);
        }
        let length = self.number()?;
        let mut bytes = Vec::new();
        (&mut self.input).take(length).read_to_end(&mut bytes)?;
        if bytes.len() as u64 != length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        match letter[0] {
            BYTES => Ok(Some(Piece::Bytes(bytes))),
            FILE => Ok(Some(Piece::Contents {
                path: bytes,
                length: self.number()?,
            })),
            REPLACED => Ok(Some(Piece::Replaced { path: bytes })),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    fn number(&mut self) -> io::Result<u64> {
        let mut bytes = [0; 8];
        self.input.read_exact(&mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use std::io::{Seek, SeekFrom};

    use super::*;

    #[test]
    fn pieces_come_back() {
        let mut file = tempfile::tempfile().unwrap();
        let mut recorder = Recorder::new(file.try_clone().unwrap()).unwrap();
        let large = vec![7; 3 * PIECE_BYTES];
        recorder.bytes(b"one").unwrap();
        recorder.bytes(b"two").unwrap();
        recorder.contents(b"etc/passwd", 1 << 40).unwrap();
        recorder.replaced(b"etc").unwrap();
        recorder.contents(b"x", 1).unwrap();
        recorder.bytes(&large).unwrap();
        recorder.finish().unwrap();

        file.seek(SeekFrom::Start(0)).unwrap();
        let mut recipe = Recipe::new(file.try_clone().unwrap()).unwrap();
        let mut pieces = Vec::new();
        while let Some(piece) = recipe.next().unwrap() {
            pieces.push(piece);
        }
        let contents = |path: &[u8], length| Piece::Contents {
            path: path.to_vec(),
            length,
        };
        assert_eq!(
            pieces,
            [
                Piece::Bytes(b"onetwo".to_vec()),
                contents(b"etc/passwd", 1 << 40),
                Piece::Replaced {
                    path: b"etc".to_vec()
                },
                contents(b"x", 1),
                Piece::Bytes(large),
            ]
        );

        file.set_len(file.metadata().unwrap().len() - 3).unwrap();
        file.seek(SeekFrom::Start(0)).unwrap();
        let mut recipe = Recipe::new(file).unwrap();
        let error = loop {
            match recipe.next() {
                Ok(Some(_)) => {}
                Ok(None) => panic!("the end was missed"),
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}
