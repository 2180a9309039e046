//! Lines as kubelet reads them.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::{fs, os::unix::fs::symlink};

use super::{Lines, LogFile, MESSAGE_BYTES_MAX, PARTIAL_AFTER_MS, whole_lines};

struct Log {
    directory: tempfile::TempDir,
    file: LogFile,
}

impl Log {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("0.log");
        let file = LogFile::open(path.as_os_str().as_encoded_bytes()).unwrap();
        Self { directory, file }
    }

    /// Stream, tag and message of every line.
    fn lines(&self) -> Vec<(String, String, String)> {
        let text = fs::read_to_string(self.directory.path().join("0.log")).unwrap();
        text.lines()
            .map(|line| {
                let mut parts = line.splitn(4, ' ');
                assert_eq!(parts.next().unwrap(), "1970-01-01T00:00:00.000000001Z");
                let mut next = || parts.next().unwrap().to_owned();
                (next(), next(), next())
            })
            .collect()
    }
}

fn line(stream: &str, tag: &str, message: &str) -> (String, String, String) {
    (stream.to_owned(), tag.to_owned(), message.to_owned())
}

#[test]
fn lines_are_whole_however_they_arrive() {
    let text = "one\n\ntwo two\nthree\n";
    for cut in 1..text.len() {
        let mut log = Log::new();
        let mut stdout = Lines::stdout();
        for chunk in text.as_bytes().chunks(cut) {
            stdout.feed(chunk, 1, 0, &mut log.file);
        }
        stdout.finish(1, &mut log.file);
        let expected = ["one", "", "two two", "three"].map(|message| line("stdout", "F", message));
        assert_eq!(log.lines(), expected, "in chunks of {cut}");
    }
}

#[test]
fn streams_do_not_mix() {
    let mut log = Log::new();
    let (mut stdout, mut stderr) = (Lines::stdout(), Lines::stderr());
    stdout.feed(b"o1", 1, 0, &mut log.file);
    stderr.feed(b"e1", 1, 0, &mut log.file);
    stdout.feed(b"o2\n", 1, 0, &mut log.file);
    stderr.feed(b"e2\n", 1, 0, &mut log.file);
    assert_eq!(
        log.lines(),
        [line("stdout", "F", "o1o2"), line("stderr", "F", "e1e2")]
    );
}

#[test]
fn long_lines_are_cut_at_sixteen_kibibytes() {
    for (length, parts) in [
        (MESSAGE_BYTES_MAX - 1, vec![("F", MESSAGE_BYTES_MAX - 1)]),
        (MESSAGE_BYTES_MAX, vec![("F", MESSAGE_BYTES_MAX)]),
        (
            MESSAGE_BYTES_MAX + 1,
            vec![("P", MESSAGE_BYTES_MAX), ("F", 1)],
        ),
        (
            2 * MESSAGE_BYTES_MAX,
            vec![("P", MESSAGE_BYTES_MAX), ("F", MESSAGE_BYTES_MAX)],
        ),
        (
            2 * MESSAGE_BYTES_MAX + 5,
            vec![("P", MESSAGE_BYTES_MAX), ("P", MESSAGE_BYTES_MAX), ("F", 5)],
        ),
    ] {
        for cut in [1000, 4096, 16 * 1024, 64 * 1024] {
            let mut log = Log::new();
            let mut stdout = Lines::stdout();
            let text = "x".repeat(length) + "\n";
            for chunk in text.as_bytes().chunks(cut) {
                stdout.feed(chunk, 1, 0, &mut log.file);
            }
            let seen: Vec<(String, usize)> = log
                .lines()
                .into_iter()
                .map(|(_, tag, text)| (tag, text.len()))
                .collect();
            let expected: Vec<(String, usize)> =
                parts.iter().map(|&(tag, n)| (tag.to_owned(), n)).collect();
            assert_eq!(seen, expected, "{length} bytes in chunks of {cut}");
        }
    }
}

#[test]
fn an_unfinished_line_shows_after_a_while_and_ends_with_the_stream() {
    let mut log = Log::new();
    let mut stdout = Lines::stdout();
    stdout.feed(b"name? ", 1, 1000, &mut log.file);
    assert_eq!(stdout.due(), Some(1000 + PARTIAL_AFTER_MS));
    stdout.flush_partial(1, &mut log.file);
    assert_eq!(stdout.due(), None);
    stdout.feed(b"Bob\nage? ", 1, 2000, &mut log.file);
    stdout.finish(1, &mut log.file);
    stdout.finish(1, &mut log.file);
    let expected = [
        line("stdout", "P", "name? "),
        line("stdout", "F", "Bob"),
        line("stdout", "F", "age? "),
    ];
    assert_eq!(log.lines(), expected);
}

#[test]
fn a_partial_line_at_the_end_is_closed() {
    let mut log = Log::new();
    let mut stdout = Lines::stdout();
    stdout.feed(b"name? ", 1, 1000, &mut log.file);
    stdout.flush_partial(1, &mut log.file);
    stdout.finish(1, &mut log.file);
    assert_eq!(
        log.lines(),
        [line("stdout", "P", "name? "), line("stdout", "F", "")]
    );
}

#[test]
fn many_lines_at_once() {
    let mut log = Log::new();
    let text: String = (0..1000).fold(String::new(), |text, n| text + &n.to_string() + "\n");
    Lines::stdout().feed(text.as_bytes(), 1, 0, &mut log.file);
    let expected: Vec<_> = (0..1000)
        .map(|n| line("stdout", "F", &n.to_string()))
        .collect();
    assert_eq!(log.lines(), expected);
}

#[test]
fn links_and_pipes_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let secret = directory.path().join("secret");
    fs::write(&secret, "").unwrap();
    let link = directory.path().join("link");
    symlink(&secret, &link).unwrap();
    assert!(LogFile::open(link.as_os_str().as_encoded_bytes()).is_err());
    let dangling = directory.path().join("dangling");
    symlink(directory.path().join("new"), &dangling).unwrap();
    assert!(LogFile::open(dangling.as_os_str().as_encoded_bytes()).is_err());
    assert!(!directory.path().join("new").exists());
    let fifo = directory.path().join("fifo");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &fifo,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RWXU,
        0,
    )
    .unwrap();
    let _reader = fs::File::options()
        .read(true)
        .write(true)
        .open(&fifo)
        .unwrap();
    assert!(LogFile::open(fifo.as_os_str().as_encoded_bytes()).is_err());
    LogFile::open(b"/dev/null").unwrap();
}

#[test]
fn reopening_follows_the_name_and_keeps_the_old_file_on_failure() {
    let mut log = Log::new();
    let mut stdout = Lines::stdout();
    let path = log.directory.path().join("0.log");
    let rotated = log.directory.path().join("0.log.1");
    stdout.feed(b"old\n", 1, 0, &mut log.file);
    fs::rename(&path, &rotated).unwrap();
    symlink("/nowhere/else", &path).unwrap();
    log.file.reopen().unwrap_err();
    stdout.feed(b"still old\n", 1, 0, &mut log.file);
    fs::remove_file(&path).unwrap();
    log.file.reopen().unwrap();
    stdout.feed(b"new\n", 1, 0, &mut log.file);
    assert_eq!(log.lines(), [line("stdout", "F", "new")]);
    assert_eq!(fs::read_to_string(rotated).unwrap().lines().count(), 2);
}

#[test]
fn a_device_that_is_full_drops_and_counts() {
    let mut file = LogFile::open(b"/dev/full").unwrap();
    let mut stdout = Lines::stdout();
    stdout.feed(b"12345\n678\n", 1, 0, &mut file);
    assert_eq!(file.dropped_bytes(), 8);
}

#[test]
fn torn_writes_are_cut_to_whole_lines() {
    let lines = [
        b"hh".as_slice(),
        b"abc",
        b"\n",
        b"hh",
        b"",
        b"\n",
        b"hh",
        b"x",
        b"\n",
    ]
    .map(std::io::IoSlice::new);
    for (written, expected) in [
        (0, (0, 0)),
        (5, (0, 0)),
        (6, (1, 6)),
        (8, (1, 6)),
        (9, (2, 9)),
        (12, (2, 9)),
        (13, (3, 13)),
    ] {
        assert_eq!(whole_lines(&lines, written), expected, "{written}");
    }
}
