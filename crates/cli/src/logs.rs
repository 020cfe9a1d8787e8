//! Logs: to stderr, for a person on a terminal, as JSON otherwise. `RUST_LOG` filters them.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// Starts logging at `level` unless `RUST_LOG` says otherwise.
pub(crate) fn start(level: &str) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // A second start in one process (tests) changes nothing.
    let _ = if std::io::stderr().is_terminal() {
        logs.with_target(false)
            .with_ansi(std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty()))
            .try_init()
    } else {
        logs.json().flatten_event(true).with_current_span(false).with_span_list(true).try_init()
    };
}
