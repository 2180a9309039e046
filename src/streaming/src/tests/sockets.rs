//! WebSocket sessions, with tungstenite as the client: another hand's reading of the protocol.

use std::time::Duration;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use futures_util::{SinkExt, StreamExt};
use rstest::rstest;
use tokio::{io::AsyncWriteExt, net::TcpStream};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{self, Bytes, Message, client::IntoClientRequest, http::HeaderValue},
};

use super::{
    Served, Setup,
    fake::{CLOSED, COUNT, ECHO, GREET, HOLE},
    pattern, wanted,
};
use crate::client::Client;

type Socket = WebSocketStream<TcpStream>;

async fn connect(url: &str, protocol: &str) -> Socket {
    let address = url
        .strip_prefix("http://")
        .unwrap()
        .split('/')
        .next()
        .unwrap();
    let mut request = url.replacen("http", "ws", 1).into_client_request().unwrap();
    if !protocol.is_empty() {
        let protocol = HeaderValue::from_str(protocol).unwrap();
        request
            .headers_mut()
            .insert("sec-websocket-protocol", protocol);
    }
    let stream = TcpStream::connect(address).await.unwrap();
    client_async(request, stream).await.unwrap().0
}

fn message(base64: bool, channel: u8, bytes: &[u8]) -> Message {
    if base64 {
        let channel = char::from(b'0' + channel);
        Message::text(format!("{channel}{}", BASE64_STANDARD.encode(bytes)))
    } else {
        Message::binary([&[channel], bytes].concat())
    }
}

/// The next message of a channel; `None` for the close frame, which has to be a normal one.
async fn next(socket: &mut Socket, base64: bool) -> Option<(u8, Vec<u8>)> {
    loop {
        match socket.next().await.unwrap().unwrap() {
            Message::Binary(bytes) => {
                assert!(!base64);
                return Some((bytes[0], bytes[1..].to_vec()));
            }
            Message::Text(text) => {
                assert!(base64);
                let (channel, rest) = text.as_bytes().split_first().unwrap();
                return Some((channel - b'0', BASE64_STANDARD.decode(rest).unwrap()));
            }
            Message::Close(frame) => {
                assert_eq!(u16::from(frame.unwrap().code), 1000);
                return None;
            }
            _ => {}
        }
    }
}

/// What comes on each of five channels to the end.
async fn rest(socket: &mut Socket, base64: bool) -> [Vec<u8>; 5] {
    let mut all: [Vec<u8>; 5] = Default::default();
    while let Some((channel, bytes)) = next(socket, base64).await {
        all[usize::from(channel)].extend(bytes);
    }
    all
}

#[rstest]
#[case("", false, "command terminated with exit code 3")]
#[case("channel.k8s.io", false, "command terminated with exit code 3")]
#[case("base64.channel.k8s.io", true, "command terminated with exit code 3")]
#[case("v4.channel.k8s.io", false, "NonZeroExitCode")]
#[case("v4.base64.channel.k8s.io", true, "NonZeroExitCode")]
#[case("v5.channel.k8s.io", false, "NonZeroExitCode")]
#[tokio::test]
async fn output_and_exit_code_come_on_their_channels(
    #[case] protocol: &str,
    #[case] base64: bool,
    #[case] status: &str,
) {
    let served = Served::new().await;
    let mut socket = connect(&served.exec(&["exit", "3"], wanted("oe")), protocol).await;
    assert_eq!(
        next(&mut socket, base64).await,
        Some((1, Vec::new())),
        "the session is up"
    );
    let [_, out, err, error, _] = rest(&mut socket, base64).await;
    assert_eq!(out, b"to stdout");
    assert_eq!(err, b"to stderr");
    let error = String::from_utf8(error).unwrap();
    assert!(error.contains(status), "{error}");
    served.fake.nothing_left().await;
    drop(socket);
    served.end().await;
}

#[rstest]
#[case("e", 2)]
#[case("i", 3)]
#[tokio::test]
async fn the_lowest_channel_to_the_client_tells_that_the_session_is_up(
    #[case] letters: &str,
    #[case] channel: u8,
) {
    let served = Served::new().await;
    let mut socket = connect(&served.exec(&["cat"], wanted(letters)), "v4.channel.k8s.io").await;
    assert_eq!(next(&mut socket, false).await, Some((channel, Vec::new())));
}

#[rstest]
#[case(100_000)]
#[case(4 << 20)]
#[tokio::test]
async fn megabytes_pass_and_the_close_signal_ends_the_input(#[case] message_len: usize) {
    let served = Served::new().await;
    let socket = connect(&served.exec(&["cat"], wanted("io")), "v5.channel.k8s.io").await;
    let (mut write, mut read) = socket.split();
    let sent = pattern(4 << 20, 6);
    let all = sent.clone();
    let sending = tokio::spawn(async move {
        for part in all.chunks(message_len) {
            write.send(message(false, 0, part)).await.unwrap();
        }
        write.send(Message::binary(vec![255, 0])).await.unwrap();
        write
    });
    let (mut got, mut status) = (Vec::new(), Vec::new());
    loop {
        match read.next().await.unwrap().unwrap() {
            Message::Binary(bytes) if bytes[0] == 1 => got.extend_from_slice(&bytes[1..]),
            Message::Binary(bytes) => status.extend_from_slice(&bytes[1..]),
            Message::Close(_) => break,
            _ => {}
        }
    }
    drop(sending.await.unwrap());
    assert!(got == sent, "{} bytes of {}", got.len(), sent.len());
    assert_eq!(status, br#"{"status":"Success"}"#);
    served.fake.nothing_left().await;
}

#[tokio::test]
async fn base64_carries_input_and_sizes() {
    let served = Served::new().await;
    let mut socket = connect(
        &served.exec(&["sizes"], wanted("ot")),
        "v4.base64.channel.k8s.io",
    )
    .await;
    for size in [r#"{"Width":80,"Height":24}"#, r#"{"Width":1,"Height":2}"#] {
        socket
            .send(message(true, 4, size.as_bytes()))
            .await
            .unwrap();
    }
    let [_, out, _, error, _] = rest(&mut socket, true).await;
    assert_eq!(out, b"80x24\n1x2\n");
    assert_eq!(error, br#"{"status":"Success"}"#);
}

#[tokio::test]
async fn channels_that_do_not_exist_are_passed_over() {
    let served = Served::new().await;
    let mut socket = connect(&served.exec(&["cat"], wanted("io")), "v5.channel.k8s.io").await;
    for channel in [1, 2, 3, 5, 77, 254] {
        socket.send(message(false, channel, b"lost")).await.unwrap();
    }
    socket.send(Message::binary(Vec::new())).await.unwrap();
    socket.send(message(false, 0, b"kept")).await.unwrap();
    socket.send(Message::binary(vec![255, 0])).await.unwrap();
    let [_, out, ..] = rest(&mut socket, false).await;
    assert_eq!(out, b"kept");
}

#[rstest]
#[case("v5.channel.k8s.io", Message::binary(vec![255]))]
#[case("v5.channel.k8s.io", Message::binary(vec![255, 0, 0]))]
#[case("v4.base64.channel.k8s.io", Message::text("0not base64!"))]
#[tokio::test]
async fn messages_that_break_the_protocol_end_the_session(
    #[case] protocol: &str,
    #[case] bad: Message,
) {
    let served = Served::new().await;
    let mut socket = connect(&served.exec(&["hold"], wanted("io")), protocol).await;
    served.fake.count(1).await;
    socket.send(bad).await.unwrap();
    let code = loop {
        if let Message::Close(frame) = socket.next().await.unwrap().unwrap() {
            break u16::from(frame.unwrap().code);
        }
    };
    assert_eq!(code, 1002);
    served.fake.nothing_left().await;
}

#[tokio::test]
async fn a_frame_that_is_no_websocket_ends_the_session() {
    let served = Served::new().await;
    let mut socket = connect(&served.exec(&["hold"], wanted("io")), "v4.channel.k8s.io").await;
    served.fake.count(1).await;
    socket.get_mut().write_all(b"\x82\x05plain").await.unwrap();
    loop {
        if let Message::Close(frame) = socket.next().await.unwrap().unwrap() {
            assert_eq!(u16::from(frame.unwrap().code), 1002);
            break;
        }
    }
    served.fake.nothing_left().await;
    served.end().await;
}

#[tokio::test]
async fn pings_are_answered_and_keep_an_idle_session() {
    let idle = Duration::from_secs(2);
    let served = Served::with(Setup {
        idle,
        ..Setup::default()
    })
    .await;
    let mut socket = connect(&served.exec(&["hold"], wanted("io")), "v4.channel.k8s.io").await;
    // Longer than the idle limit, ping by ping.
    let begin = std::time::Instant::now();
    let mut ping = 0_u8;
    while begin.elapsed() < idle * 3 / 2 {
        ping = ping.wrapping_add(1);
        socket
            .send(Message::Ping(Bytes::copy_from_slice(&[ping])))
            .await
            .unwrap();
        loop {
            if let Message::Pong(payload) = socket.next().await.unwrap().unwrap() {
                assert_eq!(payload[..], [ping]);
                break;
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    served.fake.count(1).await;
    // Then without a ping: the end comes by itself.
    while let Some(Ok(_)) = socket.next().await {}
    served.fake.nothing_left().await;
}

#[rstest]
#[case(true)]
#[case(false)]
#[tokio::test]
async fn a_client_that_leaves_takes_its_process_along(#[case] politely: bool) {
    let served = Served::new().await;
    let mut socket = connect(&served.exec(&["hold"], wanted("io")), "v4.channel.k8s.io").await;
    served.fake.count(1).await;
    if politely {
        socket.close(None).await.unwrap();
        // The answer to our close, and then the end.
        rest(&mut socket, false).await;
        assert!(matches!(
            socket.next().await,
            None | Some(Err(tungstenite::Error::ConnectionClosed))
        ));
    } else {
        drop(socket);
    }
    served.fake.nothing_left().await;
    served.end().await;
}

#[rstest]
#[case("v4.channel.k8s.io", false)]
#[case("v4.base64.channel.k8s.io", true)]
#[case("", false)]
#[tokio::test]
async fn ports_have_two_channels_each(#[case] protocol: &str, #[case] base64: bool) {
    let served = Served::new().await;
    let mut socket = connect(&served.ports(&[ECHO, CLOSED, GREET]), protocol).await;
    socket.send(message(base64, 0, b"echo this")).await.unwrap();
    let mut channels: [Vec<u8>; 6] = Default::default();
    let done = |channels: &[Vec<u8>; 6]| {
        channels[0].len() == 2 + 9 && channels[3].len() > 2 && channels[4].len() == 2 + 12
    };
    while !done(&channels) {
        let (channel, bytes) = next(&mut socket, base64).await.unwrap();
        channels[usize::from(channel)].extend(bytes);
    }
    for (channel, port) in [ECHO, ECHO, CLOSED, CLOSED, GREET, GREET]
        .into_iter()
        .enumerate()
    {
        assert!(
            channels[channel].starts_with(&port.to_le_bytes()),
            "channel {channel}"
        );
    }
    assert_eq!(&channels[0][2..], b"echo this");
    assert!(String::from_utf8_lossy(&channels[3][2..]).contains("nobody listens"));
    assert_eq!(&channels[4][2..], b"good morning");
    assert_eq!(channels[5].len(), 2);
    served.fake.count(1).await;
    drop(socket);
    served.fake.nothing_left().await;
    served.end().await;
}

#[tokio::test]
async fn a_socket_whose_ports_are_all_done_is_closed() {
    let served = Served::new().await;
    let mut socket = connect(&served.ports(&[GREET]), "v4.channel.k8s.io").await;
    let [data, error, ..] = rest(&mut socket, false).await;
    assert_eq!(&data[2..], b"good morning");
    assert_eq!(error.len(), 2);
    served.end().await;
}

#[tokio::test]
async fn spdy_passes_through_a_websocket() {
    let served = Served::new().await;
    let socket = connect(&served.ports(&[]), "SPDY/3.1+portforward.k8s.io").await;
    let (mut write, mut read) = socket.split();
    let (inner, outer) = tokio::io::duplex(1 << 16);
    let (mut from_client, mut to_client) = tokio::io::split(outer);
    tokio::spawn(async move {
        let mut buffer = vec![0; 1 << 16];
        loop {
            match tokio::io::AsyncReadExt::read(&mut from_client, &mut buffer).await {
                Ok(0) | Err(_) => break,
                Ok(len) => write
                    .send(Message::binary(buffer[..len].to_vec()))
                    .await
                    .unwrap(),
            }
        }
        write.close().await.unwrap();
    });
    let closed = tokio::spawn(async move {
        while let Some(message) = read.next().await {
            match message.unwrap() {
                Message::Binary(bytes) => to_client.write_all(&bytes).await.unwrap(),
                Message::Close(frame) => return frame.map(|frame| u16::from(frame.code)),
                _ => {}
            }
        }
        None
    });
    let (inner_read, inner_write) = tokio::io::split(inner);
    let mut client = Client::over(inner_read, inner_write, Bytes::new(), None, false);
    for request in ["1", "2"] {
        let mut stream = |kind| {
            let port = COUNT.to_string();
            client
                .open(&[
                    ("port", &port),
                    ("streamType", kind),
                    ("requestID", request),
                ])
                .unwrap()
        };
        let (mut error, mut data) = (stream("error"), stream("data"));
        data.send(&pattern(1 << 20, 7)).await.unwrap();
        data.finish().await.unwrap();
        assert_eq!(
            data.read_to_end().await.unwrap(),
            (1 << 20).to_string().as_bytes()
        );
        assert_eq!(error.read_to_end().await.unwrap(), b"");
    }
    served.fake.nothing_left().await;
    client.close().await;
    assert_eq!(closed.await.unwrap(), Some(1000));
    served.end().await;
}

#[tokio::test]
async fn a_port_that_nobody_reads_does_not_stop_the_others() {
    let served = Served::with(Setup {
        stall: Duration::from_millis(200),
        ..Setup::default()
    })
    .await;
    let socket = connect(&served.ports(&[HOLE, ECHO]), "v4.channel.k8s.io").await;
    let (mut write, mut read) = socket.split();
    let sending = tokio::spawn(async move {
        // More than all the buffers between here and the pod.
        for _ in 0..64 {
            write
                .send(message(false, 0, &vec![0; 1 << 20]))
                .await
                .unwrap();
        }
        write.send(message(false, 2, b"still here")).await.unwrap();
        write
    });
    let mut echo = Vec::new();
    while echo.len() < 2 + 10 {
        if let Message::Binary(bytes) = read.next().await.unwrap().unwrap()
            && bytes[0] == 2
        {
            echo.extend_from_slice(&bytes[1..]);
        }
    }
    assert_eq!(&echo[2..], b"still here");
    served.fake.count(1).await;
    drop((read, sending.await.unwrap()));
    served.fake.nothing_left().await;
}
