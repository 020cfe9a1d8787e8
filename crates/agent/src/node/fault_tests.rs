//! A part of the agent that panics or waits for ever: a revocation is seen and obeyed all the same, and nothing
//! stays half-way.

use std::{sync::atomic::Ordering, time::Duration};

use keyward_model::{Class, NodeState, Verdict};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_util::sync::CancellationToken;

use super::tests::World;
use crate::RunError;

/// The calls of an engine and of a vault in which a task of the agent may end.
#[tokio::test]
async fn a_task_that_panics_is_begun_anew_and_a_revocation_obeyed() {
    for call in ["unwrap", "ping", "stop", "spawn"] {
        let world = World::new();
        let faults = &world.engine.faults;
        if call == "spawn" {
            faults.panic_in(call);
        }
        let agent = world.agent();
        agent.until_state(NodeState::Running).await;
        match call {
            "unwrap" => world.service.faults.panic_in(call),
            "spawn" => {}
            _ => faults.panic_in(call),
        }
        if matches!(call, "unwrap" | "ping") {
            agent
                .until("begun anew", |s| s.warnings.iter().any(|text| text.contains("was begun anew")))
                .await;
        }
        world.service.set(Some(Class::KeyDisabled));
        let status = agent.until_state(NodeState::StoppedRevoked).await;
        assert!(!status.master_key_held && status.engine.is_none(), "{call}: {status:#?}");
        assert!(faults.all_happened() && world.service.faults.all_happened(), "{call}");
        world.service.set(None);
        agent.until_state(NodeState::Running).await;
        agent.end().await;
    }
}

#[tokio::test]
async fn a_start_in_which_a_task_panics_is_made_up_for() {
    let world = World::new();
    world.service.faults.panic_in("unwrap");
    world.engine.faults.panic_in("wait");
    let agent = world.agent();
    // The key is asked for again after a second.
    let status = agent.until_state(NodeState::Running).await;
    assert!(status.master_key_held && world.service.faults.all_happened());
    world.engine.crash();
    agent.until("its end was seen", |_| world.engine.starts.load(Ordering::SeqCst) == 2).await;
    agent.until_state(NodeState::Running).await;
    assert!(world.engine.faults.all_happened());
    agent.end().await;
}

/// A database that was taken over, or hangs, answers one question and not the next.
#[tokio::test]
async fn an_engine_that_does_not_answer_keeps_no_revocation_from_being_seen() {
    let world = World::new();
    let agent = world.agent();
    agent.until_state(NodeState::Running).await;
    world.engine.faults.hangs.store(true, Ordering::SeqCst);
    agent.until("told", |s| s.warnings.iter().any(|text| text.contains("does not answer for"))).await;
    world.service.set(Some(Class::KeyDisabled));
    let revoked = tokio::time::timeout(Duration::from_secs(20), agent.until_state(NodeState::StoppedRevoked));
    assert_eq!(revoked.await.expect("it is obeyed").verdict, Verdict::Revoked);
    agent.end().await;
}

/// `state_dir` is often on the disk that fails: nothing can be written down or read any more. With as few threads as the
/// agent ever has, and more that wants something of that disk than there are threads.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_disk_that_hangs_keeps_no_revocation_from_being_obeyed() {
    let world = World::new();
    let (agent, switch) = world.agent_on_hanging();
    agent.until_state(NodeState::Running).await;
    switch.hang(&world.path("state"));
    let requests: Vec<_> = (0..6)
        .map(|_| {
            let node = agent.node.clone();
            tokio::spawn(async move { node.start().await })
        })
        .collect();
    for _ in 0..6 {
        agent.node.encryptor_connected(true);
        agent.node.encryptor_connected(false);
    }
    world.service.set(Some(Class::KeyDisabled));
    let revoked = tokio::time::timeout(Duration::from_secs(20), agent.until_state(NodeState::StoppedRevoked));
    let status = revoked.await.expect("it is obeyed");
    assert!(status.engine.is_none(), "{status:#?}");
    assert!(requests.iter().all(|request| !request.is_finished()));
    // A step of the keystore may have the keys: they are wiped when it ends.
    switch.answer();
    agent.until("wiped", |s| !s.master_key_held).await;
    for request in requests {
        assert!(request.await.unwrap().is_err(), "it is revoked");
    }
    agent.end().await;
    let remembered = std::fs::read_to_string(world.dir.path().join("state/judgement.json")).unwrap();
    assert!(remembered.contains("\"Revoked\""), "{remembered}");
    assert!(!world.dir.path().join("state/engine.json").exists());
}

/// The disk hangs from the moment on when the engine that starts is to be remembered: its encryptor gets no keys, and the
/// engine is stopped all the same. It starts once the disk answers.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_engine_whose_start_meets_a_disk_that_hangs_is_stopped() {
    let world = World::new();
    world.service.set(Some(Class::TimedOut));
    let (agent, switch) = world.agent_on_hanging();
    agent.until_state(NodeState::WaitingForCustomerKey).await;
    switch.hang(&world.path("state/engine"));
    world.service.set(None);
    let stopped = |s: &keyward_model::NodeStatus| s.state == NodeState::Failed && s.engine.is_none();
    let status = agent.until("stopped", stopped).await;
    assert!(status.reason.contains("did not say hello"), "{status:#?}");
    assert_eq!(world.engine.starts.load(Ordering::SeqCst), 1);
    assert!(switch.waiting() > 0);
    switch.answer();
    agent.until("wiped", |s| !s.master_key_held).await;
    agent.node.start().await.unwrap();
    agent.until_state(NodeState::Running).await;
    world.service.set(Some(Class::KeyDisabled));
    agent.until_state(NodeState::StoppedRevoked).await;
    agent.end().await;
    // In the order in which they were asked for: the engine that ended is the one forgotten.
    assert!(!world.path("state/engine.json").exists());
}

/// An engine that could not be looked for when the agent started runs on, unwatched: it is found before another one
/// would be started beside it.
#[tokio::test]
async fn an_engine_that_was_not_found_at_first_is_found_later() {
    let world = World::new();
    let agent = world.agent();
    agent.until_state(NodeState::Running).await;
    agent.end().await;
    world.engine.faults.not_found.store(1, Ordering::SeqCst);
    let agent = world.agent();
    let status = agent.until_state(NodeState::Running).await;
    assert!(status.engine.is_some() && status.master_key_held, "{status:#?}");
    assert_eq!(world.engine.starts.load(Ordering::SeqCst), 1, "no other one was started");
    world.service.set(Some(Class::KeyDisabled));
    agent.until_state(NodeState::StoppedRevoked).await;
    agent.end().await;
}

/// Nothing decides any more: the agent ends, and says so, for whoever starts it anew.
#[tokio::test]
async fn an_agent_that_can_no_longer_decide_ends() {
    let world = World::new();
    world.engine.faults.panic_in("find");
    let parts = world.parts(world.disk());
    let agent = crate::serve(world.config(), parts, CancellationToken::new());
    let ended = tokio::time::timeout(Duration::from_secs(30), agent).await.expect("it ends");
    let error = ended.unwrap_err();
    assert!(matches!(error, RunError::Died), "{error:?}");
    assert!(error.hint().contains("start the agent again"));
}

/// Every user of the host may connect there.
#[tokio::test]
async fn half_a_request_for_metrics_does_not_keep_the_agent_from_ending() {
    let world = World::new();
    let agent = world.agent();
    let free = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    let shutdown = CancellationToken::new();
    let serving = tokio::spawn(crate::metrics::serve(address, agent.node.clone(), shutdown.clone()));
    let mut half = loop {
        match TcpStream::connect(address).await {
            Ok(stream) => break stream,
            Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    };
    half.write_all(b"GET /metrics HT").await.unwrap();
    // One that is answered was accepted after it.
    let mut whole = TcpStream::connect(address).await.unwrap();
    whole.write_all(b"GET /metrics HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    whole.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("keyward_"), "{answer}");
    shutdown.cancel();
    let ended = tokio::time::timeout(Duration::from_secs(20), serving).await;
    ended.expect("it ends").unwrap().unwrap();
    drop(half);
    agent.end().await;
}
