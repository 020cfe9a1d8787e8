//! An agent and a server in one process, over real TLS.

#[path = "../support/mod.rs"]
mod support;

mod adopting;
mod applying;
mod authority;
mod joining;
mod keys;
mod leaving;
mod maintenance;
mod private;
mod resync;
mod server;
mod site;
mod tenants;
mod validating;

#[global_allocator]
static ALLOC: zeroizing_alloc::ZeroAlloc<std::alloc::System> = zeroizing_alloc::ZeroAlloc(std::alloc::System);

/// Not a test: what the others start as an agent process.
#[test]
#[ignore = "an agent process for the other tests"]
fn agent_process() {
    support::agent_main();
}
