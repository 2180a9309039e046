//! Exec and attach over SPDY.

use rstest::rstest;

use super::{Served, Setup, fake::Fake, pattern, wanted};
use crate::{
    Session,
    client::{Client, ClientStream},
};

const V4: &[&str] = &["v4.channel.k8s.io"];

/// A client of exec with its streams.
struct Exec {
    client: Client,
    error: ClientStream,
    stdin: Option<ClientStream>,
    stdout: Option<ClientStream>,
    stderr: Option<ClientStream>,
    resize: Option<ClientStream>,
}

impl Exec {
    async fn open(url: &str, versions: &[&str], letters: &str, keeps_windows: bool) -> Self {
        let mut client = Client::connect(url, versions, keeps_windows).await.unwrap();
        let mut open = |letter: char, kind| {
            let wanted = letter == '!' || letters.contains(letter);
            wanted.then(|| client.open(&[("streamType", kind)]).unwrap())
        };
        Self {
            error: open('!', "error").unwrap(),
            stdin: open('i', "stdin"),
            stdout: open('o', "stdout"),
            stderr: open('e', "stderr"),
            resize: open('t', "resize"),
            client,
        }
    }

    async fn status(&mut self) -> String {
        String::from_utf8(self.error.read_to_end().await.unwrap()).unwrap()
    }
}

async fn read(stream: &mut Option<ClientStream>) -> Vec<u8> {
    stream.as_mut().unwrap().read_to_end().await.unwrap()
}

/// The server has read the connection to its end, and told so.
async fn close(client: Client, fake: &Fake) {
    assert_eq!(client.close().await, "the client left");
    fake.nothing_left().await;
}

const SUCCESS: &str = r#"{"status":"Success"}"#;

#[rstest]
#[case(true)]
#[case(false)]
#[tokio::test]
async fn megabytes_pass_both_ways_and_end_with_their_sender(#[case] keeps_windows: bool) {
    let served = Served::new().await;
    let url = served.exec(&["cat"], wanted("io"));
    let mut exec = Exec::open(&url, V4, "io", keeps_windows).await;
    let sent = pattern(4 << 20, 1);
    let mut stdin = exec.stdin.take().unwrap();
    let ((), got) = tokio::join!(
        async {
            for piece in sent.chunks(50_000) {
                stdin.send(piece).await.unwrap();
            }
            stdin.finish().await.unwrap();
        },
        read(&mut exec.stdout),
    );
    assert!(got == sent, "{} bytes of {}", got.len(), sent.len());
    assert_eq!(exec.status().await, SUCCESS);
    close(exec.client, &served.fake).await;
    served.end().await;
}

#[rstest]
#[case(&["v4.channel.k8s.io", "v3.channel.k8s.io"], 0, SUCCESS)]
#[case(V4, 7, r#"{"status":"Failure","message":"command terminated with exit code 7","reason":"NonZeroExitCode","details":{"causes":[{"reason":"ExitCode","message":"7"}]}}"#)]
#[case(&["v3.channel.k8s.io"], 0, "")]
#[case(&["v3.channel.k8s.io"], 7, "command terminated with exit code 7")]
#[case(&["v2.channel.k8s.io"], 7, "command terminated with exit code 7")]
#[case(&["channel.k8s.io"], 7, "command terminated with exit code 7")]
#[case(&[], 7, "command terminated with exit code 7")]
#[tokio::test]
async fn exit_codes_are_told_as_the_version_has_it(
    #[case] versions: &[&str],
    #[case] code: i32,
    #[case] status: &str,
) {
    let served = Served::new().await;
    let url = served.exec(&["exit", &code.to_string()], wanted("oe"));
    let mut exec = Exec::open(&url, versions, "oe", true).await;
    assert_eq!(exec.client.version.as_deref(), versions.first().copied());
    assert_eq!(read(&mut exec.stdout).await, b"to stdout");
    assert_eq!(read(&mut exec.stderr).await, b"to stderr");
    assert_eq!(exec.status().await, status);
    close(exec.client, &served.fake).await;
}

#[tokio::test]
async fn what_cannot_be_started_is_told_on_the_error_stream() {
    let served = Served::new().await;
    let url = served.exec(&["fail"], wanted("o"));
    let mut exec = Exec::open(&url, V4, "o", true).await;
    assert_eq!(read(&mut exec.stdout).await, b"");
    let status = exec.status().await;
    assert!(status.contains(r#""reason":"InternalError""#), "{status}");
    assert!(status.contains("box"), "{status}");
    close(exec.client, &served.fake).await;
}

#[tokio::test]
async fn attach_carries_until_the_client_ends_its_input() {
    let served = Served::new().await;
    let session = Session::Attach {
        container: "box".to_owned(),
        wanted: wanted("io"),
    };
    let url = served.tickets.url(session).unwrap();
    let mut exec = Exec::open(&url, V4, "io", true).await;
    let stdin = exec.stdin.as_mut().unwrap();
    stdin.send(b"ping").await.unwrap();
    let stdout = exec.stdout.as_mut().unwrap();
    assert_eq!(stdout.next().await.unwrap().as_deref(), Some(&b"ping"[..]));
    stdin.finish().await.unwrap();
    assert_eq!(exec.status().await, SUCCESS);
    close(exec.client, &served.fake).await;
}

#[rstest]
#[case("v4.channel.k8s.io")]
#[case("v3.channel.k8s.io")]
#[tokio::test]
async fn sizes_of_a_terminal_reach_it(#[case] version: &str) {
    let served = Served::new().await;
    let url = served.exec(&["sizes"], wanted("iot"));
    let mut exec = Exec::open(&url, &[version], "iot", true).await;
    let resize = exec.resize.as_mut().unwrap();
    resize
        .send(b"{\"Width\":80,\"Height\":24}\n{\"Wid")
        .await
        .unwrap();
    resize.send(b"th\":132,\"Height\":50}\n").await.unwrap();
    assert_eq!(read(&mut exec.stdout).await, b"80x24\n132x50\n");
    exec.status().await;
    close(exec.client, &served.fake).await;
}

#[tokio::test]
async fn versions_without_sizes_have_no_stream_for_them() {
    let served = Served::new().await;
    let url = served.exec(&["cat"], wanted("iot"));
    let mut exec = Exec::open(&url, &["v2.channel.k8s.io"], "io", true).await;
    exec.stdin.as_mut().unwrap().finish().await.unwrap();
    assert_eq!(exec.status().await, "");
    close(exec.client, &served.fake).await;
}

#[tokio::test]
async fn a_dead_stream_does_not_end_its_session() {
    let served = Served::new().await;
    let url = served.exec(&["count"], wanted("ioe"));
    let mut exec = Exec::open(&url, V4, "ioe", false).await;
    exec.stderr.take().unwrap().reset().await.unwrap();
    let stdin = exec.stdin.as_mut().unwrap();
    stdin.send(&pattern(1 << 20, 2)).await.unwrap();
    stdin.finish().await.unwrap();
    assert_eq!(
        read(&mut exec.stdout).await,
        (1 << 20).to_string().as_bytes()
    );
    assert_eq!(exec.status().await, SUCCESS);
    close(exec.client, &served.fake).await;
}

#[tokio::test]
async fn output_that_its_client_does_not_want_does_not_stop_the_process() {
    let served = Served::new().await;
    let url = served.exec(&["cat"], wanted("io"));
    let mut exec = Exec::open(&url, V4, "io", false).await;
    exec.stdout.take().unwrap().reset().await.unwrap();
    let stdin = exec.stdin.as_mut().unwrap();
    stdin.send(&pattern(1 << 20, 3)).await.unwrap();
    stdin.finish().await.unwrap();
    assert_eq!(exec.status().await, SUCCESS);
    close(exec.client, &served.fake).await;
}

#[tokio::test]
async fn streams_without_a_meaning_are_reset_alone() {
    let served = Served::new().await;
    let url = served.exec(&["exit", "0"], wanted("o"));
    let mut client = Client::connect(&url, V4, true).await.unwrap();
    for kind in ["stdin", "resize", "nonsense"] {
        let mut stream = client.open(&[("streamType", kind)]).unwrap();
        assert!(stream.read_to_end().await.is_err(), "{kind} was not reset");
    }
    let mut error = client.open(&[("streamType", "error")]).unwrap();
    let mut twice = client.open(&[("streamType", "error")]).unwrap();
    assert!(twice.read_to_end().await.is_err());
    let mut stdout = client.open(&[("streamType", "stdout")]).unwrap();
    assert_eq!(stdout.read_to_end().await.unwrap(), b"to stdout");
    assert_eq!(error.read_to_end().await.unwrap(), SUCCESS.as_bytes());
    close(client, &served.fake).await;
}

#[tokio::test]
async fn a_client_that_opens_too_few_streams_is_told_which() {
    let served = Served::with(Setup {
        stream_creation: std::time::Duration::from_secs(2),
        ..Setup::default()
    })
    .await;
    let url = served.exec(&["hold"], wanted("ioe"));
    let mut exec = Exec::open(&url, V4, "ie", true).await;
    let status = exec.status().await;
    assert!(
        status.contains("the client opened no stdout stream in time"),
        "{status}"
    );
    assert_eq!(exec.client.close().await, "the client left");
    served.end().await;
}

#[tokio::test]
async fn a_descendant_that_keeps_the_output_does_not_keep_the_client() {
    let served = Served::new().await;
    let url = served.exec(&["leave"], wanted("o"));
    let mut exec = Exec::open(&url, V4, "o", true).await;
    assert_eq!(read(&mut exec.stdout).await, b"left");
    assert_eq!(exec.status().await, SUCCESS);
    close(exec.client, &served.fake).await;
}

#[rstest]
#[case("hold", "ioe")]
#[case("flood", "o")]
#[tokio::test]
async fn a_client_that_vanishes_takes_its_process_along(
    #[case] program: &str,
    #[case] letters: &str,
) {
    let served = Served::new().await;
    let url = served.exec(&[program], wanted(letters));
    let mut exec = Exec::open(&url, V4, letters, false).await;
    let first = exec.stdout.as_mut().unwrap().next().await.unwrap();
    assert!(first.is_some());
    served.fake.count(1).await;
    exec.client.vanish();
    served.fake.nothing_left().await;
    served.end().await;
}

#[tokio::test]
async fn a_client_that_vanishes_while_its_input_is_stuck_is_noticed() {
    let served = Served::new().await;
    let url = served.exec(&["hold"], wanted("io"));
    let mut exec = Exec::open(&url, V4, "io", false).await;
    assert!(
        exec.stdout
            .as_mut()
            .unwrap()
            .next()
            .await
            .unwrap()
            .is_some()
    );
    let mut stdin = exec.stdin.take().unwrap();
    // Far more than is kept for a process that does not read: the server stops reading this connection.
    let stuck = tokio::spawn(async move { stdin.send(&pattern(64 << 20, 4)).await });
    served.fake.count(1).await;
    tokio::time::timeout(std::time::Duration::from_millis(300), async {
        while !stuck.is_finished() {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap_err();
    exec.client.vanish();
    served.fake.nothing_left().await;
    served.end().await;
}

#[tokio::test]
async fn sessions_end_with_the_server_and_say_so() {
    let mut served = Served::new().await;
    let url = served.exec(&["hold"], wanted("o"));
    let mut exec = Exec::open(&url, V4, "o", true).await;
    assert!(
        exec.stdout
            .as_mut()
            .unwrap()
            .next()
            .await
            .unwrap()
            .is_some()
    );
    drop(served.stop.take());
    let status = exec.status().await;
    assert!(status.contains("the runtime on the node ends"), "{status}");
    exec.client.close().await;
    served.end().await;
}

#[tokio::test]
async fn a_session_over_which_nothing_flows_is_ended() {
    let served = Served::with(Setup {
        idle: std::time::Duration::from_secs(2),
        ..Setup::default()
    })
    .await;
    let url = served.exec(&["hold"], wanted("io"));
    let mut exec = Exec::open(&url, V4, "io", true).await;
    assert!(
        exec.stdout
            .as_mut()
            .unwrap()
            .next()
            .await
            .unwrap()
            .is_some()
    );
    exec.client.ended().await;
    served.fake.nothing_left().await;
}
