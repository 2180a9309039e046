//! Time: instants for deadlines, and the timestamps of log lines.

use rustix::time::{ClockId, clock_gettime};

/// Milliseconds of the monotonic clock.
pub(crate) type Millis = u64;

/// Now, for deadlines.
pub(crate) fn now_ms() -> Millis {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec.cast_unsigned() * 1000 + now.tv_nsec.cast_unsigned() / 1_000_000
}

/// Now in nanoseconds of the monotonic clock, which is the same for all processes of the node.
pub(crate) fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec.cast_unsigned() * 1_000_000_000 + now.tv_nsec.cast_unsigned()
}

/// Now, in nanoseconds since 1970.
pub(crate) fn unix_ns() -> i64 {
    let now = clock_gettime(ClockId::Realtime);
    now.tv_sec * 1_000_000_000 + now.tv_nsec
}

/// Length of [`rfc3339`]'s text.
pub(crate) const TIMESTAMP_BYTES: usize = 30;

/// `2026-11-23T19:20:27.000000007Z`: UTC, always nine digits, so that lines sort and `--since` compares.
pub(crate) fn rfc3339(unix_ns: i64) -> [u8; TIMESTAMP_BYTES] {
    let seconds = unix_ns.div_euclid(1_000_000_000);
    let nanoseconds = unix_ns.rem_euclid(1_000_000_000);
    let (year, month, day) = date(seconds.div_euclid(86_400));
    let second_of_day = seconds.rem_euclid(86_400);
    let mut text = *b"0000-00-00T00:00:00.000000000Z";
    digits(&mut text, 0, 4, year);
    digits(&mut text, 5, 2, month);
    digits(&mut text, 8, 2, day);
    digits(&mut text, 11, 2, second_of_day / 3600);
    digits(&mut text, 14, 2, second_of_day / 60 % 60);
    digits(&mut text, 17, 2, second_of_day % 60);
    digits(&mut text, 20, 9, nanoseconds);
    text
}

fn digits(text: &mut [u8], at: usize, count: usize, mut value: i64) {
    for place in text.iter_mut().skip(at).take(count).rev() {
        *place = b'0' + u8::try_from(value.rem_euclid(10)).unwrap_or(0);
        value /= 10;
    }
}

/// Year, month and day of a day number since 1970, in the proleptic Gregorian calendar. Years are counted from March, so
/// that the leap day is a year's last; 400 years (an era) always have 146,097 days.
fn date(day_number: i64) -> (i64, i64, i64) {
    let since_march_of_year_0 = day_number + 719_468;
    let era = since_march_of_year_0.div_euclid(146_097);
    let day_of_era = since_march_of_year_0.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    (era * 400 + year_of_era + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::{date, rfc3339};

    #[test]
    fn timestamps_are_as_kubelet_reads_them() {
        for (unix_ns, text) in [
            (0, "1970-01-01T00:00:00.000000000Z"),
            (1_795_461_627_123_456_789, "2026-11-23T19:20:27.123456789Z"),
            (951_782_400_000_000_001, "2000-02-29T00:00:00.000000001Z"),
            (4_107_542_399_999_999_999, "2100-02-28T23:59:59.999999999Z"),
            (-1, "1969-12-31T23:59:59.999999999Z"),
        ] {
            assert_eq!(String::from_utf8_lossy(&rfc3339(unix_ns)), text);
        }
    }

    #[test]
    fn days_follow_each_other() {
        let mut expected = (1899, 12, 31);
        for day_number in -25_567..80_000 {
            let (year, month, day) = date(day_number);
            let (y, m, d) = expected;
            assert!(
                (year, month, day) == (y, m, d + 1)
                    || (year, month, day) == (y, m + 1, 1)
                    || (year, month, day) == (y + 1, 1, 1),
                "{expected:?} then {year}-{month}-{day}"
            );
            assert!((28..=31).contains(&d) || day == d + 1);
            expected = (year, month, day);
        }
    }
}
