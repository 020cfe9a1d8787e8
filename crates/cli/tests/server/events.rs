//! `keyward event list`, once and as events come.

use serde_json::Value;

use crate::site::{Begun, Site};

async fn event(follow: &mut Begun) -> Value {
    let line = follow.line().await;
    serde_json::from_str(&line).unwrap_or_else(|_| panic!("no JSON: {line}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn new_events_are_followed_and_old_ones_are_not_told_again() {
    let site = Site::start().await;
    site.login().await;
    site.says(&["project", "create", "payments"]).await;
    let token = async |name: &str| {
        site.json(&["project", "join-token", "create", "--name", name]).await;
    };
    for name in ["a", "b", "c"] {
        token(name).await;
    }
    let all = site.json(&["event", "list"]).await;
    let all = all.as_array().unwrap();
    let newest = all.last().unwrap();
    assert!(all.len() >= 4, "a project and three tokens: {all:?}");

    // The newest that is there, then one new one after the other, and nothing of what was before.
    let mut follow = site.begin(&["event", "list", "--follow", "--limit", "1", "--json"]);
    assert_eq!(event(&mut follow).await["id"], newest["id"]);
    let mut made = Vec::new();
    for name in ["d", "e"] {
        token(name).await;
        let next = event(&mut follow).await;
        assert_eq!(next["type"], newest["type"], "{next}");
        made.push(next["id"].clone());
    }
    assert!(follow.is_quiet());
    assert_eq!(follow.interrupt(), Some(0));
    let after = site.json(&["event", "list", "--limit", "2"]).await;
    assert_eq!(after.as_array().unwrap().iter().map(|one| one["id"].clone()).collect::<Vec<_>>(), made);

    // For a person, of one type, of the organization.
    let kind = newest["type"].as_str().unwrap();
    let words = ["event", "list", "--follow", "--type", kind, "--limit", "1"];
    let mut follow = site.begin(&words);
    let first = follow.line().await;
    assert!(first.contains(kind) && first.contains(&site.public_key), "{first}");
    follow.line().await;
    site.says(&["project", "member", "add", "alice@example.com", "--role", "read-only"]).await;
    token("f").await;
    let next = follow.line().await;
    assert!(next.contains(kind), "only what was asked for: {next}");
    assert_eq!(follow.interrupt(), Some(0));
    let (code, said) = site.fails(&["event", "list", "--org", "Nobody"]).await;
    assert!(code == 1 && said.contains("there is no organization Nobody"), "{said}");
    let (code, said) = site.fails(&["event", "list", "--type", "SOMETHING"]).await;
    assert!(code == 2 && said.contains("there is no event of the type SOMETHING"), "{said}");
    site.stop().await;
}
