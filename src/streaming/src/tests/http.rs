//! What the listener answers to requests that begin no session, and that those leave tokens alone.

use rstest::rstest;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{Served, wanted};
use crate::client::{Client, ClientError};

/// Sends bytes, and gives what is answered until the server closes or the head and its one line are there.
async fn ask(served: &Served, request: &str) -> String {
    let mut stream = TcpStream::connect(served.address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\n") || answer.ends_with(b"\r\n") {
        if stream.read_buf(&mut answer).await.unwrap() == 0 {
            break;
        }
    }
    String::from_utf8(answer).unwrap()
}

fn path(url: &str) -> &str {
    &url[url.find("/exec").unwrap()..]
}

const UPGRADE: &str = "Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\n";

#[rstest]
#[case("GET", "/exec/unknown", UPGRADE, "404 Not Found", "ask for a new one")]
#[case("GET", "/", "", "404 Not Found", "unknown")]
#[case("GET", "/metrics", "", "404 Not Found", "unknown")]
#[case("GET", "TOKEN", "", "400 Bad Request", "SPDY/3.1 or to websocket")]
#[case("PUT", "TOKEN", UPGRADE, "405 Method Not Allowed", "GET or POST")]
#[case(
    "POST",
    "TOKEN",
    "Connection: Upgrade\r\nUpgrade: websocket\r\n",
    "405 Method Not Allowed",
    "begins with GET"
)]
#[case(
    "POST",
    "TOKEN",
    "Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: v9\r\n",
    "403 Forbidden",
    "v4.channel.k8s.io"
)]
#[tokio::test]
async fn refusals_say_why_and_use_no_token_up(
    #[case] method: &str,
    #[case] asked: &str,
    #[case] headers: &str,
    #[case] status: &str,
    #[case] why: &str,
) {
    let served = Served::new().await;
    let url = served.exec(&["exit", "0"], wanted("o"));
    let asked = if asked == "TOKEN" { path(&url) } else { asked };
    let request = format!("{method} {asked} HTTP/1.1\r\nHost: x\r\n{headers}\r\n");
    let answer = ask(&served, &request).await;
    assert!(
        answer.starts_with(&format!("HTTP/1.1 {status}\r\n")),
        "{answer}"
    );
    assert!(answer.contains(why), "{answer}");
    Client::connect(&url, &["v4.channel.k8s.io"], true)
        .await
        .unwrap();
}

#[tokio::test]
async fn a_token_begins_one_session_however_many_ask() {
    let served = Served::new().await;
    let url = served.exec(&["hold"], wanted("o"));
    let elsewhere = url.replace("/exec/", "/attach/");
    assert!(matches!(
        Client::connect(&elsewhere, &[], true).await,
        Err(ClientError::Refused(answer)) if answer.contains("404")
    ));
    let mut asks = tokio::task::JoinSet::new();
    for _ in 0..10 {
        let url = url.clone();
        asks.spawn(async move { Client::connect(&url, &[], true).await });
    }
    let clients = asks.join_all().await;
    assert_eq!(clients.iter().filter(|client| client.is_ok()).count(), 1);
    served.end().await;
}

#[tokio::test]
async fn heads_without_an_end_are_refused() {
    let served = Served::new().await;
    let mut stream = TcpStream::connect(served.address).await.unwrap();
    let line = format!("X-A: {}\r\n", "a".repeat(1000));
    let request = format!("GET / HTTP/1.1\r\n{}", line.repeat(100));
    // It may be cut off before all is sent.
    let _ = stream.write_all(request.as_bytes()).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.is_empty() || answer.contains(" 431 "), "{answer}");
}

#[tokio::test]
async fn a_server_ends_with_clients_that_say_nothing() {
    let served = Served::new().await;
    let mut silent = TcpStream::connect(served.address).await.unwrap();
    served.end().await;
    let mut byte = [0];
    assert!(matches!(silent.read(&mut byte).await, Ok(0) | Err(_)));
}

#[tokio::test]
async fn an_address_that_cannot_be_listened_on_is_named() {
    let served = Served::new().await;
    let options = crate::StreamingOptions {
        listen: served.address,
        advertise: None,
        tls: None,
        idle: std::time::Duration::MAX,
        stream_creation: std::time::Duration::MAX,
    };
    let error = crate::StreamingServer::bind(options, served.fake.clone())
        .await
        .unwrap_err();
    assert!(
        error.to_string().contains(&served.address.to_string()),
        "{error}"
    );
}

#[tokio::test]
async fn urls_begin_with_what_is_advertised() {
    let served = Served::new().await;
    let options = crate::StreamingOptions {
        listen: "127.0.0.1:0".parse().unwrap(),
        advertise: Some("https://node.example:10250/".to_owned()),
        tls: None,
        idle: std::time::Duration::MAX,
        stream_creation: std::time::Duration::MAX,
    };
    let server = crate::StreamingServer::bind(options, served.fake.clone())
        .await
        .unwrap();
    let session = crate::Session::PortForward {
        pod: "p".to_owned(),
        ports: vec![],
    };
    let url = server.tickets().url(session).unwrap();
    assert!(
        url.starts_with("https://node.example:10250/portforward/"),
        "{url}"
    );
}
