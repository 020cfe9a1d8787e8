//! A plan over 1,000, 10,000 and 100,000 nodes, and its check.
//!
//! `cargo bench -p keyward-model --bench plan`. The `ratio` and `value` lines are read by `cargo xtask bench --check`.
#![allow(clippy::print_stdout, clippy::unwrap_used, missing_docs)]

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use criterion::Criterion;
use keyward_model::{
    KeyIdentifier, NodeState, Timestamp, Verdict,
    cluster::KeyProvider,
    id::{ClusterId, NodeId, ProjectId},
    maintenance::{Maintenance, Window},
    plan::{Asked, Cluster, MemberState, Node, Project, Seen, State, check, plan},
    sync::DesiredRun,
};

const DAY_MS: i64 = 86_400_000;
const NOW_MS: i64 = 20_000 * DAY_MS;
/// Nodes of a cluster, and clusters of a project.
const MEMBERS: usize = 3;
const CLUSTERS: usize = 10;

fn main() {
    let mut criterion = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(3))
        .configure_from_args();
    let now = Timestamp::from_epoch_ms(NOW_MS);
    let small = fleet(1_000);
    let large = fleet(100_000);
    criterion.bench_function("plan/1000", |b| b.iter(|| plan(now, black_box(&small))));
    criterion.bench_function("plan/100000", |b| b.iter(|| plan(now, black_box(&large))));
    let planned = plan(now, &large);
    criterion.bench_function("check/100000", |b| b.iter(|| check(black_box(&planned), &large)));
    criterion.final_summary();
    assert_eq!(check(&planned, &large), []);
    let at_work = planned.nodes.iter().filter(|node| node.work.is_some()).count();
    assert!(at_work > 1_000, "the fleet is meant to have work: {at_work}");

    let (one, all) = (seconds(|| plan(now, &small)), seconds(|| plan(now, &large)));
    let checked = seconds(|| check(&planned, &large));
    println!("value plan/100000 {:.1} ms", all * 1e3);
    println!("value plan/1000 {:.3} ms", one * 1e3);
    println!("value plan/check-100000 {:.1} ms", checked * 1e3);
    // A second over the time that 100,000 nodes take: at least 1 is the aim.
    println!("ratio plan/second-per-100000-nodes {:.2} at-least 1", 1.0 / all);
    // 1 where a hundred times the nodes take a hundred times as long; caches and allocation cost some.
    println!("ratio plan/growth-1000-to-100000 {:.2} at-least 0.2", 100.0 * one / all);
}

/// The median of some runs.
fn seconds<R>(mut work: impl FnMut() -> R) -> f64 {
    let mut times: Vec<f64> = (0..9)
        .map(|_| {
            let start = Instant::now();
            black_box(work());
            start.elapsed().as_secs_f64()
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// Clusters of three, a third of them with a new customer key to move to, a third with master keys that are due.
fn fleet(nodes: usize) -> State {
    let clusters = nodes / MEMBERS;
    let key = |n: usize| KeyIdentifier::new("https://v.vault.azure.net", "k", &format!("{n:032x}")).unwrap();
    let project_id = |n: usize| ProjectId::from_bytes(bytes(n / CLUSTERS, 1));
    let projects = (0..clusters.div_ceil(CLUSTERS)).map(|n| {
        let id = project_id(n * CLUSTERS);
        let window = (n % 2 == 0).then_some(Window { day_of_week: 1, hour_of_day: 3 });
        Project { id, key: Some(key(n)), maintenance: Maintenance { window, ..Maintenance::new(id) } }
    });
    let cluster = |n: usize| Cluster {
        id: ClusterId::from_bytes(bytes(n, 2)),
        project: project_id(n),
        provider: KeyProvider::Azure,
        switch_off: false,
        node_count: MEMBERS,
        paused: false,
        deleting: false,
        ready: true,
        rotations: Vec::new(),
    };
    let node = |n: usize| {
        let at = n / MEMBERS;
        let moves = at.is_multiple_of(3);
        let held = key(if moves { usize::MAX } else { at / CLUSTERS });
        let age_days = if at % 3 == 1 { 95 } else { 30 };
        Node {
            id: NodeId(uuid::Uuid::from_u128(n as u128)),
            project: project_id(at),
            cluster: Some(ClusterId::from_bytes(bytes(at, 2))),
            asked: Asked {
                revision: 7,
                member: true,
                key: Some(held.clone()),
                off: false,
                rotate: None,
                run: DesiredRun::Running,
                step_down: false,
                resync: false,
            },
            seen: Some(Seen {
                at: Timestamp::from_epoch_ms(NOW_MS - 1_000),
                state: NodeState::Running,
                verdict: Verdict::Valid,
                key: Some(held),
                master_key: Some((format!("m{n}"), Timestamp::from_epoch_ms(NOW_MS - age_days * DAY_MS))),
                master_key_held: true,
                done_revision: 7,
                needs_approval: false,
                member: Some(if n % MEMBERS == 2 { MemberState::Primary } else { MemberState::Secondary }),
                unencrypted: false,
            }),
        }
    };
    State {
        projects: projects.collect(),
        clusters: (0..clusters).map(cluster).collect(),
        nodes: (0..clusters * MEMBERS).map(node).collect(),
    }
}

fn bytes(n: usize, kind: u8) -> [u8; 12] {
    let mut bytes = [kind; 12];
    bytes[4..].copy_from_slice(&(n as u64).to_be_bytes());
    bytes
}
