//! CRI log files: `2026-11-23T19:20:27.123456789Z stdout F message`, one line per write.
//!
//! A container's two streams share one file and one writer, so lines never mix. Lines longer than 16 KiB are cut in
//! parts tagged `P`; the last part is tagged `F`. A disk that is full costs the container its lines, never its life:
//! what cannot be written is dropped as whole lines and counted.

use std::{
    ffi::OsStr,
    fs, io,
    io::IoSlice,
    os::{
        fd::OwnedFd,
        unix::{
            ffi::OsStrExt as _,
            fs::{FileTypeExt as _, OpenOptionsExt as _},
        },
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{SeekFrom, ftruncate, seek},
    io::{Errno, writev},
};

use crate::clock::{Millis, TIMESTAMP_BYTES, rfc3339};

/// Longest message of one line.
pub(crate) const MESSAGE_BYTES_MAX: usize = 16 * 1024;
/// An unfinished line is written as a partial one after this time: a prompt shall not hide until it is answered.
const PARTIAL_AFTER_MS: Millis = 250;
/// Timestamp, stream and tag with their spaces.
const HEADER_BYTES: usize = TIMESTAMP_BYTES + 10;
/// Lines handed to the kernel at once.
const LINES_PER_WRITE: usize = 32;
/// Header, message, newline.
const SLICES_PER_LINE: usize = 3;

/// An open log file.
#[derive(Debug)]
pub(crate) struct LogFile {
    path: PathBuf,
    file: OwnedFd,
    dropped_bytes: u64,
}

impl LogFile {
    pub(crate) fn open(path: &[u8]) -> io::Result<Self> {
        let path = PathBuf::from(OsStr::from_bytes(path));
        let file = open(&path)?;
        Ok(Self {
            path,
            file,
            dropped_bytes: 0,
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes of messages that could not be written.
    pub(crate) fn dropped_bytes(&self) -> u64 {
        self.dropped_bytes
    }

    /// Goes on in a new file of the same name. On failure the old file stays in use, and none was made.
    pub(crate) fn reopen(&mut self) -> io::Result<()> {
        self.file = open(&self.path)?;
        Ok(())
    }

    /// Writes whole lines of [`SLICES_PER_LINE`] slices each.
    fn write(&mut self, lines: &[IoSlice<'_>]) {
        let mut rest = lines;
        while !rest.is_empty() {
            let total: usize = rest.iter().map(|slice| slice.len()).sum();
            let written = match writev(&self.file, rest) {
                Ok(written) if written == total => return,
                Ok(written) => written,
                Err(Errno::INTR) => continue,
                Err(error) => return self.drop_lines(rest, error),
            };
            let (whole_lines, whole_bytes) = whole_lines(rest, written);
            self.take_back(written - whole_bytes);
            rest = rest
                .get(whole_lines * SLICES_PER_LINE..)
                .unwrap_or_default();
            if whole_lines == 0 {
                return self.drop_lines(rest, Errno::NOSPC);
            }
        }
    }

    /// Cuts a torn line off the end. Nobody else writes to the file, so the end is where we are.
    fn take_back(&self, bytes: usize) {
        if bytes > 0
            && let Ok(end) = seek(&self.file, SeekFrom::Current(0))
            && let Ok(bytes) = u64::try_from(bytes)
        {
            let _ = ftruncate(&self.file, end.saturating_sub(bytes));
        }
    }

    fn drop_lines(&mut self, lines: &[IoSlice<'_>], error: Errno) {
        if self.dropped_bytes == 0 {
            crate::complaint::complain(format_args!(
                "{}: output is being dropped: {error}",
                self.path.display()
            ));
        }
        for line in lines.chunks(SLICES_PER_LINE) {
            let bytes = line.get(1).map_or(0, |message| message.len());
            self.dropped_bytes = self
                .dropped_bytes
                .saturating_add(u64::try_from(bytes).unwrap_or(u64::MAX));
        }
    }
}

/// How many whole lines, and bytes of them, the first `written` bytes are.
fn whole_lines(lines: &[IoSlice<'_>], written: usize) -> (usize, usize) {
    let (mut count, mut bytes) = (0, 0);
    for line in lines.chunks(SLICES_PER_LINE) {
        let length: usize = line.iter().map(|slice| slice.len()).sum();
        if bytes + length > written {
            break;
        }
        bytes += length;
        count += 1;
    }
    (count, bytes)
}

/// The directory may be in reach of the workload: no symbolic link is followed, and only a regular file or a character
/// device such as `/dev/null` is taken (a FIFO could stop the monitor).
fn open(path: &Path) -> io::Result<OwnedFd> {
    let file = fs::File::options()
        .append(true)
        .create(true)
        .mode(0o640)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)?;
    let kind = file.metadata()?.file_type();
    if kind.is_file() || kind.is_char_device() {
        Ok(file.into())
    } else {
        Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "not a regular file",
        ))
    }
}

/// One stream's way from bytes to lines.
#[derive(Debug)]
pub(crate) struct Lines {
    stream: [u8; 6],
    /// The line's beginning, until its end arrives.
    tail: Vec<u8>,
    /// When the tail is to be written as it is.
    due: Option<Millis>,
    /// The last line written was a partial one.
    open: bool,
}

impl Lines {
    pub(crate) fn stdout() -> Self {
        Self {
            stream: *b"stdout",
            tail: Vec::new(),
            due: None,
            open: false,
        }
    }

    pub(crate) fn stderr() -> Self {
        Self {
            stream: *b"stderr",
            ..Self::stdout()
        }
    }

    /// When [`Self::flush_partial`] is to be called.
    pub(crate) fn due(&self) -> Option<Millis> {
        self.due
    }

    /// Writes the lines that `data`, read at `unix_ns`, completes, and keeps the rest.
    pub(crate) fn feed(&mut self, data: &[u8], unix_ns: i64, now: Millis, log: &mut LogFile) {
        let headers = Headers::new(self.stream, unix_ns);
        let mut rest = data;
        if !self.tail.is_empty() {
            rest = self.complete_tail(rest, &headers, log);
        }
        let mut batch = [IoSlice::new(&[]); LINES_PER_WRITE * SLICES_PER_LINE];
        let mut filled = 0;
        while let Some((message, after, header)) = next_line(rest, MESSAGE_BYTES_MAX, &headers) {
            self.open = headers.is_partial(header);
            for (place, slice) in batch.iter_mut().skip(filled).zip([header, message, b"\n"]) {
                *place = IoSlice::new(slice);
            }
            filled += SLICES_PER_LINE;
            if filled == batch.len() {
                log.write(&batch);
                filled = 0;
            }
            rest = after;
        }
        log.write(batch.get(..filled).unwrap_or_default());
        if !rest.is_empty() {
            self.tail.extend_from_slice(rest);
            self.due = Some(now + PARTIAL_AFTER_MS);
        }
    }

    /// Writes the line that the tail began, if `data` ends it; answers what is left of `data`.
    fn complete_tail<'a>(
        &mut self,
        data: &'a [u8],
        headers: &Headers,
        log: &mut LogFile,
    ) -> &'a [u8] {
        let Some((message, after, header)) =
            next_line(data, MESSAGE_BYTES_MAX - self.tail.len(), headers)
        else {
            return data;
        };
        let mut joined = std::mem::take(&mut self.tail);
        joined.extend_from_slice(message);
        log.write(&[
            IoSlice::new(header),
            IoSlice::new(&joined),
            IoSlice::new(b"\n"),
        ]);
        self.open = headers.is_partial(header);
        self.due = None;
        after
    }

    /// Writes the tail as a partial line.
    pub(crate) fn flush_partial(&mut self, unix_ns: i64, log: &mut LogFile) {
        self.due = None;
        let tail = std::mem::take(&mut self.tail);
        if !tail.is_empty() {
            let headers = Headers::new(self.stream, unix_ns);
            log.write(&[
                IoSlice::new(&headers.partial),
                IoSlice::new(&tail),
                IoSlice::new(b"\n"),
            ]);
            self.open = true;
        }
    }

    /// Writes what is left when the stream has ended. A line that was begun is always ended by an `F`.
    pub(crate) fn finish(&mut self, unix_ns: i64, log: &mut LogFile) {
        self.due = None;
        let tail = std::mem::take(&mut self.tail);
        if !tail.is_empty() || self.open {
            let headers = Headers::new(self.stream, unix_ns);
            log.write(&[
                IoSlice::new(&headers.full),
                IoSlice::new(&tail),
                IoSlice::new(b"\n"),
            ]);
            self.open = false;
        }
    }
}

/// The beginnings of lines of one moment.
struct Headers {
    full: [u8; HEADER_BYTES],
    partial: [u8; HEADER_BYTES],
}

impl Headers {
    fn new(stream: [u8; 6], unix_ns: i64) -> Self {
        let mut full = [b' '; HEADER_BYTES];
        let text = rfc3339(unix_ns);
        for (place, byte) in full.iter_mut().zip(text) {
            *place = byte;
        }
        for (place, byte) in full.iter_mut().skip(TIMESTAMP_BYTES + 1).zip(stream) {
            *place = byte;
        }
        let mut partial = full;
        // Ends in tag and space.
        full[HEADER_BYTES - 2] = b'F';
        partial[HEADER_BYTES - 2] = b'P';
        Self { full, partial }
    }

    fn is_partial(&self, header: &[u8]) -> bool {
        header == self.partial
    }
}

/// The next line of `data`, what follows it, and its header: a message of at most `room` bytes up to a newline, or
/// `room` bytes if there is more without one. `None` if the line's end is not there yet.
fn next_line<'a, 'h>(
    data: &'a [u8],
    room: usize,
    headers: &'h Headers,
) -> Option<(&'a [u8], &'a [u8], &'h [u8])> {
    let window = data.get(..=room).unwrap_or(data);
    if let Some(at) = window.iter().position(|&byte| byte == b'\n') {
        Some((data.get(..at)?, data.get(at + 1..)?, &headers.full))
    } else if data.len() > room {
        let (message, after) = data.split_at(room);
        Some((message, after, &headers.partial))
    } else {
        None
    }
}

#[cfg(test)]
mod tests;
