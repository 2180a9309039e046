//! Whose turn it is to read what is asked for.

use std::sync::Arc;

use tokio::sync::Semaphore;

/// Requests of statistics whose files are read at the same time.
const AT_A_TIME: usize = 2;

/// The same of metrics, which read several times as much of each container and look into its processes.
const METRICS_AT_A_TIME: usize = 1;

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    Statistics,
    Metrics,
}

/// Whose turn it is to read. A turn lasts until everything is read, also after the client gave up, so metrics have their
/// own: however long theirs take, kubelet gets the statistics that it evicts pods by.
#[derive(Debug)]
pub(super) struct Turns {
    statistics: Arc<Semaphore>,
    metrics: Arc<Semaphore>,
}

impl Default for Turns {
    fn default() -> Self {
        Self {
            statistics: Arc::new(Semaphore::new(AT_A_TIME)),
            metrics: Arc::new(Semaphore::new(METRICS_AT_A_TIME)),
        }
    }
}

impl Turns {
    pub(super) fn of(&self, asked: Asked) -> Arc<Semaphore> {
        Arc::clone(match asked {
            Asked::Statistics => &self.statistics,
            Asked::Metrics => &self.metrics,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_take_no_turn_from_statistics() {
        let turns = Turns::default();
        let mut metrics = Vec::new();
        while let Ok(turn) = turns.of(Asked::Metrics).try_acquire_owned() {
            metrics.push(turn);
        }
        assert!(!metrics.is_empty());
        assert!(turns.of(Asked::Statistics).try_acquire_owned().is_ok());
    }
}
