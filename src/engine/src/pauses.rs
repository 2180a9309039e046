//! Pauses between questions to a monitor that does not answer: each twice as long as the one before, within a bound.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(200);
const LONGEST: Duration = Duration::from_mins(1);

/// The pauses of one row of attempts.
#[derive(Debug)]
pub(crate) struct Pauses {
    next: Duration,
}

impl Default for Pauses {
    fn default() -> Self {
        Self { next: FIRST }
    }
}

impl Pauses {
    /// Waits until the next attempt is due.
    pub(crate) async fn wait(&mut self) {
        tokio::time::sleep(self.take()).await;
    }

    fn take(&mut self) -> Duration {
        let pause = self.next;
        self.next = (pause * 2).min(LONGEST);
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_have_a_bound() {
        let mut pauses = Pauses::default();
        assert_eq!([pauses.take(), pauses.take()], [FIRST, FIRST * 2]);
        let last = (0..100).map(|_| pauses.take()).last();
        assert_eq!(last, Some(LONGEST));
    }
}
