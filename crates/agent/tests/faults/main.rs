//! What goes wrong around a node, on a real database process under a real vault: each line of the list ends as it
//! is meant to, with words that say what to do.

mod customer_key;
mod keystore;
mod peers;
mod stopping;
#[path = "../support/mod.rs"]
mod support;
mod systemd;
mod warnings;
mod wire_double;
mod write_lock;

/// Not a test: what the others start as an agent process.
#[test]
#[ignore = "an agent process for the other tests"]
fn agent_process() {
    support::agent_main();
}
