//! Samples of one figure and what is said about them.

use std::time::{Duration, Instant};

use serde::Serialize;

/// What is said about a figure.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Summary {
    /// The median.
    pub(crate) p50: f64,
    /// Nineteen of twenty are not above this.
    pub(crate) p95: f64,
    /// The least.
    pub(crate) min: f64,
    /// The greatest.
    pub(crate) max: f64,
    /// How many.
    pub(crate) count: usize,
}

impl Summary {
    /// Of samples in any order; none of no samples.
    pub(crate) fn of(samples: &[f64]) -> Option<Self> {
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        Some(Self {
            p50: quantile(&sorted, 50)?,
            p95: quantile(&sorted, 95)?,
            min: *sorted.first()?,
            max: *sorted.last()?,
            count: sorted.len(),
        })
    }
}

/// The median of samples in any order.
pub(crate) fn median(samples: &[f64]) -> Option<f64> {
    Summary::of(samples).map(|summary| summary.p50)
}

/// The sample nearest to a percentile.
fn quantile(sorted: &[f64], percent: usize) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    sorted.get((last * percent + 50) / 100).copied()
}

/// Milliseconds with their fraction.
pub(crate) fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// The steps of one pod's life in their order, each in milliseconds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Steps(Vec<(String, f64)>);

impl Steps {
    /// Does something and notes how long it took.
    pub(crate) fn time<T, E>(
        &mut self,
        step: &str,
        work: impl FnOnce() -> Result<T, E>,
    ) -> Result<T, E> {
        let start = Instant::now();
        let done = work()?;
        self.note(step, ms(start.elapsed()));
        Ok(done)
    }

    /// The same for what is awaited.
    pub(crate) async fn time_async<T, E>(
        &mut self,
        step: &str,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        let start = Instant::now();
        let done = work.await?;
        self.note(step, ms(start.elapsed()));
        Ok(done)
    }

    /// Notes a step that was timed elsewhere.
    pub(crate) fn note(&mut self, step: &str, ms: f64) {
        self.0.push((step.to_owned(), ms));
    }

    /// The sum of some steps.
    pub(crate) fn sum(&self, steps: &[&str]) -> f64 {
        self.0
            .iter()
            .filter(|(step, _)| steps.contains(&step.as_str()))
            .map(|(_, ms)| ms)
            .sum()
    }

    /// All of them.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, f64)> {
        self.0.iter().map(|(step, ms)| (step.as_str(), *ms))
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;

    fn same(one: f64, other: f64) -> bool {
        (one - other).abs() < f64::EPSILON
    }

    #[test]
    fn percentiles_are_samples() {
        let samples: Vec<f64> = (0..=100).rev().map(f64::from).collect();
        let summary = Summary::of(&samples).unwrap();
        let found = [summary.p50, summary.p95, summary.min, summary.max];
        for (found, expected) in found.into_iter().zip([50.0, 95.0, 0.0, 100.0]) {
            assert!(same(found, expected));
        }
        assert_eq!(summary.count, 101);
        assert!(same(Summary::of(&[7.0]).unwrap().p95, 7.0));
        assert!(same(median(&[3.0, 1.0]).unwrap(), 3.0));
        assert!(Summary::of(&[]).is_none());
    }

    #[test]
    fn steps_are_summed_by_name() {
        let mut steps = Steps::default();
        for (step, ms) in [("a", 1.0), ("b", 2.0), ("a", 4.0)] {
            steps.note(step, ms);
        }
        assert!(same(steps.sum(&["a"]), 5.0));
        assert!(same(steps.sum(&["a", "b", "c"]), 7.0));
    }
}
