//! Port-forward over SPDY.

use std::time::Duration;

use rstest::rstest;

use super::{
    Served, Setup,
    fake::{CLOSED, COUNT, ECHO, GREET, HOLE},
    pattern,
};
use crate::client::{Client, ClientStream};

const VERSION: &[&str] = &["portforward.k8s.io"];

/// The streams of one connection: data and error.
fn open(client: &mut Client, port: u16, request: Option<&str>) -> (ClientStream, ClientStream) {
    let port = port.to_string();
    let mut stream = |kind| {
        let mut headers = vec![("port", port.as_str()), ("streamType", kind)];
        headers.extend(request.map(|id| ("requestID", id)));
        client.open(&headers).unwrap()
    };
    let error = stream("error");
    (stream("data"), error)
}

async fn text(stream: &mut ClientStream) -> String {
    String::from_utf8(stream.read_to_end().await.unwrap()).unwrap()
}

#[rstest]
#[case(true)]
#[case(false)]
#[tokio::test]
async fn connections_carry_megabytes_side_by_side(#[case] keeps_windows: bool) {
    let served = Served::new().await;
    let mut client = Client::connect(&served.ports(&[]), VERSION, keeps_windows)
        .await
        .unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    for request in 0..4_u32 {
        let (mut data, mut error) = open(&mut client, ECHO, Some(&request.to_string()));
        tasks.spawn(async move {
            let sent = pattern(2 << 20, request);
            error.finish().await.unwrap();
            let got = data.exchange(&sent).await.unwrap();
            assert!(got == sent, "{} bytes of {}", got.len(), sent.len());
            assert_eq!(text(&mut error).await, "");
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    served.fake.nothing_left().await;
    assert_eq!(client.close().await, "the client left");
    served.end().await;
}

#[tokio::test]
async fn clients_that_number_nothing_are_paired_by_their_streams() {
    let served = Served::new().await;
    let mut client = Client::connect(&served.ports(&[]), &[], true)
        .await
        .unwrap();
    for _ in 0..3 {
        let (mut data, mut error) = open(&mut client, GREET, None);
        assert_eq!(text(&mut data).await, "good morning");
        data.finish().await.unwrap();
        assert_eq!(text(&mut error).await, "");
    }
    served.fake.nothing_left().await;
}

#[tokio::test]
async fn each_direction_has_an_end_of_its_own() {
    let served = Served::new().await;
    let mut client = Client::connect(&served.ports(&[]), VERSION, true)
        .await
        .unwrap();
    let (mut data, mut error) = open(&mut client, COUNT, Some("1"));
    data.send(b"twelve bytes").await.unwrap();
    data.finish().await.unwrap();
    assert_eq!(text(&mut data).await, "12");
    assert_eq!(text(&mut error).await, "");
    served.fake.nothing_left().await;
}

#[rstest]
#[case(&[], CLOSED, "nobody listens")]
#[case(&[ECHO, GREET], COUNT, "not among the ports")]
#[tokio::test]
async fn a_port_that_fails_is_told_and_the_next_connection_works(
    #[case] allowed: &[u16],
    #[case] port: u16,
    #[case] why: &str,
) {
    let served = Served::new().await;
    let mut client = Client::connect(&served.ports(allowed), VERSION, true)
        .await
        .unwrap();
    for request in ["1", "2"] {
        let (mut data, mut error) = open(&mut client, port, Some(request));
        let said = text(&mut error).await;
        assert!(
            said.contains(why) && said.contains(&format!("port {port} of pod pod")),
            "{said}"
        );
        assert!(
            data.read_to_end().await.is_err(),
            "the data stream was not reset"
        );
    }
    let (mut data, _error) = open(&mut client, GREET, Some("3"));
    assert_eq!(text(&mut data).await, "good morning");
}

#[rstest]
#[case(&[("streamType", "data")])]
#[case(&[("streamType", "data"), ("port", "0")])]
#[case(&[("streamType", "data"), ("port", "65536")])]
#[case(&[("streamType", "stdin"), ("port", "80")])]
#[case(&[("port", "80")])]
#[case(&[("streamType", "data"), ("port", "80"), ("requestID", "a number of more than sixty-four characters, which no honest client would give")])]
#[tokio::test]
async fn streams_that_say_not_what_they_are_for_are_reset_alone(#[case] headers: &[(&str, &str)]) {
    let served = Served::new().await;
    let mut client = Client::connect(&served.ports(&[]), VERSION, true)
        .await
        .unwrap();
    let mut stream = client.open(headers).unwrap();
    assert!(stream.read_to_end().await.is_err());
    let (mut data, _error) = open(&mut client, GREET, Some("1"));
    assert_eq!(text(&mut data).await, "good morning");
}

#[tokio::test]
async fn half_a_pair_is_given_up_and_told_so() {
    let served = Served::with(Setup {
        stream_creation: Duration::from_millis(50),
        ..Setup::default()
    })
    .await;
    let mut client = Client::connect(&served.ports(&[]), VERSION, true)
        .await
        .unwrap();
    let mut error = client
        .open(&[("port", "80"), ("streamType", "error"), ("requestID", "9")])
        .unwrap();
    let said = text(&mut error).await;
    assert!(
        said.contains("the second stream of request 9 was not opened"),
        "{said}"
    );
    let mut data = client
        .open(&[("port", "80"), ("streamType", "data"), ("requestID", "10")])
        .unwrap();
    assert!(
        data.read_to_end().await.is_err(),
        "the data stream was not reset"
    );
    let (mut data, _error) = open(&mut client, GREET, Some("11"));
    assert_eq!(text(&mut data).await, "good morning");
}

#[rstest]
#[case(true)]
#[case(false)]
#[tokio::test]
async fn a_connection_that_nobody_reads_does_not_stop_the_others(#[case] keeps_windows: bool) {
    let served = Served::with(Setup {
        stall: Duration::from_millis(200),
        ..Setup::default()
    })
    .await;
    let mut client = Client::connect(&served.ports(&[]), VERSION, keeps_windows)
        .await
        .unwrap();
    let (mut dead, _dead_error) = open(&mut client, HOLE, Some("1"));
    let stuck = tokio::spawn(async move {
        // More than all the buffers between here and the pod.
        let sent = dead.send(&vec![0; 64 << 20]).await;
        (dead, sent)
    });
    served.fake.count(1).await;
    let (mut data, mut error) = open(&mut client, ECHO, Some("2"));
    let sent = pattern(1 << 20, 5);
    for piece in sent.chunks(16 << 10) {
        data.send(piece).await.unwrap();
        let mut got = 0;
        while got < piece.len() {
            got += data.next().await.unwrap().unwrap().len();
        }
    }
    data.finish().await.unwrap();
    assert_eq!(text(&mut error).await, "");
    if keeps_windows {
        // With windows there is no reason to cut anything: it waits, and lives.
        assert!(!stuck.is_finished());
        served.fake.count(1).await;
    } else {
        assert!(
            stuck.await.unwrap().1.is_err(),
            "the dead connection was not reset"
        );
        served.fake.nothing_left().await;
    }
}

#[tokio::test]
async fn a_client_that_resets_a_connection_ends_it_alone() {
    let served = Served::new().await;
    let mut client = Client::connect(&served.ports(&[]), VERSION, true)
        .await
        .unwrap();
    let (mut other, _other_error) = open(&mut client, ECHO, Some("1"));
    other.send(b"one").await.unwrap();
    assert_eq!(other.next().await.unwrap().as_deref(), Some(&b"one"[..]));
    let (data, mut error) = open(&mut client, HOLE, Some("2"));
    served.fake.count(2).await;
    data.reset().await.unwrap();
    served.fake.count(1).await;
    assert_eq!(text(&mut error).await, "");
    other.send(b"two").await.unwrap();
    assert_eq!(other.next().await.unwrap().as_deref(), Some(&b"two"[..]));
}

#[tokio::test]
async fn thousands_of_connections_one_after_another_leave_nothing_behind() {
    let served = Served::new().await;
    let mut client = Client::connect(&served.ports(&[]), VERSION, true)
        .await
        .unwrap();
    // More than a session may have at a time.
    for request in 0..2100 {
        let (mut data, mut error) = open(&mut client, GREET, Some(&request.to_string()));
        assert_eq!(text(&mut data).await, "good morning");
        data.finish().await.unwrap();
        assert_eq!(text(&mut error).await, "");
        error.finish().await.unwrap();
    }
    served.fake.nothing_left().await;
    served.end().await;
}

#[tokio::test]
async fn a_client_that_vanishes_takes_its_connections_along() {
    let served = Served::new().await;
    let mut client = Client::connect(&served.ports(&[]), VERSION, false)
        .await
        .unwrap();
    let mut streams = Vec::new();
    for request in 0..20 {
        streams.push(open(
            &mut client,
            if request % 2 == 0 { ECHO } else { HOLE },
            Some(&request.to_string()),
        ));
    }
    served.fake.count(20).await;
    client.vanish();
    served.fake.nothing_left().await;
    served.end().await;
}
