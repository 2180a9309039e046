//! Log lines on standard error.

use std::{
    env,
    io::{self, IsTerminal},
    os::unix::fs::MetadataExt,
};

use tracing_subscriber::{
    Layer, Registry, filter::Targets, fmt, layer::SubscriberExt, reload, util::SubscriberInitExt,
};

use crate::config::{LogFilter, LogFormat};

/// Why logging cannot be set up or changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LogError {
    /// The level is no filter. The configuration has checked it, so this is a defect.
    #[error("the log level {level:?} is no filter")]
    Level {
        /// The level.
        level: String,
        /// The parser's words.
        source: tracing_subscriber::filter::ParseError,
    },
    /// Something in this process logs already.
    #[error("logging is set up twice")]
    Twice(#[from] tracing_subscriber::util::TryInitError),
    /// The subscriber is gone.
    #[error("the log level cannot be changed any more")]
    Gone(#[from] reload::Error),
}

/// The running log, whose level can be changed.
#[derive(Debug)]
pub(crate) struct Log(reload::Handle<Targets, Registry>);

impl Log {
    /// Starts to log.
    pub(crate) fn start(level: &LogFilter, format: LogFormat) -> Result<Self, LogError> {
        let (filter, handle) = reload::Layer::new(filter(level)?);
        let lines = fmt::layer()
            .with_writer(io::stderr)
            .with_ansi(io::stderr().is_terminal());
        let lines = match format {
            LogFormat::Json => lines.json().flatten_event(true).boxed(),
            // The journal has its own clock.
            LogFormat::Text if writes_to_journal() => lines.without_time().boxed(),
            LogFormat::Text => lines.boxed(),
        };
        tracing_subscriber::registry()
            .with(filter)
            .with(lines)
            .try_init()?;
        Ok(Self(handle))
    }

    /// Changes what is logged from now on.
    pub(crate) fn change(&self, level: &LogFilter) -> Result<(), LogError> {
        self.0.reload(filter(level)?)?;
        Ok(())
    }
}

fn filter(level: &LogFilter) -> Result<Targets, LogError> {
    level.0.parse().map_err(|source| LogError::Level {
        level: level.0.clone(),
        source,
    })
}

/// systemd names the journal's socket as `device:inode`; standard error may have been redirected since.
fn writes_to_journal() -> bool {
    let Ok(named) = env::var("JOURNAL_STREAM") else {
        return false;
    };
    std::fs::metadata("/proc/self/fd/2")
        .is_ok_and(|found| named == format!("{}:{}", found.dev(), found.ino()))
}
