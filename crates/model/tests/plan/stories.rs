//! Successive plans of one cluster, as text.

use keyward_model::{
    NodeState, Timestamp, Verdict,
    cluster::{ClusterState, KeyProvider},
    plan::{MemberState, Violation, WaitingOn, Work, check},
};

use crate::fleet::{DAY, Fleet, key, node_id};

#[test]
fn a_cluster_is_made_of_free_nodes() {
    insta::assert_snapshot!(Fleet::new(3, 3, KeyProvider::Azure).story(4));
}

#[test]
fn a_cluster_waits_for_the_node_that_is_missing() {
    insta::assert_snapshot!(Fleet::new(3, 2, KeyProvider::Azure).story(3));
}

#[test]
fn a_new_customer_key_goes_round_the_nodes() {
    let mut fleet = Fleet::running(KeyProvider::Azure);
    fleet.project().key = Some(key(2));
    insta::assert_snapshot!(fleet.story(5));
}

/// Announced in time, deferred twice past day 90, started in its window, finished after it.
#[test]
fn a_rotation_starts_in_the_window_and_goes_on_after_it() {
    let mut fleet = Fleet::running(KeyProvider::Azure);
    fleet.window(0);
    let mut text = String::new();
    let mut day = |fleet: &mut Fleet, n: i64, what: &str, rounds: usize| {
        fleet.now = 400 * DAY + n * DAY;
        fleet.carry_out_all();
        text += &format!("day {n}, {what}\n{}", fleet.story(rounds));
    };
    day(&mut fleet, 80, "not announced", 1);
    day(&mut fleet, 82, "announced", 1);
    for _ in 0..2 {
        fleet.project().maintenance = fleet.project().maintenance.deferred().unwrap();
    }
    day(&mut fleet, 89, "deferred twice", 1);
    day(&mut fleet, 98, "the window opens", 2);
    fleet.now += DAY / 8;
    day(&mut fleet, 99, "the window is closed", 4);
    insta::assert_snapshot!(text);
    assert_eq!(fleet.rotations_done, 3);
    assert_eq!(fleet.project().maintenance.scheduled, None);
}

#[test]
fn an_unencrypted_replica_set_is_filled_again_member_by_member() {
    let mut fleet = Fleet::running(KeyProvider::None);
    assert!(fleet.seen(3).key.is_none());
    fleet.cluster().provider = KeyProvider::Azure;
    insta::assert_snapshot!(fleet.story(10));
}

/// A primary of a cluster that is to be encrypted is asked to hand over until it has, and waits for its host first.
#[test]
fn a_primary_that_waits_for_its_host_stays_asked_to_hand_over() {
    let mut fleet = Fleet::running(KeyProvider::None);
    fleet.cluster().provider = KeyProvider::Azure;
    fleet.seen(3).needs_approval = true;
    let mut text = fleet.story(7);
    fleet.seen(3).needs_approval = false;
    text += &fleet.story(4);
    insta::assert_snapshot!(text);
    assert_eq!(fleet.plan().clusters[0].state, ClusterState::Idle);
}

/// Elected while it waited for its host's approval: nobody empties a primary.
#[test]
fn a_member_that_became_primary_before_it_was_emptied_is_let_be() {
    let mut fleet = Fleet::running(KeyProvider::None);
    fleet.cluster().provider = KeyProvider::Azure;
    fleet.seen(1).needs_approval = true;
    fleet.round();
    assert!(fleet.state.nodes[0].asked.resync);
    fleet.seen(1).member = Some(MemberState::Primary);
    fleet.seen(3).member = Some(MemberState::Secondary);
    let plan = fleet.plan();
    assert!(plan.nodes.iter().all(|node| !node.resync), "{}", fleet.render(&plan));
    fleet.seen(1).needs_approval = false;
    fleet.settle(20);
    assert!(fleet.state.nodes.iter().all(|node| node.seen.as_ref().unwrap().key == Some(key(1))));
}

#[test]
fn a_member_without_a_set_is_never_emptied() {
    let mut fleet = Fleet::new(1, 1, KeyProvider::None);
    fleet.settle(20);
    fleet.cluster().provider = KeyProvider::Azure;
    let plan = fleet.plan();
    let on = WaitingOn::Majority { left: 0, needed: 1 };
    assert_eq!((plan.nodes[0].resync, &plan.nodes[0].waiting[0].on), (false, &on));
    fleet.seen(1).member = None;
    let plan = fleet.plan();
    let on = WaitingOn::NoReplicaSet { node: node_id(1) };
    assert_eq!((plan.nodes[0].resync, &plan.nodes[0].waiting[0].on), (false, &on));
}

#[test]
fn an_unencrypted_node_that_does_not_run_is_started_by_its_operator_first() {
    let mut fleet = Fleet::running(KeyProvider::None);
    fleet.cluster().provider = KeyProvider::Azure;
    let seen = fleet.seen(1);
    (seen.state, seen.member) = (NodeState::Stopped, None);
    let plan = fleet.plan();
    assert!(plan.nodes.iter().all(|node| node.work.is_none()), "{}", fleet.render(&plan));
    let on = WaitingOn::NodeUnhealthy { node: node_id(1), state: Some(NodeState::Stopped) };
    assert_eq!(plan.nodes[0].waiting[0].on, on);
    assert_eq!(
        plan.nodes[0].waiting[0].text(Some(node_id(1))),
        "filling the member again, encrypted: this node is stopped"
    );
    assert!(plan.nodes[1].waiting[0].text(Some(node_id(2))).contains("to be well again"));
}

#[test]
fn encryption_is_switched_off_only_with_approval() {
    let mut fleet = Fleet::running(KeyProvider::Azure);
    fleet.cluster().provider = KeyProvider::None;
    fleet.cluster().switch_off = true;
    fleet.seen(1).needs_approval = true;
    fleet.seen(2).needs_approval = true;
    let mut text = fleet.story(2);
    fleet.seen(1).needs_approval = false;
    text += &fleet.story(2);
    fleet.seen(2).needs_approval = false;
    text += &fleet.story(2);
    insta::assert_snapshot!(text);
    // And on again: the nodes still have their key, so nothing is to be done but to name it.
    fleet.cluster().provider = KeyProvider::Azure;
    fleet.cluster().switch_off = false;
    fleet.settle(3);
    assert_eq!(fleet.plan().clusters[0].state, ClusterState::Idle);
}

#[test]
fn a_cluster_is_gone_when_every_node_has_reported_its_release() {
    let mut fleet = Fleet::running(KeyProvider::Azure);
    fleet.cluster().deleting = true;
    insta::assert_snapshot!(fleet.story(3));
    assert!(fleet.state.nodes.iter().all(|node| node.cluster.is_none()));
    assert!(fleet.state.nodes.iter().all(|node| node.seen.as_ref().unwrap().key == Some(key(1))));
}

#[test]
fn a_silent_node_stops_the_rollout_and_is_named() {
    let mut fleet = Fleet::running(KeyProvider::Azure);
    fleet.project().key = Some(key(2));
    fleet.now += 10 * 60_000;
    fleet.carry_out(1);
    fleet.carry_out(3);
    let plan = fleet.plan();
    insta::assert_snapshot!(fleet.render(&plan));
    assert!(plan.nodes.iter().all(|node| node.work.is_none()));
}

#[test]
fn nodes_that_are_down_for_their_key_get_the_new_one_at_once() {
    let mut fleet = Fleet::running(KeyProvider::Azure);
    for n in 1..=3 {
        fleet.seen(n).state = NodeState::StoppedRevoked;
        fleet.seen(n).verdict = Verdict::Revoked;
    }
    fleet.project().key = Some(key(2));
    let plan = fleet.plan();
    assert!(plan.nodes.iter().all(|node| node.work == Some(Work::MoveKey)), "{}", fleet.render(&plan));
}

/// A new key out of an outage begins with the nodes that can still wrap.
#[test]
fn a_node_without_its_master_key_comes_last() {
    let mut fleet = Fleet::running(KeyProvider::Azure);
    for n in 1..=3 {
        fleet.seen(n).verdict = Verdict::Unavailable;
    }
    fleet.seen(1).master_key_held = false;
    fleet.project().key = Some(key(2));
    let plan = fleet.plan();
    assert_eq!(plan.nodes[0].work, None);
    assert_eq!(plan.nodes[1].work, Some(Work::MoveKey), "{}", fleet.render(&plan));
}

#[test]
fn a_rotation_waits_for_the_customer_key() {
    let mut fleet = Fleet::running(KeyProvider::Azure);
    fleet.now += 90 * DAY;
    for n in 1..=3 {
        fleet.carry_out(n);
        fleet.seen(n).verdict = Verdict::Unavailable;
    }
    fleet.round();
    let plan = fleet.plan();
    let verdict = |n: usize| WaitingOn::Verdict { node: node_id(n), verdict: Verdict::Unavailable };
    assert_eq!(plan.nodes[0].waiting[0].on, verdict(1), "{}", fleet.render(&plan));
    assert_eq!(fleet.rotations_done, 0);
}

#[test]
fn a_clock_that_jumps_forward_rotates_once() {
    let mut fleet = Fleet::running(KeyProvider::Azure);
    let nodes_now = fleet.now;
    fleet.now += 200 * DAY;
    for _ in 0..20 {
        fleet.round();
        // The nodes' clocks have not jumped: their keys seem old to the server from the start.
        for n in 1..=3 {
            if let Some((_, created)) = &mut fleet.seen(n).master_key {
                *created = Timestamp::from_epoch_ms(nodes_now);
            }
        }
    }
    assert_eq!(fleet.rotations_done, 3);
    // And back: the rotation of the future no longer counts, the keys' own age does.
    fleet.now = nodes_now + DAY;
    for _ in 0..20 {
        fleet.round();
    }
    assert_eq!(fleet.rotations_done, 3);
    fleet.now = nodes_now + 91 * DAY;
    fleet.carry_out_all();
    fleet.settle(20);
    assert_eq!(fleet.rotations_done, 6);
}

/// A server that was away plans as if it had been there: the age of the key decides.
#[test]
fn a_restart_does_not_postpone_a_rotation() {
    let mut fleet = Fleet::running(KeyProvider::Azure);
    fleet.now += 89 * DAY;
    fleet.carry_out_all();
    assert!(fleet.plan().clusters[0].rotate.is_empty());
    fleet.now += 3 * DAY;
    fleet.carry_out_all();
    assert_eq!(fleet.plan().clusters[0].rotate.len(), 3);
}

/// With a weekly window a key is rotated in the last one before day 90.
#[test]
fn a_window_is_used_before_day_90_when_the_next_would_be_late() {
    let rotated_on = |window_in: i64| {
        let mut fleet = Fleet::running(KeyProvider::Azure);
        fleet.window(window_in);
        (1..120).find(|day| {
            fleet.now = (400 + day) * DAY;
            fleet.carry_out_all();
            fleet.round();
            fleet.settle(20);
            fleet.rotations_done == 3
        })
    };
    assert_eq!(rotated_on(0), Some(84));
    assert_eq!(rotated_on(5), Some(89));
}

#[test]
fn a_paused_cluster_stops_all_its_nodes_and_rotates_nothing() {
    let mut fleet = Fleet::running(KeyProvider::Azure);
    fleet.cluster().paused = true;
    assert_eq!(fleet.plan().clusters[0].state, ClusterState::Updating);
    fleet.settle(5);
    assert_eq!(fleet.plan().clusters[0].state, ClusterState::Idle);
    fleet.now += 91 * DAY;
    fleet.carry_out_all();
    let plan = fleet.plan();
    assert_eq!(plan.clusters[0].waiting[0].on, WaitingOn::Paused);
    assert!(plan.clusters[0].rotate.is_empty());
    fleet.cluster().paused = false;
    fleet.settle(20);
    assert_eq!(fleet.rotations_done, 3);
}

#[test]
fn a_cluster_with_a_dead_node_is_repairing_and_heals() {
    let mut fleet = Fleet::running(KeyProvider::Azure);
    fleet.seen(2).state = NodeState::Failed;
    assert_eq!(fleet.plan().clusters[0].state, ClusterState::Repairing);
    fleet.seen(2).state = NodeState::Running;
    assert_eq!(fleet.plan().clusters[0].state, ClusterState::Idle);
}

#[test]
fn a_smaller_cluster_lets_a_secondary_go() {
    let mut fleet = Fleet::new(5, 5, KeyProvider::Azure);
    fleet.settle(20);
    assert_eq!(fleet.seen(5).member, Some(MemberState::Primary));
    fleet.cluster().node_count = 3;
    fleet.settle(20);
    let free: Vec<bool> = fleet.state.nodes.iter().map(|node| node.cluster.is_none()).collect();
    assert_eq!(free, [false, false, true, true, false]);
    assert_eq!(fleet.plan().clusters[0].state, ClusterState::Idle);
}

#[test]
fn a_larger_cluster_takes_one_node_at_a_time() {
    let mut fleet = Fleet::running(KeyProvider::Azure);
    let more = Fleet::new(3, 5, KeyProvider::Azure).state.nodes.split_off(3);
    fleet.state.nodes.extend(more);
    fleet.cluster().node_count = 5;
    assert_eq!(fleet.plan().clusters[0].place, [node_id(4)]);
    fleet.settle(20);
    assert!(fleet.state.nodes.iter().all(|node| node.cluster.is_some()));
}

/// Each rule of `check` finds what it is there for.
#[test]
fn contradictions_are_found() {
    let mut fleet = Fleet::running(KeyProvider::Azure);
    fleet.project().key = Some(key(2));
    let good = fleet.plan();
    let with = |change: &dyn Fn(&mut keyward_model::plan::Plan)| {
        let mut plan = good.clone();
        change(&mut plan);
        check(&plan, &fleet.state)
    };
    let use_key = |plan: &mut keyward_model::plan::Plan| {
        for node in &mut plan.nodes {
            node.key = keyward_model::plan::KeyWant::Use;
        }
    };
    assert!(with(&use_key).contains(&Violation::TwoNodes(node_id(1), node_id(2))));
    let twice = |plan: &mut keyward_model::plan::Plan| plan.nodes.push(plan.nodes[0].clone());
    assert!(with(&twice).contains(&Violation::NodeCount(node_id(1), 2)));
    let lost = |plan: &mut keyward_model::plan::Plan| drop(plan.nodes.pop());
    assert!(with(&lost).contains(&Violation::NodeCount(node_id(3), 0)));
    let off = |plan: &mut keyward_model::plan::Plan| plan.nodes[0].key = keyward_model::plan::KeyWant::Off;
    assert!(with(&off).contains(&Violation::Off(node_id(1))));
    let rotate = |plan: &mut keyward_model::plan::Plan| plan.nodes[0].rotate = Some("m1".into());
    assert!(with(&rotate).contains(&Violation::Rotation(node_id(1))));
    let release = |plan: &mut keyward_model::plan::Plan| plan.nodes[2].cluster = None;
    let released = with(&release);
    assert!(released.contains(&Violation::Release(node_id(3))));
    assert!(released.contains(&Violation::Primary(node_id(3))));
    let idle = |plan: &mut keyward_model::plan::Plan| plan.clusters[0].state = ClusterState::Idle;
    assert!(with(&idle).contains(&Violation::Idle(crate::fleet::CLUSTER, node_id(1))));
    let place = |plan: &mut keyward_model::plan::Plan| plan.clusters[0].place.push(node_id(1));
    assert!(with(&place).contains(&Violation::Placement(node_id(1), crate::fleet::CLUSTER)));
    let silent = |plan: &mut keyward_model::plan::Plan| {
        for node in &mut plan.nodes {
            (node.key, node.work) = (keyward_model::plan::KeyWant::Leave, None);
            node.waiting.clear();
        }
    };
    assert!(with(&silent).contains(&Violation::Silent(crate::fleet::CLUSTER)));
}

/// The rules about emptying members.
#[test]
fn contradictions_about_emptying_are_found() {
    use keyward_model::plan::{KeyWant, Plan};
    let mut fleet = Fleet::running(KeyProvider::None);
    fleet.cluster().provider = KeyProvider::Azure;
    let good = fleet.plan();
    let with = |fleet: &Fleet, change: &dyn Fn(&mut Plan)| {
        let mut plan = good.clone();
        change(&mut plan);
        check(&plan, &fleet.state)
    };
    let empty = |n: usize| {
        move |plan: &mut Plan| {
            let node = &mut plan.nodes[n - 1];
            (node.resync, node.key) = (true, KeyWant::Use);
        }
    };
    assert_eq!(with(&fleet, &|_| {}), []);
    let two = with(&fleet, &empty(2));
    assert!(two.contains(&Violation::TwoResyncs(node_id(1), node_id(2))), "{two:?}");
    assert!(two.contains(&Violation::TwoNodes(node_id(1), node_id(2))), "{two:?}");
    assert!(with(&fleet, &empty(3)).contains(&Violation::Primary(node_id(3))));
    let keyless = with(&fleet, &|plan| plan.nodes[0].key = KeyWant::Leave);
    assert!(keyless.contains(&Violation::Resync(node_id(1))));
    // Asked for earlier, and primary by now: still nobody empties a primary.
    let mut elected = fleet.state.clone();
    elected.nodes[0].asked.resync = true;
    elected.nodes[0].seen.as_mut().unwrap().member = Some(MemberState::Primary);
    assert!(check(&good, &elected).contains(&Violation::Primary(node_id(1))));

    // Encrypted, stopped, or of a cluster that does not want it.
    let mut other = Fleet::running(KeyProvider::None);
    other.cluster().provider = KeyProvider::Azure;
    other.seen(1).unencrypted = false;
    assert!(with(&other, &|_| {}).contains(&Violation::Resync(node_id(1))));
    other.seen(1).unencrypted = true;
    other.seen(1).state = NodeState::Stopped;
    assert!(with(&other, &|_| {}).contains(&Violation::Resync(node_id(1))));
    other.seen(1).state = NodeState::Running;
    other.cluster().provider = KeyProvider::None;
    assert!(with(&other, &|_| {}).contains(&Violation::Resync(node_id(1))));
    other.cluster().provider = KeyProvider::Azure;
    other.seen(2).state = NodeState::Failed;
    assert!(with(&other, &|_| {}).contains(&Violation::Unwell(node_id(1), node_id(2))));

    // A set of one, or of two, has no majority without the member.
    let mut small = Fleet::new(1, 1, KeyProvider::None);
    small.settle(20);
    small.cluster().provider = KeyProvider::Azure;
    let mut plan = small.plan();
    empty(1)(&mut plan);
    assert!(check(&plan, &small.state).contains(&Violation::NoMajority(node_id(1))));
}
