//! How many requests are accepted, and when things were used last.

use keyward_server::auth::usage::secret_entry;
use serde_json::json;

use crate::site::{Answer, Database, Site, pair_of};

/// So many requests a minute, and as many at once.
const FEW: u32 = 12;

#[tokio::test]
async fn too_many_requests_of_a_project_wait_and_nobody_elses() {
    let site =
        Site::start_with(Database::Sqlite, false, |config| config.requests_per_minute = FEW).await.unwrap();
    let (one, other) = (site.project("One").await, site.project("Other").await);
    let path = format!("/api/atlas/v2/groups/{one}");
    let mut left = FEW;
    let limited = loop {
        let answer = site.owner().get(&path).await;
        assert_eq!(answer.header("ratelimit-limit"), FEW.to_string(), "{answer:?}");
        let now: u32 = answer.header("ratelimit-remaining").parse().unwrap();
        if answer.status != 200 {
            break answer;
        }
        // One may have come back meanwhile.
        assert!(now < FEW && now + 1 >= left.saturating_sub(1), "{now} after {left}");
        left = now;
    };
    assert_eq!(limited.header("ratelimit-remaining"), "0");
    let wait: u64 = limited.refused(429, "RATE_LIMITED").header("retry-after").parse().unwrap();
    assert!((1..=5).contains(&wait), "one comes back every 5 s: {wait}");

    // A request that is not signed gets its challenge, and who may not is told so: neither counts.
    let bare = Answer::of(site.plain("GET", &path).send().await.unwrap()).await.expect(401);
    assert!(
        bare.header("www-authenticate").starts_with("Digest ") && bare.header("ratelimit-limit").is_empty()
    );
    let elsewhere = json!({"name": "Elsewhere", "apiKey": {"desc": "k", "roles": ["ORG_OWNER"]}});
    let elsewhere = site.owner().post("/api/atlas/v2/orgs", elsewhere).await.expect(201);
    let stranger = pair_of(&elsewhere.body["apiKey"]);
    let refused = site.caller(&stranger).get(&path).await.refused(404, "GROUP_NOT_FOUND");
    assert_eq!(refused.header("ratelimit-limit"), "");
    // Another project, the organization and the caller's own list have their own.
    let answer = site.owner().get(&format!("/api/atlas/v2/groups/{other}")).await.expect(200);
    assert_eq!(answer.header("ratelimit-remaining"), (FEW - 1).to_string());
    site.owner().get(&format!("/api/atlas/v2/orgs/{}", site.org)).await.expect(200);
    // So does what is asked without signing in, in plain text and in JSON.
    for path in ["/api/private/unauth/nds/defaultMongoDBMajorVersion", "/api/private/ipinfo"] {
        let answer = Answer::of(site.plain("GET", path).send().await.unwrap()).await.expect(200);
        assert_eq!(answer.header("ratelimit-limit"), FEW.to_string(), "{path}");
        let left: u32 = answer.header("ratelimit-remaining").parse().unwrap();
        assert!(left < FEW, "{path}: {left}");
    }
    // A refusal of a handler tells what is left too.
    let wrong = site.owner().patch(&format!("/api/atlas/v2/groups/{other}"), json!({"zz": 1})).await;
    assert_eq!((wrong.status, wrong.header("ratelimit-limit")), (400, FEW.to_string().as_str()));
}

on_each_database! {
    async fn entries_of_access_lists_say_when_they_were_used(site: Site) {
        let made = json!({"desc": "k", "roles": ["ORG_MEMBER"]});
        let made = site.owner().post(&format!("/api/atlas/v2/orgs/{}/apiKeys", site.org), made).await.expect(200).body;
        let list = format!("/api/atlas/v2/orgs/{}/apiKeys/{}/accessList", site.org, made["id"].as_str().unwrap());
        let entries = json!([{"cidrBlock": "127.0.0.0/8"}, {"ipAddress": "127.0.0.1"}, {"cidrBlock": "10.0.0.0/8"}]);
        site.owner().post(&list, entries).await.expect(200);
        let entry = async |network: &str| {
            let listed = site.owner().get(&list).await.expect(200).body;
            listed["results"].as_array().unwrap().iter().find(|entry| entry["cidrBlock"] == network).unwrap().clone()
        };
        assert_eq!(entry("127.0.0.1/32").await.get("count"), None, "not used yet");
        let key = pair_of(&made);
        let used_at = keyward_server_time(&site);
        let org = format!("/api/atlas/v2/orgs/{}", site.org);
        for _ in 0..3 {
            site.caller(&key).get(&org).await.expect(200);
        }
        // The first is written at once, what follows within a minute later.
        let first = entry("127.0.0.1/32").await;
        assert_eq!((&first["count"], &first["lastUsed"]), (&json!(1), &json!(used_at)));
        assert_eq!(first["lastUsedAddress"], "127.0.0.1");
        assert_eq!(entry("127.0.0.0/8").await.get("count"), None, "the closest entry lets in");
        assert_eq!(entry("10.0.0.0/8").await.get("lastUsed"), None);
        site.advance_ms(60_000);
        let used_at = keyward_server_time(&site);
        site.caller(&key).get(&org).await.expect(200);
        let second = entry("127.0.0.1/32").await;
        assert_eq!((&second["count"], &second["lastUsed"]), (&json!(4), &json!(used_at)));
        // A request with a wrong signature is no use of anything.
        let wrong = crate::site::Pair { private: "wrong".into(), ..key.clone() };
        site.caller(&wrong).get(&org).await.expect(401);
        // An entry that goes takes what is known of it along.
        let one = format!("{list}/127.0.0.1");
        assert_eq!(site.owner().get(&one).await.expect(200).body["count"], 4);
        site.owner().delete(&one).await.expect(204);
        site.owner().post(&list, json!([{"ipAddress": "127.0.0.1"}])).await.expect(200);
        assert_eq!(entry("127.0.0.1/32").await.get("count"), None);
    }

    async fn secrets_say_when_they_were_used(site: Site) {
        let accounts = format!("/api/atlas/v2/orgs/{}/serviceAccounts", site.org);
        let body = json!({"name": "robot", "description": "d", "roles": ["ORG_MEMBER"], "secretExpiresAfterHours": 24});
        let made = site.owner().post(&accounts, body).await.expect(201).body;
        let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
        let (id, secret) = (text(&made["clientId"]), text(&made["secrets"][0]["secret"]));
        let one = format!("{accounts}/{id}");
        let shown = async || site.owner().get(&one).await.expect(200).body["secrets"][0].clone();
        assert!(shown().await["lastUsedAt"].is_null());
        let ask = async |secret: &str| {
            let request = site.plain("POST", "/api/oauth/token").basic_auth(&id, Some(secret));
            Answer::of(request.form(&[("grant_type", "client_credentials")]).send().await.unwrap()).await
        };
        ask("mdb_sa_sk_wrong").await.expect(401);
        assert!(shown().await["lastUsedAt"].is_null(), "a wrong secret is no use of it");
        let used_at = keyward_server_time(&site);
        let token = text(&ask(&secret).await.expect(200).body["access_token"]);
        assert_eq!(shown().await["lastUsedAt"], used_at);
        assert_eq!(shown().await["maskedSecretValue"].as_str().map(|masked| masked.starts_with("mdb_sa_sk_...")), Some(true));

        let list = format!("{one}/accessList");
        let entry = site.owner().post(&list, json!([{"ipAddress": "127.0.0.1"}])).await.expect(200).body["results"][0].clone();
        assert_eq!((&entry["requestCount"], entry.get("lastUsedAt")), (&json!(0), None));
        site.advance_ms(1_000);
        let used_at = keyward_server_time(&site);
        let org = format!("/api/atlas/v2/orgs/{}", site.org);
        let request = site.plain("GET", &org).header("accept", "application/vnd.atlas.2023-01-01+json").bearer_auth(&token);
        Answer::of(request.send().await.unwrap()).await.expect(200);
        let entry = site.owner().get(&list).await.expect(200).body["results"][0].clone();
        assert_eq!((&entry["requestCount"], &entry["lastUsedAt"]), (&json!(1), &json!(used_at)));
        assert_eq!(entry["lastUsedAddress"], "127.0.0.1");

        // What was counted is not lost when the server stops.
        let request = site.plain("GET", &org).header("accept", "application/vnd.atlas.2023-01-01+json").bearer_auth(&token);
        Answer::of(request.send().await.unwrap()).await.expect(200);
        let (config, owner) = (site.server.app().config().clone(), id.clone());
        let secret_id = text(&made["secrets"][0]["id"]);
        site.server.stop().await;
        let key = keyward_store::ServerKey::read_file(&config.key_file()).unwrap();
        let store = keyward_store::Store::open(&config.store_url(), key).await.unwrap();
        let known = store.read().await.unwrap().usage(&keyward_store::PrincipalId::ServiceAccount(owner)).await.unwrap();
        assert_eq!(known["network:127.0.0.1/32"].requests, 2);
        assert_eq!(known[&secret_entry(secret_id.parse().unwrap())].requests, 1);
        store.close().await;
    }
}

/// The server's time, as answers write it.
fn keyward_server_time(site: &Site) -> String {
    jiff::Timestamp::from_second(site.server.app().now().0.as_second()).unwrap().to_string()
}
