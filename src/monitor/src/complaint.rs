//! What a monitor has to complain about, on its standard error: a file of the pod's directory.
//!
//! That file lies on the tmpfs that any container may have filled. `eprintln!` would panic then, and a panic of the monitor is
//! the end of its pod; a complaint that cannot be written is none.

use std::{
    fmt,
    io::{self, Write as _},
};

/// Writes one line, if it can be written.
pub(crate) fn complain(words: fmt::Arguments<'_>) {
    let _ = writeln!(io::stderr(), "{words}");
}
