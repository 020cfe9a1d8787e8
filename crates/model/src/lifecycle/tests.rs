use proptest::prelude::*;

use super::*;

fn node() -> Lifecycle {
    Lifecycle::new(Wanted::Running, None, HELLO_TIMEOUT_MS, "")
}

fn running() -> Lifecycle {
    let mut node = node();
    assert_eq!(node.on(Event::Tick, 0), [Effect::Unlock]);
    assert_eq!(node.on(Event::Unlocked(Ok(())), 10), [Effect::Spawn]);
    assert_eq!(node.on(Event::Spawned(Ok(())), 20), []);
    assert_eq!(node.state(), NodeState::Starting);
    assert_eq!(node.on(Event::HelloSeen, 30), []);
    assert_eq!(node.state(), NodeState::Running);
    node
}

#[test]
fn a_revoked_key_stops_the_engine_before_the_keys_are_wiped() {
    let mut node = running();
    let judged = Event::Judged { revoked: Some(Class::KeyDisabled), answers: false };
    assert_eq!(node.on(judged, 40), [Effect::StopEngine]);
    assert_eq!(
        (node.state(), node.reason()),
        (NodeState::Running, "stopping: the customer key is disabled".into())
    );
    assert_eq!(node.on(Event::EngineEnded { text: String::new() }, 50), [Effect::WipeKeys]);
    assert_eq!(node.state(), NodeState::StoppedRevoked);
    assert_eq!(node.on(Event::Tick, 1_000_000), []);
    assert_eq!(node.on(Event::Judged { revoked: None, answers: true }, 1_000_001), [Effect::Unlock]);
}

#[test]
fn a_key_refused_at_start_is_obeyed_at_once() {
    let mut node = node();
    node.on(Event::Tick, 0);
    assert_eq!(node.on(Event::Unlocked(Err(UnlockFailure::Refused(Class::DeniedByRbac))), 1), []);
    assert_eq!(node.state(), NodeState::StoppedRevoked);
}

fn unavailable(class: Class) -> UnlockFailure {
    UnlockFailure::Unavailable(format!("{}, in whole", class.text()))
}

#[test]
fn an_outage_at_start_is_waited_out() {
    let mut node = node();
    node.on(Event::Tick, 0);
    assert_eq!(node.on(Event::Unlocked(Err(unavailable(Class::TimedOut))), 1), []);
    assert_eq!((node.state(), node.next_tick_ms()), (NodeState::WaitingForCustomerKey, Some(1_001)));
    assert_eq!(node.reason(), format!("{}, in whole (1 attempt so far)", Class::TimedOut.text()));
    assert_eq!(node.on(Event::Tick, 1_000), []);
    assert_eq!(node.on(Event::Tick, 1_001), [Effect::Unlock]);
    assert_eq!(node.state(), NodeState::WaitingForCustomerKey);
    node.on(Event::Unlocked(Err(unavailable(Class::TimedOut))), 1_002);
    assert_eq!(node.next_tick_ms(), Some(3_002));
    assert_eq!(node.on(Event::Judged { revoked: None, answers: true }, 1_500), [Effect::Unlock]);
    assert_eq!(node.on(Event::Unlocked(Ok(())), 1_600), [Effect::Spawn]);
}

#[test]
fn an_adopted_engine_outlives_an_outage_and_a_damaged_keystore() {
    for failure in [
        unavailable(Class::ConnectionFailed),
        UnlockFailure::Refused(Class::KeyDisabled),
        UnlockFailure::Broken("the keystore is damaged".into()),
    ] {
        let mut node = node();
        assert_eq!(node.on(Event::EngineFound { hello_seen: true }, 0), [Effect::Unlock]);
        assert_eq!(node.on(Event::Unlocked(Err(failure)), 1), []);
        assert_eq!(node.state(), NodeState::Running);
        assert_ne!(node.keys(), &Keys::Held);
    }
}

#[test]
fn an_engine_that_crashes_beside_a_broken_keystore_does_not_leave_the_node_starting_for_ever() {
    let broken = || Event::Unlocked(Err(UnlockFailure::Broken("the keystore is damaged".into())));
    for mended in [false, true] {
        let mut node = node();
        node.on(Event::EngineFound { hello_seen: true }, 0);
        node.on(broken(), 1);
        assert_eq!(node.on(Event::EngineEnded { text: "signal 11".into() }, 2), [Effect::Unlock]);
        if mended {
            assert_eq!(node.on(Event::Unlocked(Ok(())), 3), []);
            assert_eq!(node.on(Event::Tick, node.next_tick_ms().unwrap()), [Effect::Spawn]);
        } else {
            node.on(broken(), 3);
            assert_eq!((node.state(), node.reason()), (NodeState::Failed, "the keystore is damaged".into()));
        }
    }
}

#[test]
fn an_engine_without_hello_is_stopped_and_named() {
    let mut node = node();
    node.on(Event::Tick, 0);
    node.on(Event::Unlocked(Ok(())), 0);
    node.on(Event::Spawned(Ok(())), 0);
    assert_eq!(node.on(Event::Tick, HELLO_TIMEOUT_MS), [Effect::StopEngine]);
    assert_eq!(node.on(Event::EngineEnded { text: String::new() }, HELLO_TIMEOUT_MS), [Effect::WipeKeys]);
    assert_eq!(node.state(), NodeState::Failed);
    assert_eq!(node.reason(), "the engine's encryptor did not say hello within 120 s");
    assert_eq!(node.on(Event::StartAsked, HELLO_TIMEOUT_MS), [Effect::Unlock]);
}

#[test]
fn crashes_are_followed_by_a_bounded_number_of_starts() {
    let mut node = running();
    let mut now = 100;
    for crash in 1..MAX_CRASHES {
        assert_eq!(node.on(Event::EngineEnded { text: "signal 11".into() }, now), []);
        let due = node.next_tick_ms().expect("a start follows");
        assert_eq!(due, now + (1_000 << (crash - 1)));
        assert_eq!(node.on(Event::Tick, due), [Effect::Spawn]);
        node.on(Event::Spawned(Ok(())), due);
        node.on(Event::HelloSeen, due);
        now = due + 1;
    }
    assert_eq!(node.on(Event::EngineEnded { text: "signal 11".into() }, now), [Effect::WipeKeys]);
    assert_eq!(node.state(), NodeState::Failed);

    let mut node = running();
    for hour in 1..100 {
        node.on(Event::EngineEnded { text: "signal 11".into() }, hour * 3_600_000);
        let due = node.next_tick_ms().expect("far apart, crashes are no row");
        node.on(Event::Tick, due);
        node.on(Event::Spawned(Ok(())), due);
        node.on(Event::HelloSeen, due);
    }
}

#[test]
fn a_hello_that_is_faster_than_the_process_report_counts() {
    let mut node = node();
    node.on(Event::Tick, 0);
    node.on(Event::Unlocked(Ok(())), 0);
    assert_eq!(node.on(Event::HelloSeen, 1), []);
    assert_eq!(node.state(), NodeState::Starting);
    node.on(Event::Spawned(Ok(())), 2);
    assert_eq!(node.state(), NodeState::Running);
}

#[test]
fn a_start_that_fails_is_repeated_only_where_that_helps() {
    for again in [true, false] {
        let mut node = node();
        node.on(Event::Tick, 0);
        node.on(Event::Unlocked(Ok(())), 0);
        node.on(Event::Spawned(Err(SpawnFailure { text: "no".into(), again })), 0);
        assert_eq!(node.state() == NodeState::Failed, !again);
        assert_eq!(node.on(Event::Tick, 1_000), if again { vec![Effect::Spawn] } else { vec![] });
    }
}

#[test]
fn a_hold_keeps_the_keys_and_a_stop_wipes_them() {
    let mut node = running();
    assert_eq!(node.on(Event::HoldAsked { why: "snapshot".into() }, 40), [Effect::StopEngine]);
    assert_eq!(node.on(Event::EngineEnded { text: String::new() }, 50), []);
    assert_eq!((node.state(), node.reason()), (NodeState::Stopped, "snapshot".into()));
    assert_eq!(node.on(Event::HoldReleased, 60), [Effect::Spawn]);

    let mut node = running();
    assert_eq!(node.on(Event::StopAsked, 40), [Effect::StopEngine]);
    assert_eq!(node.on(Event::EngineEnded { text: String::new() }, 50), [Effect::WipeKeys]);
    assert_eq!(node.state(), NodeState::Stopped);
    assert_eq!(node.on(Event::StartAsked, 60), [Effect::Unlock]);
}

fn any_class() -> impl Strategy<Value = Class> {
    proptest::sample::select(Class::ALL.to_vec())
}

fn any_event() -> impl Strategy<Value = Event> {
    prop_oneof![
        2 => Just(Event::StartAsked),
        1 => Just(Event::StopAsked),
        1 => Just(Event::HoldAsked { why: "h".into() }),
        2 => Just(Event::HoldReleased),
        1 => any::<bool>().prop_map(|hello_seen| Event::EngineFound { hello_seen }),
        4 => Just(Event::Unlocked(Ok(()))),
        1 => any_class().prop_map(|c| Event::Unlocked(Err(UnlockFailure::Refused(c)))),
        1 => any_class().prop_map(|c| Event::Unlocked(Err(unavailable(c)))),
        1 => Just(Event::Unlocked(Err(UnlockFailure::Broken("b".into())))),
        4 => Just(Event::Spawned(Ok(()))),
        1 => any::<bool>().prop_map(|again| Event::Spawned(Err(SpawnFailure { text: "s".into(), again }))),
        4 => Just(Event::HelloSeen),
        3 => Just(Event::EngineEnded { text: "e".into() }),
        1 => any_class().prop_map(|c| Event::Judged { revoked: Some(c), answers: false }),
        2 => any::<bool>().prop_map(|answers| Event::Judged { revoked: None, answers }),
        3 => Just(Event::Tick),
    ]
}

/// The world around the machine, as far as it may be relied on.
#[derive(Default)]
struct World {
    unlocking: bool,
    spawning: bool,
    process: bool,
    keys: bool,
}

impl World {
    /// Whether a shell could report this event now.
    fn can_happen(&self, event: &Event) -> bool {
        match event {
            Event::Unlocked(_) => self.unlocking,
            Event::Spawned(_) => self.spawning,
            Event::HelloSeen => self.process || self.spawning,
            Event::EngineEnded { .. } => self.process,
            Event::EngineFound { .. } => false,
            Event::StartAsked
            | Event::StopAsked
            | Event::HoldAsked { .. }
            | Event::HoldReleased
            | Event::Judged { .. }
            | Event::Tick => true,
        }
    }

    fn before(&mut self, event: &Event) {
        match event {
            Event::Unlocked(outcome) => (self.unlocking, self.keys) = (false, outcome.is_ok()),
            Event::Spawned(outcome) => (self.spawning, self.process) = (false, outcome.is_ok()),
            Event::EngineEnded { .. } => self.process = false,
            Event::EngineFound { .. } => self.process = true,
            Event::HelloSeen
            | Event::StartAsked
            | Event::StopAsked
            | Event::HoldAsked { .. }
            | Event::HoldReleased
            | Event::Judged { .. }
            | Event::Tick => {}
        }
    }

    fn obey(&mut self, effect: Effect, node: &Lifecycle) {
        match effect {
            Effect::Unlock => {
                assert!(!self.unlocking && !self.keys, "one unlock at a time, and only when needed");
                self.unlocking = true;
            }
            Effect::Spawn => {
                assert!(!self.process && !self.spawning, "one process at a time");
                assert!(self.keys, "no engine without keys");
                assert!(node.may_run(), "no engine against the verdict or the operator");
                self.spawning = true;
            }
            Effect::StopEngine => {
                assert!(self.process);
                assert!(!node.may_run(), "nothing but a revocation, a failure or the operator stops it");
            }
            Effect::WipeKeys => {
                assert!(!self.process && !self.spawning, "keys go after the engine");
                self.keys = false;
            }
        }
    }
}

proptest! {
    #[test]
    fn no_order_of_events_breaks_the_rules(
        adopted in any::<Option<bool>>(),
        events in proptest::collection::vec((any_event(), 0u64..200_000), 0..120),
    ) {
        let mut node = node();
        let mut world = World::default();
        let mut now = 0;
        let first = adopted.map_or(Event::Tick, |hello_seen| Event::EngineFound { hello_seen });
        for (event, later) in std::iter::once((first, 0)).chain(events) {
            if !world.can_happen(&event) && now > 0 {
                continue;
            }
            now += later + 1;
            let outage = matches!(
                event,
                Event::Judged { revoked: None, .. } | Event::Unlocked(Err(UnlockFailure::Unavailable(_)))
            );
            let was_up = matches!(node.engine(), EnginePhase::Up { .. });
            let might_run = node.may_run();
            world.before(&event);
            let effects = node.on(event, now);
            prop_assert!(effects.len() <= 3);
            if outage && was_up && might_run {
                prop_assert!(!effects.contains(&Effect::StopEngine), "an outage stops nothing");
            }
            for effect in effects {
                world.obey(effect, &node);
            }
            // Settled: what is revoked has no key left once the process is gone.
            if node.revoked.is_some() && !world.process && !world.spawning {
                prop_assert!(!world.keys, "keys are wiped after a revocation");
            }
            prop_assert_eq!(node.on(Event::Tick, now), [], "a tick without time changes nothing");
            prop_assert!(!node.reason().is_empty() || node.wanted() == Wanted::Stopped);
        }
        // Liveness: with the key back, the operator willing and every effect succeeding, the node runs.
        let mut queue = vec![
            Event::HoldReleased,
            Event::Judged { revoked: None, answers: true },
            Event::StartAsked,
        ];
        if matches!(node.engine(), EnginePhase::Stopping) {
            queue.push(Event::EngineEnded { text: String::new() });
        }
        if world.unlocking { queue.push(Event::Unlocked(Ok(()))); }
        if world.spawning { queue.push(Event::Spawned(Ok(()))); queue.push(Event::HelloSeen); }
        if matches!(node.engine(), EnginePhase::AwaitingHello { .. }) { queue.push(Event::HelloSeen); }
        let mut rounds = 0;
        while !matches!((node.state(), node.keys()), (NodeState::Running, Keys::Held)) || !queue.is_empty() {
            rounds += 1;
            prop_assert!(rounds < 100, "stuck: {node:?}");
            let event = if queue.is_empty() {
                now = node.next_tick_ms().unwrap_or(now).max(now);
                Event::Tick
            } else {
                queue.remove(0)
            };
            for effect in node.on(event, now) {
                match effect {
                    Effect::Unlock => queue.push(Event::Unlocked(Ok(()))),
                    Effect::Spawn => {
                        queue.push(Event::Spawned(Ok(())));
                        queue.push(Event::HelloSeen);
                    }
                    Effect::StopEngine => queue.push(Event::EngineEnded { text: String::new() }),
                    Effect::WipeKeys => {}
                }
            }
        }
    }
}
