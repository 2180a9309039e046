//! Live sessions with containers and ports, over SPDY as the kubelet and crictl open them.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};
use api::cri;
use serde_json::Value;
use streaming::client::{Client, ClientStream};

use crate::cri::{Answer, request, words};

/// The version that every client of today chooses.
const VERSION: &str = "v4.channel.k8s.io";
/// The version for ports.
const PORTS: &str = "portforward.k8s.io";

/// What a client wants of a process.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wanted {
    /// A terminal.
    pub tty: bool,
    /// Give input.
    pub stdin: bool,
    /// Hear output.
    pub stdout: bool,
    /// Hear errors.
    pub stderr: bool,
}

impl Wanted {
    /// Both outputs.
    pub const OUTPUT: Self = Self {
        tty: false,
        stdin: false,
        stdout: true,
        stderr: true,
    };
    /// Input and both outputs.
    pub const ALL: Self = Self {
        stdin: true,
        ..Self::OUTPUT
    };
    /// A terminal with input and output.
    pub const TERMINAL: Self = Self {
        tty: true,
        stdin: true,
        stdout: true,
        stderr: false,
    };
}

impl crate::cri::Client {
    /// `Exec`: the URL of the session.
    pub async fn exec_url(&self, id: &str, command: &[&str], wanted: Wanted) -> Answer<String> {
        let message = cri::ExecRequest {
            container_id: id.to_owned(),
            cmd: words(command),
            tty: wanted.tty,
            stdin: wanted.stdin,
            stdout: wanted.stdout,
            stderr: wanted.stderr,
        };
        let answer = self.runtime.clone().exec(request(message)).await?;
        Ok(answer.into_inner().url)
    }

    /// `Attach`: the URL of the session.
    pub async fn attach_url(&self, id: &str, wanted: Wanted) -> Answer<String> {
        let message = cri::AttachRequest {
            container_id: id.to_owned(),
            tty: wanted.tty,
            stdin: wanted.stdin,
            stdout: wanted.stdout,
            stderr: wanted.stderr,
        };
        let answer = self.runtime.clone().attach(request(message)).await?;
        Ok(answer.into_inner().url)
    }

    /// `PortForward`: the URL of the session.
    pub async fn port_forward_url(&self, pod: &str, ports: &[i32]) -> Answer<String> {
        let message = cri::PortForwardRequest {
            pod_sandbox_id: pod.to_owned(),
            port: ports.to_vec(),
        };
        let answer = self.runtime.clone().port_forward(request(message)).await?;
        Ok(answer.into_inner().url)
    }

    /// Runs a command with live streams.
    pub async fn session(&self, id: &str, command: &[&str], wanted: Wanted) -> Result<Process> {
        let url = self.exec_url(id, command, wanted).await.context("Exec")?;
        Process::open(&url, wanted).await
    }

    /// The same for a shell script.
    pub async fn sh_session(&self, id: &str, script: &str, wanted: Wanted) -> Result<Process> {
        self.session(id, &["sh", "-c", script], wanted).await
    }

    /// Attaches to a container.
    pub async fn attached(&self, id: &str, wanted: Wanted) -> Result<Process> {
        let url = self.attach_url(id, wanted).await.context("Attach")?;
        Process::open(&url, wanted).await
    }

    /// Opens a session for a pod's ports.
    pub async fn ports(&self, pod: &str) -> Result<Ports> {
        let url = self.port_forward_url(pod, &[]).await?;
        let client = Client::connect(&url, &[PORTS], true).await?;
        Ok(Ports { client, last: 0 })
    }
}

/// A session with a process.
#[derive(Debug)]
pub struct Process {
    client: Client,
    error: ClientStream,
    /// Its streams by name.
    streams: BTreeMap<&'static str, Stream>,
}

#[derive(Debug)]
struct Stream {
    stream: ClientStream,
    /// What was read and not asked for yet.
    seen: Vec<u8>,
}

impl Process {
    /// Opens the session behind a URL.
    pub async fn open(url: &str, wanted: Wanted) -> Result<Self> {
        let mut client = Client::connect(url, &[VERSION], true).await?;
        let error = client.open(&[("streamtype", "error")])?;
        let mut streams = BTreeMap::new();
        for (name, wanted) in [
            ("stdin", wanted.stdin),
            ("stdout", wanted.stdout),
            ("stderr", wanted.stderr),
            ("resize", wanted.tty),
        ] {
            if wanted {
                let stream = client.open(&[("streamtype", name)])?;
                let seen = Vec::new();
                streams.insert(name, Stream { stream, seen });
            }
        }
        Ok(Self {
            client,
            error,
            streams,
        })
    }

    fn stream(&mut self, name: &str) -> Result<&mut Stream> {
        let stream = self.streams.get_mut(name);
        stream.with_context(|| format!("the session has no {name}"))
    }

    /// Gives input.
    pub async fn send(&mut self, input: impl AsRef<[u8]>) -> Result<()> {
        let stream = self.stream("stdin")?;
        Ok(stream.stream.send(input.as_ref()).await?)
    }

    /// Says that there is no more input.
    pub async fn close_stdin(&mut self) -> Result<()> {
        Ok(self.stream("stdin")?.stream.finish().await?)
    }

    /// Tells the size of the client's terminal.
    pub async fn resize(&mut self, rows: u16, columns: u16) -> Result<()> {
        let size = format!("{{\"Width\":{columns},\"Height\":{rows}}}\n");
        let stream = self.stream("resize")?;
        Ok(stream.stream.send(size.as_bytes()).await?)
    }

    /// Takes a stream away, to read or write it on its own.
    pub fn take(&mut self, name: &str) -> Result<ClientStream> {
        let stream = self.streams.remove(name);
        Ok(stream
            .with_context(|| format!("the session has no {name}"))?
            .stream)
    }

    /// Reads an output until it contains `part`; what it was up to there.
    pub async fn expect(&mut self, name: &str, part: &str) -> Result<String> {
        let stream = self.stream(name)?;
        loop {
            let text = String::from_utf8_lossy(&stream.seen).into_owned();
            if let Some(at) = text.find(part) {
                let end = at + part.len();
                stream.seen.drain(..end);
                return Ok(text[..end].to_owned());
            }
            match stream.stream.next().await? {
                Some(bytes) => stream.seen.extend_from_slice(&bytes),
                None => bail!("{name} ended after {text:?}, without {part:?}"),
            }
        }
    }

    /// The rest of an output.
    pub async fn rest(&mut self, name: &str) -> Result<String> {
        let stream = self.stream(name)?;
        let mut all = std::mem::take(&mut stream.seen);
        all.extend(stream.stream.read_to_end().await?);
        Ok(String::from_utf8_lossy(&all).into_owned())
    }

    /// Waits for the outcome: the exit code, or what is said instead of one.
    pub async fn outcome(mut self) -> Result<std::result::Result<i32, String>> {
        let status = self.error.read_to_end().await?;
        drop(self.streams);
        self.client.close().await;
        let status: Value = serde_json::from_slice(&status)
            .with_context(|| format!("{:?} as status", String::from_utf8_lossy(&status)))?;
        if status["status"] == "Success" {
            return Ok(Ok(0));
        }
        let message = status["message"].as_str().unwrap_or_default().to_owned();
        if status["reason"] != "NonZeroExitCode" {
            return Ok(Err(message));
        }
        let code = status["details"]["causes"][0]["message"].as_str();
        let code = code.context("no exit code in the status")?.parse()?;
        Ok(Ok(code))
    }

    /// The exit code; anything else is an error.
    pub async fn exit_code(self) -> Result<i32> {
        match self.outcome().await? {
            Ok(code) => Ok(code),
            Err(message) => bail!("the session failed: {message}"),
        }
    }

    /// Hangs up without a word.
    pub fn vanish(self) {
        self.client.vanish();
    }
}

/// A session for ports.
#[derive(Debug)]
pub struct Ports {
    client: Client,
    last: u32,
}

impl Ports {
    /// A connection to a port.
    pub fn connect(&mut self, port: u16) -> Result<Port> {
        self.last += 1;
        let (number, request) = (port.to_string(), self.last.to_string());
        let mut open = |kind| {
            let headers = [
                ("streamtype", kind),
                ("port", number.as_str()),
                ("requestid", request.as_str()),
            ];
            self.client.open(&headers)
        };
        Ok(Port {
            error: open("error")?,
            data: open("data")?,
        })
    }

    /// Hangs up without a word.
    pub fn vanish(self) {
        self.client.vanish();
    }

    /// Ends in good order.
    pub async fn close(self) {
        self.client.close().await;
    }
}

/// One connection to a port.
#[derive(Debug)]
pub struct Port {
    error: ClientStream,
    /// Both directions.
    pub data: ClientStream,
}

impl Port {
    /// Sends, says that it was all, and reads to the end.
    pub async fn exchange(mut self, bytes: &[u8]) -> Result<Vec<u8>> {
        self.data.send(bytes).await?;
        self.data.finish().await?;
        let answer = self.data.read_to_end().await?;
        let error = self.error.read_to_end().await?;
        ensure!(error.is_empty(), "{}", String::from_utf8_lossy(&error));
        Ok(answer)
    }

    /// What is said of a connection that cannot be made.
    pub async fn refusal(mut self) -> Result<String> {
        let error = self.error.read_to_end().await?;
        Ok(String::from_utf8(error)?)
    }
}
