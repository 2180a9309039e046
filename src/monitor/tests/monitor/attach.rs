//! The attach socket.

use std::{
    io::{Read as _, Write as _},
    os::unix::{fs::PermissionsExt as _, net::UnixStream},
    time::Duration,
};

use monitor_wire::attach::{AttachBuffer, AttachFrame};

use crate::{
    pod::{LONG, Pod, Wanted, eventually, sh},
    with_each_runtime,
};

with_each_runtime!(
    output_and_input,
    a_terminal,
    stdin_once,
    a_client_that_does_not_read,
    a_client_that_reads_late,
    a_client_that_keeps_up,
    the_end_of_a_held_container,
    the_end_of_a_container_with_large_pipes,
    unread_input,
    after_the_end
);

struct Client {
    stream: UnixStream,
    buffer: AttachBuffer,
}

impl Client {
    fn connect(pod: &Pod, id: &str) -> Self {
        let path = pod.path(id).join("attach.sock");
        assert_eq!(
            std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        let stream = UnixStream::connect(path).unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        Self {
            stream,
            buffer: AttachBuffer::default(),
        }
    }

    fn send(&mut self, frame: &AttachFrame) {
        self.stream.write_all(&frame.encode().unwrap()).unwrap();
    }

    /// `None` at the end of the connection.
    fn next(&mut self) -> Option<AttachFrame> {
        loop {
            if let Some(frame) = self.buffer.next_frame().unwrap() {
                return Some(frame);
            }
            let mut bytes = [0; 4096];
            match self.stream.read(&mut bytes) {
                Ok(0) => return None,
                Ok(length) => self.buffer.push(&bytes[..length]),
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// Reads until stdout ends with `text`.
    fn expect(&mut self, text: &str) -> String {
        let mut seen = String::new();
        while !seen.ends_with(text) {
            match self.next() {
                Some(AttachFrame::Stdout(data)) => seen.push_str(&String::from_utf8_lossy(&data)),
                other => panic!("{other:?} after {seen:?}"),
            }
        }
        seen
    }
}

async fn output_and_input(pod: &Pod) {
    let script = "while read line; do echo got $line; echo err $line >&2; done; echo bye";
    pod.create(
        "c",
        &Wanted {
            args: &sh(script),
            stdin: true,
            ..Wanted::default()
        },
    )
    .await;
    let mut first = Client::connect(pod, "c");
    let mut second = Client::connect(pod, "c");
    pod.start("c").await;
    for client in [&mut first, &mut second] {
        assert_eq!(
            client.next(),
            Some(AttachFrame::Hello {
                terminal: false,
                stdin: true
            })
        );
    }
    first.send(&AttachFrame::Stdin(b"a\n".to_vec()));
    first.expect("got a\n");
    assert_eq!(first.next(), Some(AttachFrame::Stderr(b"err a\n".to_vec())));
    second.expect("got a\n");
    drop(first);
    assert_eq!(
        second.next(),
        Some(AttachFrame::Stderr(b"err a\n".to_vec()))
    );
    // One client's leaving does not close the input.
    second.send(&AttachFrame::Stdin(b"b\n".to_vec()));
    second.expect("got b\n");
    assert_eq!(
        second.next(),
        Some(AttachFrame::Stderr(b"err b\n".to_vec()))
    );
    second.send(&AttachFrame::CloseStdin);
    second.expect("bye\n");
    assert_eq!(second.next(), Some(AttachFrame::Ended));
    assert_eq!(pod.exit("c").await.code, 0);
    // The log has it all the same.
    assert_eq!(pod.log("c", "stdout").len(), 3);
}

async fn a_terminal(pod: &Pod) {
    let script = "read line; stty size; echo got $line; tty=$(busybox tty); echo on $tty; exit 6";
    pod.create(
        "c",
        &Wanted {
            args: &sh(script),
            tty: true,
            stdin: true,
            ..Wanted::default()
        },
    )
    .await;
    let mut client = Client::connect(pod, "c");
    pod.start("c").await;
    assert_eq!(
        client.next(),
        Some(AttachFrame::Hello {
            terminal: true,
            stdin: true
        })
    );
    client.send(&AttachFrame::Resize {
        rows: 33,
        columns: 77,
    });
    client.send(&AttachFrame::Stdin(b"x\n".to_vec()));
    client.expect("on /dev/pts/0\r\n");
    assert_eq!(pod.exit("c").await.code, 6);
    let text: String = pod
        .log("c", "stdout")
        .into_iter()
        .map(|(_, text)| text + "\n")
        .collect();
    assert!(
        text.contains("33 77\n") && text.contains("got x\n"),
        "{text}"
    );
}

async fn stdin_once(pod: &Pod) {
    pod.run(
        "c",
        &Wanted {
            args: &["/bin/cat"],
            stdin: true,
            stdin_once: true,
            ..Wanted::default()
        },
    )
    .await;
    // Who only listens comes and goes.
    let mut listener = Client::connect(pod, "c");
    listener.send(&AttachFrame::Listening);
    listener.next();
    let mut client = Client::connect(pod, "c");
    client.next();
    client.send(&AttachFrame::Stdin(b"heard\n".to_vec()));
    listener.expect("heard\n");
    client.expect("heard\n");
    drop(listener);
    client.send(&AttachFrame::Stdin(b"still open\n".to_vec()));
    client.expect("still open\n");
    client.send(&AttachFrame::Stdin(b"the last".to_vec()));
    drop(client);
    assert_eq!(pod.exit("c").await.code, 0);
    let line = |text: &str| ("F".to_owned(), text.to_owned());
    assert_eq!(
        pod.log("c", "stdout"),
        [line("heard"), line("still open"), line("the last")]
    );
}

/// Waits for `go`, then writes 40 times 64 KiB and a last line.
const LOUD: &str =
    "read go; n=0; while [ $n -lt 40 ]; do head -c 65536 /dev/zero; n=$((n+1)); done; echo done; ";
const LOUD_BYTES: usize = 40 * 65536 + "done\n".len();

async fn loud(pod: &Pod, then: &str) -> Client {
    let script = format!("{LOUD}{then}");
    pod.create(
        "c",
        &Wanted {
            args: &sh(&script),
            stdin: true,
            ..Wanted::default()
        },
    )
    .await;
    let mut client = Client::connect(pod, "c");
    pod.start("c").await;
    client.send(&AttachFrame::Stdin(b"go\n".to_vec()));
    client
}

fn logged_bytes(pod: &Pod) -> usize {
    pod.log("c", "stdout")
        .iter()
        .map(|(_, text)| text.len())
        .sum()
}

/// Bytes of stdout until the connection's end, or until the container's.
fn rest(client: &mut Client) -> (usize, bool) {
    let mut bytes = 0;
    loop {
        match client.next() {
            Some(AttachFrame::Stdout(data)) => bytes += data.len(),
            Some(AttachFrame::Ended) => return (bytes, true),
            Some(_) => {}
            None => return (bytes, false),
        }
    }
}

async fn a_client_that_does_not_read(pod: &Pod) {
    let mut slow = loud(pod, "sleep 1000").await;
    // The container gets through although nobody reads, when patience is over.
    eventually("the log is complete", || {
        logged_bytes(pod) == LOUD_BYTES - 1
    })
    .await;
    let (bytes, ended) = rest(&mut slow);
    assert!(bytes < LOUD_BYTES && !ended, "it was cut off");
    pod.monitor.signal("c", 9).await.unwrap();
    pod.exit("c").await;
}

async fn a_client_that_reads_late(pod: &Pod) {
    let mut late = loud(pod, "exit 5").await;
    // What fits nowhere waits in the container, and the log with it.
    eventually("the output is held", || logged_bytes(pod) >= 65536).await;
    assert_eq!(
        rest(&mut late),
        (LOUD_BYTES, true),
        "it missed something although it read in time"
    );
    assert_eq!(pod.exit("c").await.code, 5);
    assert_eq!(logged_bytes(pod), LOUD_BYTES - 1);
}

async fn a_client_that_keeps_up(pod: &Pod) {
    // Two streams of 24 MiB each at once: far more than any queue.
    let script =
        "read go; head -c 25165824 /dev/zero & head -c 25165824 /dev/zero >&2; wait; exit 3";
    pod.create(
        "c",
        &Wanted {
            args: &sh(script),
            stdin: true,
            log: Some("/dev/null".into()),
            ..Wanted::default()
        },
    )
    .await;
    let mut client = Client::connect(pod, "c");
    pod.start("c").await;
    client.send(&AttachFrame::Stdin(b"go\n".to_vec()));
    let (mut stdout, mut stderr) = (0, 0);
    loop {
        match client.next() {
            Some(AttachFrame::Stdout(data)) => stdout += data.len(),
            Some(AttachFrame::Stderr(data)) => stderr += data.len(),
            Some(AttachFrame::Ended) => break,
            Some(_) => {}
            None => panic!("cut off after {stdout} and {stderr} bytes"),
        }
    }
    assert_eq!((stdout, stderr), (25_165_824, 25_165_824));
    assert_eq!(pod.exit("c").await.code, 3);
}

async fn the_end_of_a_held_container(pod: &Pod) {
    let mut client = loud(pod, "sleep 1000").await;
    eventually("the output is held", || logged_bytes(pod) >= 65536).await;
    // Its end does not wait for a client, and what its pipe held is in the log and on its way to the client.
    pod.monitor.signal("c", 9).await.unwrap();
    assert_eq!(pod.exit("c").await.code, 137);
    let logged = logged_bytes(pod);
    assert!(logged < LOUD_BYTES - 1, "nothing held it");
    assert_eq!(rest(&mut client), (logged, true));
}

/// A pipe that its container has enlarged holds more than a client's queue does.
async fn the_end_of_a_container_with_large_pipes(pod: &Pod) {
    const BYTES: usize = 1_200_000;
    pod.run(
        "c",
        &Wanted {
            args: &sh(&format!("read go; head -c {BYTES} /dev/zero")),
            stdin: true,
            ..Wanted::default()
        },
    )
    .await;
    let pid = pod.container("c").await.unwrap().pid.unwrap();
    let pipe = std::fs::OpenOptions::new()
        .write(true)
        .open(format!("/proc/{pid}/fd/1"))
        .unwrap();
    let size = rustix::pipe::fcntl_setpipe_size(&pipe, 1 << 20).unwrap();
    drop(pipe);
    let mut client = Client::connect(pod, "c");
    // It reads nothing before the container has ended.
    client.send(&AttachFrame::Stdin(b"go\n".to_vec()));
    assert_eq!(pod.exit("c").await.code, 0);
    assert!(size < BYTES, "nothing was read before the end");
    assert_eq!(rest(&mut client), (BYTES, true));
}

async fn unread_input(pod: &Pod) {
    pod.run(
        "c",
        &Wanted {
            args: &sh("sleep 2; busybox wc -c"),
            stdin: true,
            stdin_once: true,
            ..Wanted::default()
        },
    )
    .await;
    let mut client = Client::connect(pod, "c");
    let writer = std::thread::spawn(move || {
        for _ in 0..64 {
            client.send(&AttachFrame::Stdin(vec![b'x'; 32 * 1024]));
        }
        client.send(&AttachFrame::CloseStdin);
        client
    });
    // Meanwhile the monitor serves.
    for _ in 0..20 {
        pod.container("c").await.unwrap();
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(pod.exit("c").await.code, 0);
    drop(writer.join().unwrap());
    assert_eq!(
        pod.log("c", "stdout"),
        [("F".to_owned(), (64 * 32 * 1024).to_string())]
    );
}

async fn after_the_end(pod: &Pod) {
    pod.run(
        "c",
        &Wanted {
            args: &["/bin/true"],
            ..Wanted::default()
        },
    )
    .await;
    pod.exit("c").await;
    let mut client = Client::connect(pod, "c");
    assert_eq!(
        client.next(),
        Some(AttachFrame::Hello {
            terminal: false,
            stdin: false
        })
    );
    assert_eq!(client.next(), Some(AttachFrame::Ended));
    pod.remove("c").await;
    assert_eq!(client.next(), None);
    assert!(!pod.path("c/attach.sock").exists());
}
