//! Processes and ports that are made of pipes, and a count of those that have not been let go of.

use std::{io, sync::Arc, time::Duration};

use engine::{
    EngineError, SharedError,
    streams::{ExecCommand, PortStream, ProcessStreams, StreamEnd, Streams, Wanted},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    net::{TcpListener, TcpStream},
    sync::{mpsc, watch},
};

/// Echoes, and closes when its client has.
pub(super) const ECHO: u16 = 7;
/// Takes connections and never reads.
pub(super) const HOLE: u16 = 9;
/// Says something and closes.
pub(super) const GREET: u16 = 13;
/// Has nobody who listens.
pub(super) const CLOSED: u16 = 1;
/// Reads to the end, and then answers with the length.
pub(super) const COUNT: u16 = 17;

#[derive(Clone, Debug)]
pub(super) struct Fake {
    alive: watch::Sender<usize>,
    listener: Arc<std::net::SocketAddr>,
}

/// Counts as long as it exists.
struct Alive(watch::Sender<usize>);

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.send_modify(|alive| *alive -= 1);
    }
}

impl Fake {
    pub(super) async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let fake = Self {
            alive: watch::Sender::new(0),
            listener: Arc::new(address),
        };
        let pod = fake.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve_port(stream, pod.alive()));
            }
        });
        fake
    }

    fn alive(&self) -> Alive {
        self.alive.send_modify(|alive| *alive += 1);
        Alive(self.alive.clone())
    }

    /// Waits until there are so many processes and connections.
    pub(super) async fn count(&self, count: usize) {
        let mut alive = self.alive.subscribe();
        tokio::time::timeout(
            Duration::from_mins(1),
            alive.wait_for(|alive| *alive == count),
        )
        .await
        .unwrap_or_else(|_| {
            panic!(
                "{} processes and connections instead of {count}",
                *self.alive.borrow()
            )
        })
        .unwrap();
    }

    /// Waits until every process and every connection is let go of.
    pub(super) async fn nothing_left(&self) {
        self.count(0).await;
    }
}

/// The first two bytes that a connection gets tell which port was wanted: they are sent by [`Fake::connect`].
async fn serve_port(mut stream: TcpStream, alive: Alive) {
    let port = stream.read_u16().await.unwrap();
    match port {
        ECHO => {
            let (mut read, mut write) = stream.split();
            // A client that leaves is an end like any other.
            let _ = tokio::io::copy(&mut read, &mut write).await;
            let _ = write.shutdown().await;
        }
        HOLE => {
            // Its end is noticed without reading.
            while !stream
                .ready(tokio::io::Interest::READABLE)
                .await
                .unwrap()
                .is_read_closed()
            {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        GREET => stream.write_all(b"good morning").await.unwrap(),
        COUNT => {
            let mut all = Vec::new();
            stream.read_to_end(&mut all).await.unwrap();
            stream
                .write_all(all.len().to_string().as_bytes())
                .await
                .unwrap();
        }
        other => panic!("nobody listens on {other}"),
    }
    drop(alive);
}

fn error(why: &str) -> SharedError {
    Arc::new(EngineError::ContainerNotFound(why.to_owned()))
}

impl Streams for Fake {
    async fn exec(&self, command: ExecCommand) -> Result<ProcessStreams, SharedError> {
        if command.command[0] == "fail" {
            return Err(error(&command.container));
        }
        let wanted = command.wanted;
        let (stdin, process_in) = tokio::io::duplex(4096);
        let (stdout, process_out) = tokio::io::duplex(4096);
        let (stderr, process_err) = tokio::io::duplex(4096);
        let (resize, sizes) = mpsc::channel(4);
        let alive = self.alive();
        let process = run(command.command, process_in, process_out, process_err, sizes);
        Ok(ProcessStreams {
            stdin: wanted.stdin.then(|| Box::pin(stdin) as _),
            stdout: wanted.stdout.then(|| Box::pin(stdout) as _),
            stderr: wanted.stderr.then(|| Box::pin(stderr) as _),
            resize: wanted.tty.then_some(resize),
            end: Box::pin(async move {
                let _alive = alive;
                // A process of its own: its pipes move while its end is waited for, and its end kills it.
                let mut process = tokio::task::JoinSet::from_iter([process]);
                Ok(StreamEnd::Exited(
                    process.join_next().await.unwrap().unwrap().unwrap(),
                ))
            }),
        })
    }

    async fn attach(&self, container: &str, wanted: Wanted) -> Result<ProcessStreams, SharedError> {
        let command = ExecCommand {
            container: container.to_owned(),
            command: vec!["cat".to_owned()],
            wanted,
        };
        self.exec(command).await
    }

    async fn connect(&self, _pod: &str, port: u16) -> Result<PortStream, SharedError> {
        if port == CLOSED {
            return Err(error("nobody listens"));
        }
        let mut stream = TcpStream::connect(*self.listener).await.unwrap();
        stream.write_u16(port).await.unwrap();
        Ok(PortStream(stream))
    }
}

async fn run(
    command: Vec<String>,
    mut stdin: DuplexStream,
    mut stdout: DuplexStream,
    mut stderr: DuplexStream,
    mut sizes: mpsc::Receiver<engine::streams::TerminalSize>,
) -> io::Result<i32> {
    match command[0].as_str() {
        "cat" => {
            tokio::io::copy(&mut stdin, &mut stdout).await?;
            Ok(0)
        }
        "count" => {
            let mut all = Vec::new();
            stdin.read_to_end(&mut all).await?;
            stdout.write_all(all.len().to_string().as_bytes()).await?;
            Ok(0)
        }
        "exit" => {
            // Streams that were not asked for are closed.
            let _ = stdout.write_all(b"to stdout").await;
            let _ = stderr.write_all(b"to stderr").await;
            Ok(command[1].parse().unwrap())
        }
        "hold" => {
            stdout.write_all(b"!").await?;
            std::future::pending().await
        }
        "flood" => loop {
            stdout.write_all(&[0; 4096]).await?;
        },
        "sizes" => {
            for _ in 0..2 {
                let size = sizes.recv().await.unwrap();
                let line = format!("{}x{}\n", size.columns, size.rows);
                stdout.write_all(line.as_bytes()).await?;
            }
            Ok(0)
        }
        // Ends at once, while a descendant goes on with its output.
        "leave" => {
            stdout.write_all(b"left").await?;
            std::mem::forget(stdout);
            Ok(0)
        }
        other => panic!("no program {other}"),
    }
}
