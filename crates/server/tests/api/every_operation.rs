//! What holds for every operation, whoever built it: bad input and strangers are refused with a 4xx in Atlas' form,
//! and leave nothing behind.

use http::Method;
use keyward_model::role::Requirement;
use keyward_server::api::{self, Operation};
use serde_json::{Value, json};

use crate::site::{Answer, Database, Site, pair_of};

/// Operations that take no body, and so find nothing wrong with what is in one.
const WITHOUT_BODY: &[&str] = &["toggleGroupMaintenanceWindowAutoDefer", "deferGroupMaintenanceWindow"];

on_each_database! {
    async fn bad_input_is_refused_and_nothing_is_stored(site: Site) {
        let project = site.project("P").await;
        let owner = site.owner();
        let before = (site.events().await, everything(&site).await);
        for operation in scoped() {
            let path = path_of(&site, operation, &project);
            let media_type = newest(operation);
            let send = async |body: &str| {
                owner.send_bytes(operation.method.as_str(), &path, Some(body.as_bytes().to_vec()), &media_type).await
            };
            if [Method::POST, Method::PUT, Method::PATCH].contains(&operation.method) {
                for (what, body) in [
                    ("cut short", "{\"name\":"),
                    ("no JSON", "<xml/>"),
                    ("a name twice", "{\"a\":1,\"a\":2}"),
                    ("a text", "\"text\""),
                    ("a number", "7"),
                    ("null", "null"),
                    ("an unknown field", "{\"zzUnknown\":1}"),
                    ("wrong types", "{\"name\":{\"x\":[]},\"roles\":7,\"enabled\":\"perhaps\",\"username\":[],\"desc\":1}"),
                ] {
                    let answer = send(body).await;
                    let no_body = WITHOUT_BODY.contains(&operation.id) && !matches!(what, "cut short" | "no JSON" | "a name twice");
                    if !no_body {
                        refused(operation, what, &answer);
                    }
                }
                refused(operation, "deep nesting", &send(&format!("{}{}", "[".repeat(9000), "]".repeat(9000))).await);
                let large = format!("{{\"name\":\"{}\"}}", "a".repeat(1 << 20));
                assert_eq!(send(&large).await.status, 413, "{operation:?}");
            }
            if !operation.versions.is_empty() {
                for version in ["1999-01-01", "nonsense", "2023-02-30"] {
                    let media_type = format!("application/vnd.atlas.{version}+json");
                    let answer = owner.send_bytes(operation.method.as_str(), &path, None, &media_type).await;
                    answer.refused(406, "INVALID_VERSION_DATE");
                }
            }
        }
        assert_eq!((site.events().await, everything(&site).await), before);
    }

    async fn strangers_and_the_unsigned_are_refused_and_nothing_is_stored(site: Site) {
        let project = site.project("P").await;
        let other = json!({"name": "Other", "apiKey": {"desc": "k", "roles": ["ORG_OWNER"]}});
        let other = site.owner().post("/api/atlas/v2/orgs", other).await.expect(201);
        let stranger = pair_of(&other.body["apiKey"]);
        let stranger = site.caller(&stranger);
        let before = (site.events().await, everything(&site).await);
        for operation in scoped() {
            let path = path_of(&site, operation, &project);
            let media_type = newest(operation);
            let bare = site.plain(operation.method.as_str(), &path).header("accept", &media_type).body("{}");
            let bare = Answer::of(bare.send().await.unwrap()).await;
            assert!(bare.status == 401 && bare.header("www-authenticate").starts_with("Digest "), "{operation:?}");
            let body = Some(b"{}".to_vec());
            let answer = stranger.send_bytes(operation.method.as_str(), &path, body, &media_type).await;
            let code = if path.contains("/groups/") { "GROUP_NOT_FOUND" } else { "ORG_NOT_FOUND" };
            answer.refused(404, code);
        }
        assert_eq!((site.events().await, everything(&site).await), before);
    }
}

/// The operations of a project or organization.
fn scoped() -> impl Iterator<Item = &'static Operation> {
    api::all().iter().filter(|operation| {
        operation.requires != Requirement::Nobody
            && (operation.path.contains("{groupId}") || operation.path.contains("{orgId}"))
    })
}

fn path_of(site: &Site, operation: &Operation, project: &str) -> String {
    let path = operation.path.replace("{groupId}", project).replace("{orgId}", &site.org.to_string());
    // What is left names things that do not exist.
    path.replace("{cloudProvider}", "AZURE")
        .replace("{clusterName}", "Cluster0")
        .replace("{name}", "Cluster0")
        .replace("{clientId}", "mdb_sa_id_5f3a0c9e8d7b6a5f4e3d2c1b")
        .replace("{ipAddress}", "192.0.2.1")
        .replace("{nodeId}", "6f1c3a1e-0000-4000-8000-000000000000")
        .split('/')
        .map(|segment| match segment.split_once('}') {
            Some((_, suffix)) => format!("5f3a0c9e8d7b6a5f4e3d2c1b{suffix}"),
            None => segment.to_owned(),
        })
        .collect::<Vec<_>>()
        .join("/")
}

fn newest(operation: &Operation) -> String {
    match operation.versions.last() {
        Some(version) => format!("application/vnd.atlas.{version}+json"),
        None => "application/json".to_owned(),
    }
}

#[track_caller]
fn refused(operation: &Operation, what: &str, answer: &Answer) {
    let refused = (400..500).contains(&answer.status) || answer.status == 501;
    assert!(refused, "{operation:?} with {what}: {} {}", answer.status, answer.text);
    assert_eq!(answer.header("x-error-code"), answer.code(), "{operation:?} with {what}");
    assert!(
        answer.body["parameters"].as_array().is_some_and(|all| all.iter().all(Value::is_string)),
        "{operation:?}"
    );
}

/// What the API shows of projects, organizations and access: what an operation that was refused must not have changed.
async fn everything(site: &Site) -> Vec<Value> {
    let owner = site.owner();
    let mut shown = Vec::new();
    for path in [
        "/api/atlas/v2/orgs".to_owned(),
        "/api/atlas/v2/groups".to_owned(),
        format!("/api/atlas/v2/orgs/{}/apiKeys", site.org),
        format!("/api/atlas/v2/orgs/{}/serviceAccounts", site.org),
        format!("/api/atlas/v2/orgs/{}/users", site.org),
        format!("/api/atlas/v2/orgs/{}/settings", site.org),
    ] {
        shown.push(owner.get(&path).await.expect(200).body);
    }
    shown
}
