//! Each fault, what is said of it, and how long it takes.
