//! Organizations, projects, users, API keys and service accounts, and who may do what with them.

use keyward_store::EventFilter;
use serde_json::json;

use crate::site::{Answer, Database, Site, pair_of};

const UNKNOWN: &str = "5f3a0c9e8d7b6a5f4e3d2c1b";

on_each_database! {
    async fn a_project_lives_from_creation_to_deletion(site: Site) {
        let owner = site.owner();
        let body = json!({"name": "Payments", "orgId": site.org, "tags": [{"key": "team", "value": "pay"}],
                          "clusterCount": 7, "created": "2020-01-01T00:00:00Z", "id": UNKNOWN, "links": []});
        let made = owner.post("/api/atlas/v2/groups", body).await.expect(201);
        let id = made.body["id"].as_str().unwrap().to_owned();
        assert_ne!(id, UNKNOWN);
        assert_eq!(made.body["clusterCount"], 0);
        assert!(!made.body["created"].as_str().unwrap().contains('.'), "{}", made.text);
        let path = format!("/api/atlas/v2/groups/{id}");
        assert_eq!(owner.get(&path).await.expect(200).body, made.body);
        assert_eq!(owner.get("/api/atlas/v2/groups/byName/Payments").await.expect(200).body, made.body);
        owner.post("/api/atlas/v2/groups", json!({"name": "Payments", "orgId": site.org})).await.refused(409, "GROUP_ALREADY_EXISTS");
        let renamed = owner.patch(&path, json!({"name": "Pay"})).await.expect(200);
        assert_eq!((&renamed.body["name"], &renamed.body["tags"]), (&json!("Pay"), &made.body["tags"]));
        owner.get("/api/atlas/v2/groups/byName/Payments").await.refused(404, "GROUP_NAME_NOT_FOUND");
        let of_org = owner.get(&format!("/api/atlas/v2/orgs/{}/groups", site.org)).await.expect(200);
        assert_eq!(of_org.body["results"][0]["id"], json!(id));
        let settings = owner.get(&format!("{path}/settings")).await.expect(200);
        assert_eq!(settings.body["isDataExplorerEnabled"], true);
        let changed = owner.patch(&format!("{path}/settings"), json!({"isDataExplorerEnabled": false})).await.expect(200);
        assert_eq!(changed.body["isDataExplorerEnabled"], false);
        assert_eq!(changed.body["isSchemaAdvisorEnabled"], true);
        owner.patch(&format!("{path}/settings"), json!({"isDataExplorerEnabled": "no"})).await.refused(400, "INVALID_ATTRIBUTE");
        owner.patch(&format!("{path}/settings"), json!({"isX": true})).await.refused(400, "INVALID_ATTRIBUTE");
        assert_eq!(owner.get(&format!("{path}/limits")).await.expect(200).body, json!([]));
        assert_eq!(owner.get(&format!("{path}/teams")).await.expect(200).body["results"], json!([]));
        assert_eq!(owner.get(&format!("{path}/ipAddresses")).await.expect(200).body["groupId"], json!(id));
        assert!(owner.delete(&path).await.expect(202).text.is_empty());
        owner.get(&path).await.refused(404, "GROUP_NOT_FOUND");
        owner.delete(&path).await.refused(404, "GROUP_NOT_FOUND");
        // The name is free again.
        site.project("Pay").await;
    }

    /// Every change left exactly one event, with who did it and from where; reading and refusals left none.
    async fn each_change_has_one_event(site: Site) {
        let owner = site.owner();
        let before = site.events().await;
        let project = site.project("One").await;
        let path = format!("/api/atlas/v2/groups/{project}");
        owner.patch(&path, json!({"name": "Two"})).await.expect(200);
        owner.patch(&path, json!({"name": "Two"})).await.expect(200);
        owner.patch(&path, json!({"name": ""})).await.expect(400);
        owner.get(&path).await.expect(200);
        owner.delete(&path).await.expect(202);
        let mut tx = site.server.app().store().read().await.unwrap();
        let (events, total) = tx.events(&EventFilter::default(), 0, 10).await.unwrap();
        assert_eq!(total, before + 3);
        let types: Vec<&str> = events.iter().take(3).map(|event| event.event_type.as_str()).collect();
        assert_eq!(types, ["GROUP_DELETED", "GROUP_NAME_CHANGED", "GROUP_CREATED"]);
        for event in &events[..3] {
            assert_eq!(event.org, Some(site.org));
            assert_eq!(event.project.unwrap().to_string(), project);
            assert_eq!(event.remote.unwrap().to_string(), "127.0.0.1");
            assert!(serde_json::to_string(&event.actor).unwrap().contains(&site.owner.public));
        }
    }

    async fn an_organization_owner_configures_nothing_before_adding_itself(site: Site) {
        let creator = site.org_key(&["ORG_GROUP_CREATOR"]).await;
        let made = site.caller(&creator).post("/api/atlas/v2/groups", json!({"name": "P", "orgId": site.org})).await.expect(201);
        let id = made.body["id"].as_str().unwrap();
        let path = format!("/api/atlas/v2/groups/{id}");
        let owner = site.owner();
        owner.get(&path).await.expect(200);
        owner.patch(&path, json!({"name": "Q"})).await.refused(401, "USER_UNAUTHORIZED");
        let keys = owner.get(&format!("/api/atlas/v2/orgs/{}/apiKeys", site.org)).await.expect(200);
        let own = keys.body["results"].as_array().unwrap().iter().find(|key| key["publicKey"] == json!(site.owner.public)).unwrap().clone();
        let add = format!("{path}/apiKeys/{}", own["id"].as_str().unwrap());
        owner.post(&add, json!([{"roles": ["GROUP_OWNER"]}])).await.expect(204);
        owner.patch(&path, json!({"name": "Q"})).await.expect(200);
        owner.delete(&add).await.expect(204);
        owner.patch(&path, json!({"name": "R"})).await.refused(401, "USER_UNAUTHORIZED");
        // The other key is the last owner now.
        let creator_id = keys.body["results"].as_array().unwrap().iter().find(|key| key["publicKey"] == json!(creator.public)).unwrap()["id"].clone();
        let last = format!("{path}/apiKeys/{}", creator_id.as_str().unwrap());
        owner.delete(&last).await.refused(403, "CANNOT_DELETE_LAST_OWNER");
        owner.patch(&last, json!({"roles": ["GROUP_READ_ONLY"]})).await.refused(403, "CANNOT_DEMOTE_LAST_OWNER");
    }

    async fn what_one_does_not_belong_to_does_not_exist(site: Site) {
        let project = site.project("Mine").await;
        let other_org = site.owner().post("/api/atlas/v2/orgs", json!({"name": "Other", "apiKey": {"desc": "k", "roles": ["ORG_OWNER"]}})).await.expect(201);
        let stranger = pair_of(&other_org.body["apiKey"]);
        let stranger = site.caller(&stranger);
        let before = site.events().await;
        for id in [project.as_str(), UNKNOWN, "nonsense", "%00"] {
            for (method, path, body) in [
                ("GET", format!("/api/atlas/v2/groups/{id}"), None),
                ("DELETE", format!("/api/atlas/v2/groups/{id}"), None),
                ("PATCH", format!("/api/atlas/v2/groups/{id}"), Some(json!({"name": "Stolen"}))),
                ("GET", format!("/api/atlas/v2/groups/{id}/encryptionAtRest"), None),
                ("PATCH", format!("/api/atlas/v2/groups/{id}/encryptionAtRest"), Some(json!({"azureKeyVault": {"enabled": false}}))),
                ("POST", format!("/api/atlas/v2/groups/{id}/apiKeys"), Some(json!({"desc": "x", "roles": ["GROUP_OWNER"]}))),
                ("POST", format!("/api/atlas/v2/groups/{id}/users"), Some(json!({"username": "a@b.example", "roles": ["GROUP_OWNER"]}))),
            ] {
                let stranger = stranger.version("2025-03-12");
                stranger.send(method, &path, body).await.refused(404, "GROUP_NOT_FOUND");
            }
        }
        for id in [site.org.to_string(), UNKNOWN.to_owned(), "nonsense".to_owned()] {
            stranger.get(&format!("/api/atlas/v2/orgs/{id}")).await.refused(404, "ORG_NOT_FOUND");
            stranger.post(&format!("/api/atlas/v2/orgs/{id}/apiKeys"), json!({"desc": "x", "roles": ["ORG_OWNER"]})).await.refused(404, "ORG_NOT_FOUND");
            stranger.post("/api/atlas/v2/groups", json!({"name": "x", "orgId": if id == "nonsense" { UNKNOWN } else { &id }})).await.refused(404, "ORG_NOT_FOUND");
        }
        assert_eq!(stranger.get("/api/atlas/v2/groups").await.expect(200).body["totalCount"], 0);
        stranger.get("/api/atlas/v2/groups/byName/Mine").await.refused(404, "GROUP_NAME_NOT_FOUND");
        assert_eq!(site.events().await, before);
        assert_eq!(site.owner().get(&format!("/api/atlas/v2/groups/{project}")).await.body["name"], "Mine");
    }

    async fn api_keys_are_made_changed_and_deleted(site: Site) {
        let owner = site.owner();
        let keys = format!("/api/atlas/v2/orgs/{}/apiKeys", site.org);
        let made = owner.post(&keys, json!({"desc": "ci", "roles": ["ORG_READ_ONLY"]})).await.expect(200);
        let pair = pair_of(&made.body);
        assert!(pair.public.len() == 8 && pair.public.bytes().all(|byte| byte.is_ascii_lowercase()));
        assert!(uuid::Uuid::parse_str(&pair.private).is_ok());
        assert_eq!(made.body["roles"], json!([{"orgId": site.org, "roleName": "ORG_READ_ONLY"}]));
        let path = format!("{keys}/{}", made.body["id"].as_str().unwrap());
        let shown = owner.get(&path).await.expect(200);
        assert!(shown.body.get("privateKey").is_none());
        let key = site.caller(&pair);
        key.get(&path).await.expect(200);
        key.delete(&path).await.refused(401, "USER_UNAUTHORIZED");
        let changed = owner.patch(&path, json!({"desc": "ci 2", "roles": ["ORG_MEMBER"]})).await.expect(200);
        assert_eq!((&changed.body["desc"], &changed.body["roles"][0]["roleName"]), (&json!("ci 2"), &json!("ORG_MEMBER")));
        owner.patch(&path, json!({"roles": ["ORG_EMPEROR"]})).await.refused(400, "INVALID_ENUM_VALUE");
        owner.post(&keys, json!({"desc": "", "roles": ["ORG_MEMBER"]})).await.refused(400, "INVALID_ATTRIBUTE");
        owner.post(&keys, json!({"desc": "x", "roles": []})).await.refused(400, "INVALID_ATTRIBUTE");
        let status = key.get("/api/atlas/v2").await.expect(200);
        assert_eq!(status.body["apiKey"]["publicKey"], json!(pair.public));
        owner.delete(&path).await.expect(204);
        owner.get(&path).await.refused(404, "API_KEY_NOT_FOUND");
        assert_eq!(key.get("/api/atlas/v2").await.status, 401);
        // The last owner of the organization stays.
        let own = owner.get(&keys).await.body["results"][0]["id"].as_str().unwrap().to_owned();
        owner.delete(&format!("{keys}/{own}")).await.refused(403, "CANNOT_DELETE_LAST_OWNER");
        owner.patch(&format!("{keys}/{own}"), json!({"roles": ["ORG_MEMBER"]})).await.refused(403, "CANNOT_DEMOTE_LAST_OWNER");
    }

    async fn an_access_list_is_enforced(site: Site) {
        let owner = site.owner();
        let pair = site.org_key(&["ORG_MEMBER"]).await;
        let key = site.caller(&pair);
        let keys = owner.get(&format!("/api/atlas/v2/orgs/{}/apiKeys", site.org)).await;
        let id = keys.body["results"].as_array().unwrap().iter().find(|key| key["publicKey"] == json!(pair.public)).unwrap()["id"].clone();
        let list = format!("/api/atlas/v2/orgs/{}/apiKeys/{}/accessList", site.org, id.as_str().unwrap());
        owner.post(&list, json!([{"ipAddress": "192.0.2.1"}])).await.expect(200);
        key.get("/api/atlas/v2").await.refused(403, "IP_ADDRESS_NOT_ON_WHITELIST");
        owner.post(&list, json!([{"cidrBlock": "127.0.0.0/8"}])).await.expect(200);
        key.get("/api/atlas/v2").await.expect(200);
        let shown = key.get(&list).await.expect(200);
        assert_eq!(shown.body["totalCount"], 2);
        assert_eq!(shown.body["results"][0]["ipAddress"], "192.0.2.1");
        owner.get(&format!("{list}/127.0.0.0%2F8")).await.expect(200);
        owner.get(&format!("{list}/192.0.2.1")).await.expect(200);
        owner.get(&format!("{list}/192.0.2.2")).await.refused(404, "ACCESS_LIST_ENTRY_NOT_FOUND");
        for wrong in [json!([]), json!([{}]), json!([{"ipAddress": "x"}]), json!([{"cidrBlock": "10.0.0.0/33"}]),
                      json!([{"ipAddress": "192.0.2.1", "cidrBlock": "10.0.0.0/8"}])] {
            assert_eq!(owner.post(&list, wrong.clone()).await.status, 400, "{wrong}");
        }
        // A key changes its own list, not another's.
        key.delete(&format!("{list}/192.0.2.1")).await.expect(204);
        let other = site.org_key(&["ORG_MEMBER"]).await;
        site.caller(&other).delete(&format!("{list}/127.0.0.0%2F8")).await.refused(401, "USER_UNAUTHORIZED");
        owner.delete(&format!("{list}/127.0.0.0%2F8")).await.expect(204);
        // Settings that are only kept come back as they were given.
        let settings = format!("/api/atlas/v2/orgs/{}/settings", site.org);
        let timeouts = json!({"customSessionTimeouts": {"idleSessionTimeoutInSeconds": 600}, "securityContact": "s@example.org"});
        let kept = owner.patch(&settings, timeouts).await.expect(200);
        assert_eq!(kept.body["customSessionTimeouts"], json!({"idleSessionTimeoutInSeconds": 600}));
        assert_eq!(owner.get(&settings).await.expect(200).body, kept.body);
        owner.patch(&settings, json!({"maxServiceAccountSecretValidityInHours": 7})).await.refused(400, "INVALID_ATTRIBUTE");
        // The organization may ask for lists.
        let answer = owner.patch(&settings, json!({"apiAccessListRequired": true})).await.refused(400, "VALIDATION_ERROR");
        assert!(answer.text.contains("would lock you out"), "{}", answer.text);
        let keys = owner.get(&format!("/api/atlas/v2/orgs/{}/apiKeys", site.org)).await.expect(200);
        let own = keys.body["results"].as_array().unwrap().iter().find(|key| key["publicKey"] == site.owner.public).unwrap();
        let own = format!("/api/atlas/v2/orgs/{}/apiKeys/{}/accessList", site.org, own["id"].as_str().unwrap());
        owner.post(&own, json!([{"ipAddress": "127.0.0.1"}])).await.expect(200);
        owner.patch(&settings, json!({"apiAccessListRequired": true})).await.expect(200);
        let long = json!({"securityContact": format!("{}@example.org", "x".repeat(300))});
        owner.patch(&settings, long).await.refused(400, "INVALID_ATTRIBUTE");
        key.get("/api/atlas/v2").await.refused(403, "ORG_REQUIRES_WHITELIST");
    }

    async fn service_accounts_trade_secrets_for_tokens(site: Site) {
        let owner = site.owner();
        let accounts = format!("/api/atlas/v2/orgs/{}/serviceAccounts", site.org);
        let body = json!({"name": "tf", "description": "Terraform", "roles": ["ORG_OWNER"], "secretExpiresAfterHours": 24});
        let made = owner.post(&accounts, body).await.expect(201);
        let client_id = made.body["clientId"].as_str().unwrap().to_owned();
        let secret = made.body["secrets"][0]["secret"].as_str().unwrap().to_owned();
        assert!(client_id.starts_with("mdb_sa_id_") && client_id.len() == 34);
        assert!(secret.starts_with("mdb_sa_sk_"));
        let path = format!("{accounts}/{client_id}");
        let shown = owner.get(&path).await.expect(200);
        assert!(shown.body["secrets"][0].get("secret").is_none());
        assert!(shown.body["secrets"][0]["maskedSecretValue"].as_str().unwrap().contains("..."));

        let token = async |form: &[(&str, &str)], basic: Option<(&str, &str)>| {
            let mut request = site.plain("POST", "/api/oauth/token").form(form);
            if let Some((id, secret)) = basic {
                request = request.basic_auth(id, Some(secret));
            }
            Answer::of(request.send().await.unwrap()).await
        };
        let grant = ("grant_type", "client_credentials");
        let escaped = secret.replace('_', "%5F");
        for answer in [
            token(&[grant], Some((&client_id, &secret))).await,
            token(&[grant], Some((&client_id.replace('_', "%5F"), &escaped))).await,
            token(&[grant, ("client_id", &client_id), ("client_secret", &secret)], None).await,
        ] {
            let answer = answer.expect(200);
            assert_eq!((&answer.body["token_type"], &answer.body["expires_in"]), (&json!("Bearer"), &json!(3600)));
            assert_eq!(answer.header("cache-control"), "no-store");
        }
        let given = token(&[grant], Some((&client_id, &secret))).await.body["access_token"].as_str().unwrap().to_owned();
        let bearer = async |token: &str, path: &str| {
            Answer::of(site.plain("GET", path).bearer_auth(token).send().await.unwrap()).await
        };
        bearer(&given, &path).await.expect(200);
        for wrong in [
            token(&[grant], Some((&client_id, "mdb_sa_sk_wrong"))).await,
            token(&[grant], Some(("mdb_sa_id_000000000000000000000000", &secret))).await,
            token(&[grant], None).await,
        ] {
            let wrong = wrong.expect(401);
            assert_eq!(wrong.body["error"], "invalid_client", "{}", wrong.text);
        }
        assert_eq!(token(&[("grant_type", "password")], Some((&client_id, &secret))).await.expect(400).body["error"], "unsupported_grant_type");

        let revoke = async |token: &str| {
            let request = site.plain("POST", "/api/oauth/revoke").form(&[("token", token), ("token_type_hint", "access_token")]);
            request.basic_auth(&client_id, Some(&secret)).send().await.unwrap().status().as_u16()
        };
        assert_eq!((revoke(&given).await, revoke(&given).await, revoke("unknown").await), (200, 200, 200));
        bearer(&given, &path).await.expect(401);

        let given = token(&[grant], Some((&client_id, &secret))).await.body["access_token"].as_str().unwrap().to_owned();
        site.advance_ms(3_599_000);
        bearer(&given, &path).await.expect(200);
        site.advance_ms(2_000);
        bearer(&given, &path).await.expect(401);

        let second = owner.post(&format!("{path}/secrets"), json!({"secretExpiresAfterHours": 100})).await.expect(201);
        owner.post(&format!("{path}/secrets"), json!({"secretExpiresAfterHours": 100})).await.refused(400, "SERVICE_ACCOUNT_MAX_SECRETS");
        owner.post(&format!("{path}/secrets"), json!({"secretExpiresAfterHours": 0})).await.expect(400);
        owner.post(&format!("{path}/secrets"), json!({})).await.refused(400, "MISSING_ATTRIBUTE");
        site.advance_ms(24 * 3_600_000);
        token(&[grant], Some((&client_id, &secret))).await.expect(401);
        let newer = second.body["secret"].as_str().unwrap();
        let given = token(&[grant], Some((&client_id, newer))).await.expect(200).body["access_token"].as_str().unwrap().to_owned();
        owner.delete(&format!("{path}/secrets/{}", second.body["id"].as_str().unwrap())).await.expect(204);
        bearer(&given, &path).await.expect(401);
        owner.delete(&path).await.expect(204);
        owner.get(&path).await.refused(404, "SERVICE_ACCOUNT_NOT_FOUND");
    }

    async fn a_service_account_is_invited_to_a_project(site: Site) {
        let owner = site.owner();
        let project = site.project("P").await;
        let accounts = format!("/api/atlas/v2/orgs/{}/serviceAccounts", site.org);
        let body = json!({"name": "op", "description": "operator", "roles": ["ORG_MEMBER"], "secretExpiresAfterHours": 24});
        let made = owner.post(&accounts, body).await.expect(201);
        let client_id = made.body["clientId"].as_str().unwrap();
        let in_project = format!("/api/atlas/v2/groups/{project}/serviceAccounts/{client_id}");
        owner.get(&in_project).await.refused(404, "SERVICE_ACCOUNT_NOT_FOUND");
        let invited = owner.post(&format!("{in_project}:invite"), json!({"roles": ["GROUP_OWNER"]})).await.expect(200);
        assert_eq!(invited.body["roles"], json!(["GROUP_OWNER"]));
        let groups = owner.get(&format!("{accounts}/{client_id}/groups")).await.expect(200);
        assert_eq!(groups.body["results"], json!([{"groupId": project, "roles": ["GROUP_OWNER"]}]));
        assert_eq!(owner.get(&format!("/api/atlas/v2/groups/{project}/serviceAccounts")).await.body["totalCount"], 1);
        owner.patch(&in_project, json!({"name": "op 2"})).await.expect(200);
        owner.delete(&in_project).await.expect(204);
        owner.get(&in_project).await.refused(404, "SERVICE_ACCOUNT_NOT_FOUND");
        owner.get(&format!("{accounts}/{client_id}")).await.expect(200);
    }

    /// A project's owner must not act as an account that can do more than they.
    async fn a_project_owner_does_not_rise_by_another_accounts_secret(site: Site) {
        let owner = site.owner();
        let project = site.project("P").await;
        let accounts = format!("/api/atlas/v2/orgs/{}/serviceAccounts", site.org);
        let body = json!({"name": "root", "description": "root", "roles": ["ORG_OWNER"], "secretExpiresAfterHours": 24});
        let made = owner.post(&accounts, body).await.expect(201);
        let client_id = made.body["clientId"].as_str().unwrap();
        let in_project = format!("/api/atlas/v2/groups/{project}/serviceAccounts/{client_id}");
        owner.post(&format!("{in_project}:invite"), json!({"roles": ["GROUP_READ_ONLY"]})).await.expect(200);
        let rising = site.project_key(&project, &["GROUP_OWNER"]).await;
        let rising = site.caller(&rising);
        rising.get(&in_project).await.expect(200);
        rising.post(&format!("{in_project}/secrets"), json!({"secretExpiresAfterHours": 1})).await.refused(403, "ACCESS_FORBIDDEN");
        rising.post(&format!("{in_project}/accessList"), json!([{"cidrBlock": "0.0.0.0/0"}])).await.refused(403, "ACCESS_FORBIDDEN");
        // Nor does who manages access make themselves or a friend an owner.
        let manager = site.project_key(&project, &["GROUP_ACCESS_MANAGER"]).await;
        let manager = site.caller(&manager);
        let keys = format!("/api/atlas/v2/groups/{project}/apiKeys");
        manager.post(&keys, json!({"desc": "x", "roles": ["GROUP_OWNER"]})).await.refused(403, "ACCESS_FORBIDDEN");
        manager.post(&keys, json!({"desc": "x", "roles": ["GROUP_CLUSTER_MANAGER"]})).await.expect(200);
        // Keys of the organization that the project does not have are none of its business.
        let all = owner.get(&format!("/api/atlas/v2/orgs/{}/apiKeys", site.org)).await.expect(200);
        site.org_key(&["ORG_MEMBER"]).await;
        let now = owner.get(&format!("/api/atlas/v2/orgs/{}/apiKeys", site.org)).await.expect(200);
        let known = all.body["results"].as_array().unwrap().clone();
        let foreign = now.body["results"].as_array().unwrap().iter().find(|key| !known.contains(key)).unwrap().clone();
        let foreign = format!("{keys}/{}", foreign["id"].as_str().unwrap());
        for body in [json!({"desc": "mine"}), json!({"roles": ["GROUP_READ_ONLY"]}), json!({})] {
            manager.patch(&foreign, body).await.refused(404, "API_KEY_NOT_FOUND");
        }
        manager.delete(&foreign).await.refused(404, "API_KEY_NOT_FOUND");
        manager.post(&foreign, json!([{"roles": ["GROUP_READ_ONLY"]}])).await.refused(401, "USER_UNAUTHORIZED");
        let users = format!("/api/atlas/v2/groups/{project}/users");
        manager.put(&format!("{users}/5f3a0c9e8d7b6a5f4e3d2c1b/roles"), json!({"groupRoles": ["GROUP_READ_ONLY"]})).await.refused(401, "USER_UNAUTHORIZED");
        let access = format!("/api/atlas/v2/groups/{project}/access");
        manager.post(&access, json!({"username": "m@example.org", "roles": ["GROUP_READ_ONLY"]})).await.refused(401, "USER_UNAUTHORIZED");
        manager.post(&users, json!({"username": "m@example.org", "roles": ["GROUP_OWNER"]})).await.refused(403, "ACCESS_FORBIDDEN");
        manager.post(&users, json!({"username": "m@example.org", "roles": ["GROUP_READ_ONLY"]})).await.expect(201);
    }

    async fn users_are_named_given_roles_and_removed(site: Site) {
        let owner = site.owner();
        let project = site.project("P").await;
        let of_org = format!("/api/atlas/v2/orgs/{}/users", site.org);
        let of_project = format!("/api/atlas/v2/groups/{project}/users");
        let body = json!({"username": "ada@example.org", "roles": {"orgRoles": ["ORG_MEMBER"], "groupRoleAssignments": [{"groupId": project, "groupRoles": ["GROUP_READ_ONLY"]}]}});
        let ada = owner.post(&of_org, body.clone()).await.expect(201);
        assert_eq!(ada.body["orgMembershipStatus"], "ACTIVE");
        for (status, members) in [("ACTIVE", 1), ("PENDING", 0), ("PENDING,ACTIVE", 1)] {
            let listed = owner.get(&format!("{of_project}?orgMembershipStatuses={status}")).await.expect(200);
            assert_eq!(listed.body["totalCount"], members, "{status}");
        }
        let wrong = owner.get(&format!("{of_org}?orgMembershipStatus=ACTIVE,GONE")).await;
        assert!(wrong.refused(400, "INVALID_QUERY_PARAMETER").text.contains("names GONE, which is not ACTIVE"));
        owner.post(&of_org, body).await.refused(409, "USER_ALREADY_EXISTS");
        let id = ada.body["id"].as_str().unwrap().to_owned();
        let one = format!("{of_project}/{id}");
        assert_eq!(owner.get(&one).await.expect(200).body["roles"], json!(["GROUP_READ_ONLY"]));
        let raised = owner.post(&format!("{one}:addRole"), json!({"groupRole": "GROUP_OWNER"})).await.expect(200);
        assert_eq!(raised.body["roles"], json!(["GROUP_OWNER", "GROUP_READ_ONLY"]));
        let lowered = owner.post(&format!("{one}:removeRole"), json!({"groupRole": "GROUP_OWNER"})).await.expect(200);
        assert_eq!(lowered.body["roles"], json!(["GROUP_READ_ONLY"]));
        owner.post(&format!("{one}:removeRole"), json!({"groupRole": "GROUP_READ_ONLY"})).await.refused(400, "VALIDATION_ERROR");
        let bob = owner.post(&of_project, json!({"username": "bob@example.org", "roles": ["GROUP_OWNER"]})).await.expect(201);
        let bob_id = bob.body["id"].as_str().unwrap();
        let in_org = owner.get(&format!("{of_org}/{bob_id}")).await.expect(200);
        assert_eq!(in_org.body["roles"]["orgRoles"], json!(["ORG_MEMBER"]));
        assert_eq!(owner.get(&of_org).await.body["totalCount"], 2);
        assert_eq!(owner.get(&format!("{of_org}?username=bob@example.org")).await.body["totalCount"], 1);
        let old = owner.version("2023-01-01").get(&of_project).await.expect(200);
        assert_eq!(old.body["results"].as_array().unwrap().len(), 2);
        assert!(old.body["results"][0]["emailAddress"].is_string());
        owner.get("/api/atlas/v2/users/byName/ada@example.org").await.expect(200);
        owner.get(&format!("/api/atlas/v2/users/{id}")).await.expect(200);
        owner.get(&format!("/api/atlas/v2/users/{UNKNOWN}")).await.refused(404, "USER_NOT_FOUND");
        for wrong in ["", "ada", "a b@example.org", "@example.org", "a@", "a@example"] {
            owner.post(&of_project, json!({"username": wrong, "roles": ["GROUP_OWNER"]})).await.refused(400, "INVALID_ATTRIBUTE");
        }
        owner.delete(&one).await.expect(204);
        owner.get(&one).await.refused(404, "USER_NOT_FOUND");
        owner.delete(&format!("{of_org}/{id}")).await.expect(204);
        owner.get(&format!("{of_org}/{id}")).await.refused(404, "USER_NOT_FOUND");
        // A user as the organization's only other owner does not let the last key go: users cannot sign in.
        owner.post(&format!("{of_org}/{bob_id}:addRole"), json!({"orgRole": "ORG_OWNER"})).await.expect(200);
        let keys = format!("/api/atlas/v2/orgs/{}/apiKeys", site.org);
        let own = owner.get(&keys).await.body["results"].as_array().unwrap().iter().find(|key| key["publicKey"] == json!(site.owner.public)).unwrap()["id"].clone();
        owner.delete(&format!("{keys}/{}", own.as_str().unwrap())).await.refused(403, "CANNOT_DELETE_LAST_OWNER");
    }

    async fn the_named_user_owns_the_new_project_too(site: Site) {
        let owner = site.owner();
        let body = json!({"username": "ada@example.org", "roles": {"orgRoles": ["ORG_MEMBER"]}});
        let ada = owner.post(&format!("/api/atlas/v2/orgs/{}/users", site.org), body).await.expect(201);
        let ada = ada.body["id"].as_str().unwrap();
        let new = json!({"name": "P", "orgId": site.org});
        owner.post(&format!("/api/atlas/v2/groups?projectOwnerId={UNKNOWN}"), new.clone()).await.refused(404, "USER_NOT_FOUND");
        let made = owner.post(&format!("/api/atlas/v2/groups?projectOwnerId={ada}"), new).await.expect(201);
        let path = format!("/api/atlas/v2/groups/{}/users/{ada}", made.body["id"].as_str().unwrap());
        assert_eq!(owner.get(&path).await.expect(200).body["roles"], json!(["GROUP_OWNER"]));
    }

    async fn organizations_are_made_renamed_and_deleted(site: Site) {
        let owner = site.owner();
        let body = json!({"name": "Second", "serviceAccount": {"name": "sa", "description": "d", "roles": ["ORG_OWNER"], "secretExpiresAfterHours": 8}});
        let made = owner.post("/api/atlas/v2/orgs", body).await.expect(201);
        assert!(made.body["serviceAccount"]["secrets"][0]["secret"].is_string());
        let id = made.body["organization"]["id"].as_str().unwrap();
        let path = format!("/api/atlas/v2/orgs/{id}");
        assert_eq!(owner.patch(&path, json!({"name": "Renamed"})).await.expect(200).body["name"], "Renamed");
        let all = owner.get("/api/atlas/v2/orgs").await.expect(200);
        assert_eq!(all.body["totalCount"], 2);
        assert_eq!(owner.get("/api/atlas/v2/orgs?name=Ren").await.body["totalCount"], 1);
        let project = owner.post("/api/atlas/v2/groups", json!({"name": "P", "orgId": id})).await.expect(201);
        owner.delete(&path).await.refused(409, "CANNOT_DELETE_ORG_ACTIVE_GROUPS");
        owner.delete(&format!("/api/atlas/v2/groups/{}", project.body["id"].as_str().unwrap())).await.expect(202);
        owner.delete(&path).await.expect(204);
        owner.get(&path).await.refused(404, "ORG_NOT_FOUND");
        let member = site.org_key(&["ORG_MEMBER"]).await;
        site.caller(&member).post("/api/atlas/v2/orgs", json!({"name": "x"})).await.refused(401, "USER_UNAUTHORIZED");
        site.caller(&member).post("/api/atlas/v2/groups", json!({"name": "x", "orgId": site.org})).await.refused(401, "NOT_ORG_GROUP_CREATOR");
    }
}

/// Clients read these as arrays and objects: they must be there even when empty.
#[tokio::test]
async fn lists_are_never_missing() {
    let site = Site::start(Database::Sqlite).await.unwrap();
    let project = site.project("P").await;
    let owner = site.owner();
    for path in ["apiKeys", "serviceAccounts", "users", "teams"] {
        let answer = owner.get(&format!("/api/atlas/v2/groups/{project}/{path}")).await.expect(200);
        assert!(
            answer.body["results"].is_array() && answer.body["links"].is_array(),
            "{path}: {}",
            answer.text
        );
    }
}
