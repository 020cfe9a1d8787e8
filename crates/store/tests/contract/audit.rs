use keyward_model::{
    event::{Actor, EventType, NewEvent, Outcome},
    id::{OrgId, ProjectId, UserId},
    role::{Grants, ProjectRole},
};
use keyward_store::{EventFilter, Grant, PrincipalId, StoreError};

use crate::site::{Site, Thing, at, event, on_both_databases};

on_both_databases!(
    a_dropped_change_leaves_nothing,
    a_change_commits_with_exactly_one_event,
    a_failed_statement_commits_nothing,
    a_change_whose_event_cannot_be_stored_is_not_made,
    events_are_filtered_and_paged_newest_first,
    grants_are_given_taken_and_listed,
);

async fn a_dropped_change_leaves_nothing(site: Site) {
    let store = site.open().await;
    let user = PrincipalId::User(UserId::from_bytes([1; 12]));
    let project = ProjectId::from_bytes([2; 12]);
    let mut change = store.change().await.unwrap();
    change.insert(&Thing::new("c1", "p1", "shop")).await.unwrap();
    change.put_secret("encryption:p1", b"s3cret").await.unwrap();
    change.grant(&user, Grant::Project(project, ProjectRole::GroupOwner)).await.unwrap();
    change.put_access_token("token", "client", at(10)).await.unwrap();
    drop(change);

    let mut tx = store.read().await.unwrap();
    assert_eq!(tx.list_all::<Thing>().await.unwrap(), []);
    assert_eq!(tx.secret("encryption:p1").await.unwrap(), None);
    assert_eq!(tx.grants(&user).await.unwrap(), Grants::default());
    assert_eq!(tx.access_token("token", at(0)).await.unwrap(), None);
    assert_eq!(tx.events(&EventFilter::default(), 0, 10).await.unwrap(), (vec![], 0));
    drop(tx);
    // And the turn is free again.
    store.change().await.unwrap().commit(event(), at(0)).await.unwrap();
}

async fn a_change_commits_with_exactly_one_event(site: Site) {
    let store = site.open().await;
    let mut change = store.change().await.unwrap();
    change.insert(&Thing::new("c1", "p1", "shop")).await.unwrap();
    let asked = NewEvent::new(
        EventType::ClusterCreated,
        Actor::User { id: UserId::from_bytes([9; 12]), username: "ada@example.org".into() },
    )
    .org(OrgId::from_bytes([1; 12]))
    .project(ProjectId::from_bytes([2; 12]))
    .cluster("shop")
    .remote("2001:db8::1".parse().unwrap())
    .outcome(Outcome::Succeeded)
    .detail("instanceSize", "M10");
    let committed = change.commit(asked.clone(), at(5)).await.unwrap();
    assert_eq!(committed, asked.stored(committed.id, at(5)));

    let mut tx = store.read().await.unwrap();
    assert_eq!(tx.events(&EventFilter::default(), 0, 10).await.unwrap(), (vec![committed.clone()], 1));
    assert_eq!(tx.event(committed.id).await.unwrap(), Some(committed));
}

async fn a_failed_statement_commits_nothing(site: Site) {
    let store = site.open().await;
    store.change().await.unwrap().commit(event(), at(0)).await.unwrap();
    let mut change = store.change().await.unwrap();
    change.insert(&Thing::new("c1", "p1", "shop")).await.unwrap();
    change.put_access_token("token", "client", at(10)).await.unwrap();
    let twice = change.put_access_token("token", "client", at(10)).await.unwrap_err();
    assert!(matches!(twice, StoreError::Database(_)), "{twice:?}");
    assert!(!twice.to_string().to_lowercase().contains("insert"), "{twice}");
    change.commit(event(), at(1)).await.unwrap_err();

    let mut observation = store.observe().await.unwrap();
    observation.put_access_token("other", "client", at(10)).await.unwrap();
    observation.put_access_token("other", "client", at(10)).await.unwrap_err();
    observation.commit().await.unwrap_err();

    let mut tx = store.read().await.unwrap();
    assert_eq!(tx.list_all::<Thing>().await.unwrap(), []);
    assert_eq!(tx.access_token("other", at(0)).await.unwrap(), None);
    assert_eq!(tx.events(&EventFilter::default(), 0, 10).await.unwrap().1, 1);
}

async fn a_change_whose_event_cannot_be_stored_is_not_made(site: Site) {
    let store = site.open().await;
    let mut change = store.change().await.unwrap();
    change.insert(&Thing::new("c1", "p1", "shop")).await.unwrap();
    let refused = change.commit(event().cluster("sh\0op"), at(0)).await.unwrap_err();
    assert!(matches!(refused, StoreError::Unstorable { .. }), "{refused:?}");
    let mut tx = store.read().await.unwrap();
    assert_eq!(tx.list_all::<Thing>().await.unwrap(), []);
    assert_eq!(tx.events(&EventFilter::default(), 0, 10).await.unwrap().1, 0);
}

async fn events_are_filtered_and_paged_newest_first(site: Site) {
    let store = site.open().await;
    let (org, one, two) =
        (OrgId::from_bytes([1; 12]), ProjectId::from_bytes([2; 12]), ProjectId::from_bytes([3; 12]));
    let job = || Actor::Job { name: "desired".into() };
    let mut ids = Vec::new();
    for number in 0..40_i64 {
        let event_type = if number % 4 == 0 { EventType::ClusterCreated } else { EventType::NodeEnrolled };
        let project = if number % 2 == 0 { one } else { two };
        let mut event = NewEvent::new(event_type, job()).org(org).project(project);
        if number % 10 == 0 {
            event = event.cluster(format!("c{number}"));
        }
        // Four at a time in one millisecond.
        ids.push(store.change().await.unwrap().commit(event, at(number / 4)).await.unwrap().id);
    }
    ids.reverse();
    let mut tx = store.read().await.unwrap();
    let mut ask = async |filter: EventFilter, offset, limit| {
        let (events, total) = tx.events(&filter, offset, limit).await.unwrap();
        (events.into_iter().map(|event| event.id).collect::<Vec<_>>(), total)
    };
    assert_eq!(ask(EventFilter::default(), 0, 100).await, (ids.clone(), 40));
    assert_eq!(ask(EventFilter::default(), 30, 7).await, (ids[30..37].to_vec(), 40));
    assert_eq!(ask(EventFilter::default(), 100, 7).await, (vec![], 40));
    let of_one = EventFilter { project: Some(one), ..Default::default() };
    assert_eq!(ask(of_one.clone(), 0, 1).await, (vec![ids[1]], 20));
    let created = EventFilter { types: vec![EventType::ClusterCreated], ..of_one.clone() };
    assert_eq!(ask(created, 0, 0).await, (vec![], 10));
    let both = EventFilter {
        types: vec![EventType::ClusterCreated, EventType::NodeEnrolled],
        excluded_types: vec![EventType::ClusterCreated],
        ..of_one
    };
    assert_eq!(ask(both, 0, 0).await.1, 10);
    let clusters = EventFilter {
        org: Some(org),
        clusters: vec!["c0".into(), "c30".into(), "c\0".into()],
        ..Default::default()
    };
    assert_eq!(ask(clusters, 0, 9).await, (vec![ids[9], ids[39]], 2));
    let between = EventFilter { from: Some(at(2)), to: Some(at(3)), ..Default::default() };
    assert_eq!(ask(between, 0, 9).await, (ids[24..32].to_vec(), 8));
    let elsewhere = EventFilter { org: Some(OrgId::from_bytes([8; 12])), ..Default::default() };
    assert_eq!(ask(elsewhere, 0, 9).await, (vec![], 0));
}

async fn grants_are_given_taken_and_listed(site: Site) {
    use keyward_model::role::OrgRole::{OrgMember, OrgOwner};
    use keyward_model::role::ProjectRole::{GroupOwner, GroupReadOnly};

    let store = site.open().await;
    let (org, project, other) =
        (OrgId::from_bytes([1; 12]), ProjectId::from_bytes([2; 12]), ProjectId::from_bytes([3; 12]));
    let ada = PrincipalId::User(UserId::from_bytes([4; 12]));
    let robot = PrincipalId::ServiceAccount("mdb_sa_id_1".into());
    let mut change = store.change().await.unwrap();
    change.grant(&ada, Grant::Org(org, OrgMember)).await.unwrap();
    change.grant(&ada, Grant::Org(org, OrgMember)).await.unwrap();
    change.set_org_roles(&robot, org, &[OrgMember, OrgOwner]).await.unwrap();
    change.set_project_roles(&ada, project, &[GroupReadOnly, GroupOwner]).await.unwrap();
    change.set_project_roles(&robot, project, &[GroupReadOnly]).await.unwrap();
    change.set_project_roles(&robot, other, &[GroupOwner]).await.unwrap();
    change.commit(event(), at(0)).await.unwrap();

    let mut tx = store.read().await.unwrap();
    let grants = tx.grants(&ada).await.unwrap();
    assert_eq!(grants.org, [(org, OrgMember)]);
    assert_eq!(grants.project, [(project, GroupOwner), (project, GroupReadOnly)]);
    assert_eq!(
        tx.project_members(project).await.unwrap(),
        [(ada.clone(), vec![GroupOwner, GroupReadOnly]), (robot.clone(), vec![GroupReadOnly])]
    );
    assert_eq!(
        tx.org_members(org).await.unwrap(),
        [(ada.clone(), vec![OrgMember]), (robot.clone(), vec![OrgMember, OrgOwner])]
    );
    drop(tx);

    let mut change = store.change().await.unwrap();
    assert!(change.revoke(&ada, Grant::Project(project, GroupOwner)).await.unwrap());
    assert!(!change.revoke(&ada, Grant::Project(project, GroupOwner)).await.unwrap());
    change.set_org_roles(&robot, org, &[]).await.unwrap();
    change.drop_project_grants(other).await.unwrap();
    change.commit(event(), at(1)).await.unwrap();
    let mut tx = store.read().await.unwrap();
    assert_eq!(tx.grants(&ada).await.unwrap().project, [(project, GroupReadOnly)]);
    let left = tx.grants(&robot).await.unwrap();
    assert_eq!((left.org, left.project), (vec![], vec![(project, GroupReadOnly)]));
    drop(tx);

    let mut change = store.change().await.unwrap();
    change.drop_grants(&ada).await.unwrap();
    change.drop_org_grants(org).await.unwrap();
    change.commit(event(), at(2)).await.unwrap();
    let mut tx = store.read().await.unwrap();
    assert_eq!(tx.grants(&ada).await.unwrap(), Grants::default());
    assert_eq!(tx.org_members(org).await.unwrap(), []);
}
