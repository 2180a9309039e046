//! The `grpc-timeout` header: up to eight digits and a unit.

use std::time::Duration;

use http::HeaderMap;
use tokio::time::Instant;
use tonic::{Code, Status};

use crate::errors::status;

/// When the request's time is over; `None` if it says nothing.
pub(super) fn of(headers: &HeaderMap) -> Result<Option<Instant>, Status> {
    let Some(value) = headers.get("grpc-timeout") else {
        return Ok(None);
    };
    let timeout = value.to_str().ok().and_then(parse).ok_or_else(|| {
        status(
            Code::InvalidArgument,
            "grpc-timeout is not up to eight digits and one of H, M, S, m, u, n",
        )
    })?;
    // What lies beyond the clock's range is never.
    Ok(Instant::now().checked_add(timeout))
}

fn parse(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let value = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_hours(value)),
        "M" => Some(Duration::from_mins(value)),
        "S" => Some(Duration::from_secs(value)),
        "m" => Some(Duration::from_millis(value)),
        "u" => Some(Duration::from_micros(value)),
        "n" => Some(Duration::from_nanos(value)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("2H", Some(Duration::from_hours(2)))]
    #[case("3M", Some(Duration::from_mins(3)))]
    #[case("99999999S", Some(Duration::from_secs(99_999_999)))]
    #[case("150m", Some(Duration::from_millis(150)))]
    #[case("0u", Some(Duration::ZERO))]
    #[case("7n", Some(Duration::from_nanos(7)))]
    #[case("999999999S", None)]
    #[case("S", None)]
    #[case("", None)]
    #[case("-1S", None)]
    #[case("+1S", None)]
    #[case("1s", None)]
    #[case("1 S", None)]
    #[case("5", None)]
    #[case("5ü", None)]
    fn the_header_is_digits_and_a_unit(#[case] text: &str, #[case] wanted: Option<Duration>) {
        assert_eq!(parse(text), wanted);
    }
}
