//! How long each step took.

use std::{
    fmt::Write,
    time::{Duration, Instant},
};

/// The steps of one run, in their order.
#[derive(Debug, Default)]
pub(crate) struct Timings(Vec<(&'static str, Duration)>);

impl Timings {
    /// Runs `step` and remembers its time, however it ends.
    pub(crate) async fn time<T>(&mut self, name: &'static str, step: impl Future<Output = T>) -> T {
        let start = Instant::now();
        let result = step.await;
        self.0.push((name, start.elapsed()));
        result
    }

    /// Remembers the time of a step that was measured elsewhere.
    pub(crate) fn add(&mut self, name: &'static str, time: Duration) {
        self.0.push((name, time));
    }

    /// A line per step and their sum.
    pub(crate) fn table(&self) -> String {
        let total = self.0.iter().map(|(_, time)| *time).sum();
        let mut text = String::new();
        for (name, time) in self.0.iter().chain([&("total", total)]) {
            let ms = time.as_secs_f64() * 1000.0;
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{name:<18}{ms:>10.1} ms");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::Timings;

    #[test]
    fn a_line_per_step_and_their_sum() {
        let timings = Timings(vec![
            ("RunPodSandbox", Duration::from_micros(20_500)),
            ("StartContainer", Duration::from_millis(3)),
        ]);
        let expected = "\
RunPodSandbox           20.5 ms
StartContainer           3.0 ms
total                   23.5 ms
";
        assert_eq!(timings.table(), expected);
    }
}
