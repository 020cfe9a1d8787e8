//! Random states and events: what must hold in every plan, and that every plan ends.

use keyward_model::{
    NodeState, Verdict,
    cluster::{ClusterState, KeyProvider},
    plan::MemberState,
};
use proptest::prelude::*;

use crate::fleet::{DAY, Fleet, key};

#[derive(Debug, Clone)]
enum Happening {
    Plan,
    CarryOut(usize),
    Silence { minutes: i64 },
    State(usize, NodeState),
    Verdict(usize, Verdict),
    Forget(usize),
    Approval(usize, bool),
    Election(usize),
    Key(u8),
    Provider(bool),
    Pause(bool),
    Window { days: i64 },
    Defer,
    Clock { days: i64 },
    Size(usize),
}

fn happening() -> impl Strategy<Value = Happening> {
    let node = 1usize..=5;
    let state = prop_oneof![
        Just(NodeState::Starting),
        Just(NodeState::Running),
        Just(NodeState::WaitingForCustomerKey),
        Just(NodeState::StoppedRevoked),
        Just(NodeState::Failed),
    ];
    let verdict = prop_oneof![Just(Verdict::Valid), Just(Verdict::Unavailable), Just(Verdict::Revoked)];
    prop_oneof![
        6 => Just(Happening::Plan),
        6 => node.clone().prop_map(Happening::CarryOut),
        1 => (1i64..20).prop_map(|minutes| Happening::Silence { minutes }),
        1 => (node.clone(), state).prop_map(|(n, state)| Happening::State(n, state)),
        1 => (node.clone(), verdict).prop_map(|(n, verdict)| Happening::Verdict(n, verdict)),
        1 => node.clone().prop_map(Happening::Forget),
        1 => (node.clone(), any::<bool>()).prop_map(|(n, yes)| Happening::Approval(n, yes)),
        1 => node.prop_map(Happening::Election),
        1 => (1u8..4).prop_map(Happening::Key),
        1 => any::<bool>().prop_map(Happening::Provider),
        1 => any::<bool>().prop_map(Happening::Pause),
        1 => (0i64..7).prop_map(|days| Happening::Window { days }),
        1 => Just(Happening::Defer),
        1 => (-100i64..120).prop_map(|days| Happening::Clock { days }),
        1 => prop_oneof![Just(3usize), Just(5)].prop_map(Happening::Size),
    ]
}

fn apply(fleet: &mut Fleet, happening: Happening) {
    match happening {
        Happening::Plan => {
            let plan = fleet.plan();
            two_nodes_never(fleet, &plan);
            fleet.execute(&plan);
        }
        Happening::CarryOut(n) => {
            fleet.carry_out(n);
            fleet.elect();
        }
        Happening::Silence { minutes } => fleet.now += minutes * 60_000,
        Happening::State(n, state) => {
            let seen = fleet.seen(n);
            seen.state = state;
            if state != NodeState::Running {
                (seen.member, seen.master_key_held) = (None, false);
            }
        }
        Happening::Verdict(n, verdict) => fleet.seen(n).verdict = verdict,
        Happening::Forget(n) => fleet.seen(n).master_key_held = false,
        Happening::Approval(n, yes) => fleet.seen(n).needs_approval = yes,
        Happening::Election(n) => {
            if fleet.seen(n).member == Some(MemberState::Secondary) {
                for other in 1..=5 {
                    if fleet.seen(other).member == Some(MemberState::Primary) {
                        fleet.seen(other).member = Some(MemberState::Secondary);
                    }
                }
                fleet.seen(n).member = Some(MemberState::Primary);
            }
        }
        Happening::Key(n) => fleet.project().key = Some(key(n)),
        Happening::Provider(on) => {
            let cluster = fleet.cluster();
            let was = cluster.provider;
            cluster.provider = if on { KeyProvider::Azure } else { KeyProvider::None };
            cluster.switch_off = !on && (cluster.switch_off || was == KeyProvider::Azure);
        }
        Happening::Pause(paused) => fleet.cluster().paused = paused,
        Happening::Window { days } => fleet.window(days),
        Happening::Defer => {
            if let Ok(deferred) = fleet.project().maintenance.deferred() {
                fleet.project().maintenance = deferred;
            }
        }
        Happening::Clock { days } => fleet.now = (fleet.now + days * DAY).max(DAY),
        Happening::Size(nodes) => fleet.cluster().node_count = nodes,
    }
}

/// Among members that serve, at most one is newly taken, and then nobody else is on the way.
fn two_nodes_never(fleet: &Fleet, plan: &keyward_model::plan::Plan) {
    let key = fleet.state.projects[0].key.as_ref();
    let taken: Vec<_> = fleet
        .state
        .nodes
        .iter()
        .zip(&plan.nodes)
        .filter(|(node, planned)| {
            let serving = node.seen.as_ref().is_some_and(|seen| seen.state == NodeState::Running);
            let asks = planned.asks(&node.asked, key);
            let changed =
                asks.key != node.asked.key || asks.rotate != node.asked.rotate || asks.off != node.asked.off;
            let work = planned.work.is_some_and(|work| work.rolling());
            let going_on = node.seen.as_ref().map_or(0, |seen| seen.done_revision) < node.asked.revision;
            serving && work && changed && !going_on
        })
        .collect();
    assert!(taken.len() <= 1, "{} nodes taken at once:\n{}", taken.len(), fleet.render(plan));
}

proptest! {
    /// Whatever happens, no plan contradicts itself (`Fleet::plan` checks each one); once everybody is well again
    /// and does as told, the plan ends with a cluster that is ready, and then nothing moves any more.
    #[test]
    fn every_plan_is_sound_and_ends(
        encrypted in any::<bool>(),
        happenings in prop::collection::vec(happening(), 0..80),
    ) {
        let provider = if encrypted { KeyProvider::Azure } else { KeyProvider::None };
        let mut fleet = Fleet::new(3, 5, provider);
        for happening in happenings {
            apply(&mut fleet, happening);
        }
        for n in 1..=5 {
            let seen = fleet.seen(n);
            (seen.verdict, seen.needs_approval) = (Verdict::Valid, false);
            if seen.state == NodeState::Failed {
                seen.state = NodeState::Starting;
            }
        }
        fleet.cluster().paused = false;
        fleet.project().maintenance = keyward_model::maintenance::Maintenance::new(crate::fleet::PROJECT);
        for n in 1..=5 {
            fleet.carry_out(n);
        }
        fleet.settle(80);
        let done = fleet.rotations_done;
        prop_assert_eq!(fleet.plan().clusters[0].state, ClusterState::Idle, "{}", fleet.render(&fleet.plan()));
        for _ in 0..5 {
            fleet.round();
        }
        prop_assert_eq!(fleet.rotations_done, done, "rotated again without need");
    }
}
