//! Telling a thread that nobody waits for it any more: it cannot be cut off as a job can, so it looks before each of its steps.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use crate::error::EngineError;

/// Whether the work of an operation is still wanted.
#[derive(Clone, Debug)]
pub(crate) struct Stop {
    operation: &'static str,
    is_set: Arc<AtomicBool>,
}

/// Says when dropped that the work is not wanted any more: whoever waits for it holds this.
#[must_use]
pub(crate) struct StopOnDrop(Stop);

impl Stop {
    /// For work of this operation, by which errors call it.
    pub(crate) fn new(operation: &'static str) -> Self {
        Self {
            operation,
            is_set: Arc::default(),
        }
    }

    /// To be asked before each step.
    ///
    /// # Errors
    /// [`EngineError::Interrupted`] when there shall be none.
    pub(crate) fn go_on(&self) -> Result<(), EngineError> {
        if self.is_set.load(Ordering::Relaxed) {
            return Err(EngineError::Interrupted {
                operation: self.operation,
            });
        }
        Ok(())
    }

    /// For work that looks by itself.
    pub(crate) fn flag(&self) -> &AtomicBool {
        &self.is_set
    }

    pub(crate) fn on_drop(&self) -> StopOnDrop {
        StopOnDrop(self.clone())
    }
}

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.is_set.store(true, Ordering::Relaxed);
    }
}
