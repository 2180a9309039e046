//! What surrounds a call: deadlines, panics, and the record of its end.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::time::Duration;

use rstest::rstest;

use super::*;

fn request(timeout: Option<&str>) -> http::Request<()> {
    let mut request = http::Request::builder().uri("/runtime.v1.ImageService/PullImage");
    if let Some(timeout) = timeout {
        request = request.header("grpc-timeout", timeout);
    }
    request.body(()).unwrap()
}

fn code(response: &http::Response<Reply>) -> Option<Code> {
    Status::from_header_map(response.headers()).map(|status| status.code())
}

#[tokio::test(start_paused = true)]
async fn a_call_ends_at_its_deadline() {
    let began = Instant::now();
    let response = handle(request(Some("250m")), |_| std::future::pending()).await;
    assert_eq!(code(&response), Some(Code::DeadlineExceeded));
    assert_eq!(began.elapsed(), Duration::from_millis(250));
}

#[tokio::test(start_paused = true)]
async fn a_call_learns_its_deadline() {
    let response = handle(request(Some("3S")), |request| async move {
        let request = tonic::Request::from_http(request);
        let deadline = Deadline::of(&request);
        assert_eq!(deadline.within(None), Some(Duration::from_secs(3)));
        let limit = Duration::from_secs(1);
        assert_eq!(deadline.within(Some(limit)), Some(limit));
        Status::not_found("x").into_http()
    })
    .await;
    assert_eq!(code(&response), Some(Code::NotFound));
    let without = tonic::Request::new(());
    assert_eq!(Deadline::of(&without).within(None), None);
}

#[tokio::test]
async fn a_deadline_that_makes_no_sense_is_refused() {
    let response = handle(request(Some("soon")), |_| std::future::pending()).await;
    assert_eq!(code(&response), Some(Code::InvalidArgument));
}

#[rstest]
#[case::text(|| panic!("static words"))]
#[case::string(|| panic!("words of {}", 7))]
#[tokio::test]
async fn a_panic_is_an_internal_error_that_tells_clients_nothing(#[case] panics: fn()) {
    let response = handle(request(None), |_| async move {
        panics();
        Status::ok("").into_http()
    })
    .await;
    let status = Status::from_header_map(response.headers()).unwrap();
    assert_eq!(status.code(), Code::Internal);
    assert!(!status.message().contains("words"), "{status}");
}
