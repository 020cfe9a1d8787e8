use keyward_model::{
    Timestamp,
    id::NodeId,
    sync::{Desired, DesiredCluster, DesiredRun, Observed},
};
use serde_json::json;

use crate::site::{Found, Site, at, on_both_databases};

on_both_databases!(
    an_older_report_changes_nothing,
    reports_are_listed_by_project,
    a_node_with_nothing_new_is_seen_all_the_same,
    what_changed_since_is_listed,
    desired_state_moves_only_when_it_differs,
    desired_revisions_grow_over_a_restored_backup,
);

pub(crate) fn node(number: u8) -> NodeId {
    format!("00000000-0000-4000-8000-0000000000{number:02x}").parse().unwrap()
}

pub(crate) fn observed(node: NodeId, report: u64, progress: &str) -> Observed {
    serde_json::from_value(json!({
        "nodeId": node, "report": report, "at": Timestamp::from_epoch_ms(0), "agentVersion": "0.1.0",
        "address": "db1.example.org:27017", "wraps": [], "doneRevision": 0, "progress": progress, "heldBack": [],
        "validated": [], "snapshots": [], "replicaState": null,
        "status": {
            "node": "db1", "state": "running", "verdict": "Valid", "reason": "", "evidence": [],
            "customerKey": null, "masterKey": null, "masterKeyHeld": true, "memoryLocked": true,
            "databaseKeys": [], "spareDatabaseKeys": 0, "engine": null, "since": Timestamp::from_epoch_ms(0),
            "warnings": [],
        },
    }))
    .unwrap()
}

pub(crate) fn desired(name: &str) -> Desired {
    let mut desired: Desired = serde_json::from_value(json!({
        "revision": 7, "cluster": null, "encryption": null, "rotateMasterKey": null, "run": "unmanaged",
        "validations": [],
    }))
    .unwrap();
    desired.run = DesiredRun::Running;
    desired.cluster = Some(DesiredCluster {
        name: name.into(),
        replica_set: name.into(),
        members: vec!["db1:27017".into()],
    });
    desired
}

async fn an_older_report_changes_nothing(site: Site) {
    let store = site.open().await;
    let mut observation = store.observe().await.unwrap();
    assert_eq!(observation.put_report(&observed(node(1), 5, "five"), at(50)).await.unwrap(), 5);
    assert_eq!(observation.put_report(&observed(node(1), 5, "replayed"), at(60)).await.unwrap(), 5);
    assert_eq!(observation.put_report(&observed(node(1), 3, "late"), at(61)).await.unwrap(), 5);
    observation.commit().await.unwrap();
    let report = store.read().await.unwrap().report(node(1)).await.unwrap().unwrap();
    assert_eq!((report.received_at, report.observed), (at(50), observed(node(1), 5, "five")));

    let mut observation = store.observe().await.unwrap();
    assert_eq!(observation.put_report(&observed(node(1), 6, "six"), at(70)).await.unwrap(), 6);
    assert_eq!(observation.report(node(1)).await.unwrap().unwrap().observed.progress.as_deref(), Some("six"));
    observation.drop_report(node(1)).await.unwrap();
    assert_eq!(observation.put_report(&observed(node(1), 1, "anew"), at(80)).await.unwrap(), 1);
}

async fn reports_are_listed_by_project(site: Site) {
    let store = site.open().await;
    let mut observation = store.observe().await.unwrap();
    for (number, project) in [(1, "p1"), (2, "p2"), (3, "p1")] {
        let id = node(number).to_string();
        observation.insert(&Found { id, parent: project.into(), text: String::new() }).await.unwrap();
        observation.put_report(&observed(node(number), 1, ""), at(0)).await.unwrap();
    }
    observation.put_report(&observed(node(4), 1, ""), at(0)).await.unwrap();
    observation.commit().await.unwrap();
    let mut tx = store.read().await.unwrap();
    let nodes = |reports: Vec<keyward_store::Report>| {
        reports.into_iter().map(|report| report.observed.node_id).collect::<Vec<_>>()
    };
    assert_eq!(nodes(tx.reports("p1").await.unwrap()), [node(1), node(3)]);
    assert_eq!(nodes(tx.reports("p3").await.unwrap()), []);
    assert_eq!(nodes(tx.all_reports().await.unwrap()).len(), 4);
}

async fn a_node_with_nothing_new_is_seen_all_the_same(site: Site) {
    let store = site.open().await;
    let mut observation = store.observe().await.unwrap();
    observation.put_report(&observed(node(1), 5, ""), at(50)).await.unwrap();
    observation.put_report(&observed(node(2), 8, ""), at(90)).await.unwrap();
    observation.seen_nodes(&[(node(3), at(70)), (node(2), at(70)), (node(1), at(70))]).await.unwrap();
    observation.commit().await.unwrap();
    let mut tx = store.read().await.unwrap();
    let seen = |report: Option<keyward_store::Report>| report.map(|report| report.received_at);
    assert_eq!(seen(tx.report(node(1)).await.unwrap()), Some(at(70)));
    assert_eq!(seen(tx.report(node(2)).await.unwrap()), Some(at(90)), "time does not go back");
    assert_eq!(seen(tx.report(node(3)).await.unwrap()), None);
    assert_eq!(tx.report_number(node(2)).await.unwrap(), 8);
    assert_eq!(tx.report_number(node(3)).await.unwrap(), 0);
}

async fn what_changed_since_is_listed(site: Site) {
    let store = site.open().await;
    let mut observation = store.observe().await.unwrap();
    let one = observation.put_desired(node(1), &desired("shop"), at(0)).await.unwrap().revision;
    let two = observation.put_desired(node(2), &desired("shop"), at(10)).await.unwrap().revision;
    observation.commit().await.unwrap();
    let mut tx = store.read().await.unwrap();
    assert_eq!(tx.desired_since(one).await.unwrap(), [(node(2), two)]);
    assert_eq!(tx.desired_since(0).await.unwrap().len(), 2);
    assert_eq!(tx.desired_since(two).await.unwrap(), []);
}

async fn desired_state_moves_only_when_it_differs(site: Site) {
    let store = site.open().await;
    let mut observation = store.observe().await.unwrap();
    assert_eq!(observation.desired_revision(node(1)).await.unwrap(), 0);
    assert_eq!(observation.desired(node(1)).await.unwrap(), None);
    let first = observation.put_desired(node(1), &desired("shop"), at(0)).await.unwrap();
    assert!(first.changed && first.revision > 0);
    let other_number = Desired { revision: 99, ..desired("shop") };
    let same = observation.put_desired(node(1), &other_number, at(5_000)).await.unwrap();
    assert_eq!((same.changed, same.revision), (false, first.revision));
    let moved = observation.put_desired(node(1), &desired("desk"), at(5_000)).await.unwrap();
    assert!(moved.changed && moved.revision > first.revision);
    // Two in one millisecond, and one by a clock that jumped back.
    let next = observation.put_desired(node(1), &desired("shop"), at(5_000)).await.unwrap();
    assert_eq!(next.revision, moved.revision + 1);
    let back = observation.put_desired(node(1), &desired("desk"), at(-5_000)).await.unwrap();
    assert_eq!(back.revision, next.revision + 1);
    observation.commit().await.unwrap();

    let mut tx = store.read().await.unwrap();
    let stored = tx.desired(node(1)).await.unwrap().unwrap();
    assert_eq!(stored, Desired { revision: back.revision, ..desired("desk") });
    assert_eq!(tx.desired_revision(node(1)).await.unwrap(), back.revision);
    assert_eq!(tx.desired(node(2)).await.unwrap(), None);
}

async fn desired_revisions_grow_over_a_restored_backup(site: Site) {
    let store = site.open().await;
    let mut observation = store.observe().await.unwrap();
    let mut newest = 0;
    for (number, name) in (0..50).zip(["shop", "desk"].into_iter().cycle()) {
        newest = observation.put_desired(node(1), &desired(name), at(number * 1000)).await.unwrap().revision;
    }
    // The backup knows nothing of it.
    observation.drop_desired(node(1)).await.unwrap();
    let restored = observation.put_desired(node(1), &desired("shop"), at(60_000)).await.unwrap();
    assert!(restored.revision > newest);
}
