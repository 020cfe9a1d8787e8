//! Whether this host and this engine will do, said before anything is touched.
//!
//! Owns the checks; it must never change anything, and works without an agent.

use crate::{
    config::Config,
    engine::{exposure, swap},
};

/// Something an operator should know before a start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Whether it forbids the start.
    pub refuse: bool,
    /// What it is.
    pub text: String,
    /// What to do.
    pub hint: String,
}

/// What an agent checks before each start of its engine.
pub fn at_start(config: &Config) -> Vec<Finding> {
    let engine = &config.engine;
    let mut findings = match exposure::Media::read(&config.data_path, &engine.log_file) {
        Ok(media) => exposure::plan(engine, &media).findings,
        Err(error) => {
            let text = format!("what the engine writes outside WiredTiger cannot be judged: {error}");
            vec![Finding { refuse: true, text, hint: error.hint() }]
        }
    };
    findings.extend(swap::Swap::read(swap::engine_gets_scope()).judge(engine.accept_plaintext_in_swap));
    findings
}
