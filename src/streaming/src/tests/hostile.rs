//! Clients that mean no good: each is cut off, and leaves nothing behind.

use bytes::{Bytes, BytesMut};
use rstest::rstest;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{Served, wanted};
use crate::{
    client::upgrade,
    spdy::{Decoder, Encoder, Frame, Headers, Setting},
};

/// A client that says what it is told to.
struct Raw {
    stream: TcpStream,
    encoder: Encoder,
    decoder: Decoder,
}

impl Raw {
    async fn connect(url: &str) -> Self {
        let (stream, _, early) = upgrade(url, "SPDY/3.1", &["v4.channel.k8s.io"])
            .await
            .unwrap();
        let mut decoder = Decoder::default();
        decoder.buffer.extend_from_slice(&early);
        Self {
            stream,
            encoder: Encoder::default(),
            decoder,
        }
    }

    async fn send(&mut self, frames: &[Frame]) {
        let mut bytes = BytesMut::new();
        for frame in frames {
            self.encoder.encode(frame, &mut bytes).unwrap();
        }
        self.stream.write_all(&bytes).await.unwrap();
    }

    /// The next frame; `None` when the server has closed.
    async fn next(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = self.decoder.frame().unwrap() {
                return Some(frame);
            }
            match self.stream.read_buf(&mut self.decoder.buffer).await {
                Ok(0) | Err(_) => return None,
                Ok(_) => {}
            }
        }
    }

    /// The first frame that `wanted` takes.
    async fn until(&mut self, wanted: impl Fn(&Frame) -> bool) -> Option<Frame> {
        loop {
            let frame = self.next().await?;
            if wanted(&frame) {
                return Some(frame);
            }
        }
    }
}

fn open(stream: u32, kind: &str) -> Frame {
    open_with(stream, &[("streamType", kind)])
}

fn open_with(stream: u32, headers: &[(&str, &str)]) -> Frame {
    let headers: Headers = headers.iter().copied().collect();
    Frame::SynStream {
        stream,
        associated: 0,
        priority: 0,
        fin: false,
        unidirectional: false,
        headers,
    }
}

fn data(stream: u32, len: usize) -> Frame {
    Frame::Data {
        stream,
        fin: false,
        payload: Bytes::from(vec![0; len]),
    }
}

fn settings() -> Frame {
    let entries = vec![Setting {
        id: 7,
        flags: 0,
        value: 65_536,
    }];
    Frame::Settings {
        clear: false,
        entries,
    }
}

#[rstest]
#[case(&[0xff; 8])]
#[case(&[0x80, 2, 0, 1, 0, 0, 0, 0])]
#[case(&[0x80, 3, 0, 1, 0, 0xff, 0xff, 0xff])]
#[case(&[0, 0, 0, 0, 0, 0, 0, 1])]
#[tokio::test]
async fn garbage_ends_a_session_with_a_last_word(#[case] garbage: &[u8]) {
    let served = Served::new().await;
    let mut raw = Raw::connect(&served.exec(&["hold"], wanted("o"))).await;
    raw.send(&[open(1, "error"), open(3, "stdout")]).await;
    assert!(
        raw.until(|frame| matches!(frame, Frame::Data { .. }))
            .await
            .is_some()
    );
    served.fake.count(1).await;
    raw.stream.write_all(garbage).await.unwrap();
    let last = raw
        .until(|frame| matches!(frame, Frame::GoAway { status: 1, .. }))
        .await;
    assert!(last.is_some());
    served.fake.nothing_left().await;
    served.end().await;
}

#[rstest]
#[case(vec![open(1, "error"), open(1, "stdout")])]
#[case(vec![open(3, "error"), open(1, "stdout")])]
#[case(vec![Frame::WindowUpdate { stream: 0, delta: 0x7fff_ffff }])]
#[tokio::test]
async fn what_breaks_the_protocol_ends_a_session(#[case] frames: Vec<Frame>) {
    let served = Served::new().await;
    let mut raw = Raw::connect(&served.exec(&["hold"], wanted("o"))).await;
    raw.send(&frames).await;
    assert!(
        raw.until(|frame| matches!(frame, Frame::GoAway { status: 1, .. }))
            .await
            .is_some()
    );
    served.end().await;
}

#[tokio::test]
async fn who_sends_more_than_was_granted_loses_the_stream_alone() {
    let served = Served::new().await;
    let mut raw = Raw::connect(&served.exec(&["hold"], wanted("io"))).await;
    raw.send(&[
        settings(),
        open(1, "error"),
        open(3, "stdin"),
        open(5, "stdout"),
    ])
    .await;
    // The process takes some of it, and never all.
    let burst: Vec<Frame> = (0..8).map(|_| data(3, 32 << 10)).collect();
    raw.send(&burst).await;
    let reset = raw
        .until(|frame| matches!(frame, Frame::RstStream { .. }))
        .await;
    assert_eq!(
        reset,
        Some(Frame::RstStream {
            stream: 3,
            status: 7
        })
    );
    raw.send(&[Frame::Ping(1)]).await;
    assert!(raw.until(|frame| *frame == Frame::Ping(1)).await.is_some());
    served.fake.count(1).await;
    drop(raw);
    served.fake.nothing_left().await;
}

#[tokio::test]
async fn a_grant_that_no_window_can_have_resets_its_stream_alone() {
    let served = Served::new().await;
    let mut raw = Raw::connect(&served.exec(&["hold"], wanted("o"))).await;
    raw.send(&[
        open(1, "error"),
        open(3, "stdout"),
        Frame::WindowUpdate {
            stream: 3,
            delta: 0x7fff_ffff,
        },
        Frame::Ping(1),
    ])
    .await;
    let reset = raw
        .until(|frame| matches!(frame, Frame::RstStream { .. }))
        .await;
    assert_eq!(
        reset,
        Some(Frame::RstStream {
            stream: 3,
            status: 7
        })
    );
    assert!(raw.until(|frame| *frame == Frame::Ping(1)).await.is_some());
}

#[tokio::test]
async fn a_client_that_keeps_windows_is_sent_no_more_than_it_granted() {
    let served = Served::new().await;
    let mut raw = Raw::connect(&served.exec(&["flood"], wanted("o"))).await;
    raw.send(&[settings(), open(1, "error"), open(3, "stdout")])
        .await;
    let mut got = 0;
    while got < 65_536 {
        if let Some(Frame::Data { payload, .. }) = raw.next().await {
            got += payload.len();
        }
    }
    // Whatever came by now was sent without credit: the answer to a ping comes after all that was sent before.
    for ping in [1, 3, 5] {
        raw.send(&[Frame::Ping(ping)]).await;
        loop {
            match raw.next().await.unwrap() {
                Frame::Data { payload, .. } => got += payload.len(),
                Frame::Ping(id) if id == ping => break,
                _ => {}
            }
        }
    }
    assert_eq!(got, 65_536);
    let grant = |stream, delta| Frame::WindowUpdate { stream, delta };
    raw.send(&[grant(3, 1000), grant(0, 10)]).await;
    let more = raw.until(|frame| matches!(frame, Frame::Data { .. })).await;
    assert!(matches!(more, Some(Frame::Data { payload, .. }) if payload.len() == 10));
    served.fake.count(1).await;
}

#[tokio::test]
async fn a_client_that_keeps_no_windows_is_sent_everything() {
    let served = Served::new().await;
    let mut raw = Raw::connect(&served.exec(&["flood"], wanted("o"))).await;
    raw.send(&[open(1, "error"), open(3, "stdout")]).await;
    let mut got = 0;
    while got < 4 << 20 {
        if let Some(Frame::Data { payload, .. }) = raw.next().await {
            got += payload.len();
        }
    }
}

#[tokio::test]
async fn data_for_streams_that_never_were_is_refused_alone() {
    let served = Served::new().await;
    let mut raw = Raw::connect(&served.exec(&["hold"], wanted("o"))).await;
    raw.send(&[data(99, 10), Frame::Ping(1)]).await;
    assert_eq!(
        raw.next().await,
        Some(Frame::RstStream {
            stream: 99,
            status: 2
        })
    );
    assert_eq!(raw.next().await, Some(Frame::Ping(1)));
}

#[tokio::test]
async fn who_makes_us_answer_without_reading_is_cut_off() {
    let served = Served::new().await;
    let mut raw = Raw::connect(&served.exec(&["hold"], wanted("o"))).await;
    raw.send(&[open(1, "error"), open(3, "stdout")]).await;
    assert!(
        raw.until(|frame| matches!(frame, Frame::Data { .. }))
            .await
            .is_some()
    );
    served.fake.count(1).await;
    let mut bytes = BytesMut::new();
    for _ in 0..10_000 {
        raw.encoder.encode(&Frame::Ping(1), &mut bytes).unwrap();
    }
    while raw.stream.write_all(&bytes).await.is_ok() {}
    served.fake.nothing_left().await;
    served.end().await;
}

#[tokio::test]
async fn streams_beyond_a_sessions_limit_are_refused_alone() {
    let served = Served::new().await;
    let (stream, _, _) = upgrade(&served.ports(&[]), "SPDY/3.1", &[]).await.unwrap();
    let mut raw = Raw {
        stream,
        encoder: Encoder::default(),
        decoder: Decoder::default(),
    };
    // Each waits for a second stream that never comes.
    for request in 0..2100_u32 {
        let id = request.to_string();
        let headers = [
            ("streamType", "error"),
            ("port", "80"),
            ("requestID", id.as_str()),
        ];
        raw.send(&[open_with(2 * request + 1, &headers)]).await;
    }
    raw.send(&[Frame::Ping(1)]).await;
    let (mut taken, mut refused) = (0, 0);
    loop {
        match raw.next().await.unwrap() {
            Frame::SynReply { .. } => taken += 1,
            Frame::RstStream { status: 3, .. } => refused += 1,
            Frame::Ping(1) => break,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((taken, refused), (2000, 100));
    drop(raw);
    served.end().await;
}

#[tokio::test]
async fn half_open_sessions_leave_nothing() {
    let served = Served::new().await;
    for cut in 0..3 {
        let mut raw = Raw::connect(&served.exec(&["hold"], wanted("io"))).await;
        raw.send(&[open(1, "error"), open(3, "stdin"), open(5, "stdout")][..cut])
            .await;
        raw.stream.write_all(&[0x80, 3, 0]).await.unwrap();
        drop(raw);
    }
    served.end().await;
}

#[tokio::test]
async fn silent_connections_keep_nobody_out() {
    let served = Served::new().await;
    let mut silent = Vec::new();
    for _ in 0..crate::server::MAX_NEW + 10 {
        silent.push(TcpStream::connect(served.address).await.unwrap());
    }
    let mut raw = Raw::connect(&served.exec(&["cat"], wanted("io"))).await;
    raw.send(&[Frame::Ping(1)]).await;
    let answered = raw.until(|frame| matches!(frame, Frame::Ping(1))).await;
    assert!(answered.is_some());
    // Those that were there first made room.
    assert_eq!(silent[0].read(&mut [0]).await.unwrap_or(0), 0);
    drop((silent, raw));
    served.end().await;
}
