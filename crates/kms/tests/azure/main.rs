//! The Azure client against servers that answer from a script, and its pure parts against tables.

#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

mod classify;
mod credentials;
mod hostile;
mod recorded;
mod retry;
mod service;
mod transport;
