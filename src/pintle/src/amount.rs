//! Amounts as people read them.

use std::time::Duration;

/// Bytes with one decimal, in the greatest unit that leaves a number from 1 on.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    // Tenths of a unit, in whole numbers.
    let mut tenths = u128::from(bytes) * 10 / 1024;
    let mut unit = 0;
    while tenths >= 10 * 1024 && unit + 1 < UNITS.len() {
        tenths /= 1024;
        unit += 1;
    }
    format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
}

/// A time that has passed, in the greatest unit that leaves a number from 1 on, and the next one.
pub(crate) fn age(age: Duration) -> String {
    let seconds = age.as_secs();
    match seconds {
        0..10 => format!("{:.1} s", age.as_secs_f64()),
        10..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds / 3600 % 24),
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(0, "0 B")]
    #[case(1023, "1023 B")]
    #[case(1024, "1.0 KiB")]
    #[case(1536, "1.5 KiB")]
    #[case((1 << 20) - 1, "1023.9 KiB")]
    #[case(5 << 30, "5.0 GiB")]
    #[case(u64::MAX, "16777215.9 TiB")]
    fn sizes(#[case] bytes: u64, #[case] expected: &str) {
        assert_eq!(size(bytes), expected);
    }

    #[rstest]
    #[case(0.04, "0.0 s")]
    #[case(9.96, "10.0 s")]
    #[case(59.9, "59 s")]
    #[case(61.0, "1 min 1 s")]
    #[case(3661.0, "1 h 1 min")]
    #[case(90_000.0, "1 d 1 h")]
    fn ages(#[case] seconds: f64, #[case] expected: &str) {
        assert_eq!(age(Duration::from_secs_f64(seconds)), expected);
    }
}
