//! The audit log as Atlas' clients read it.

use serde_json::{Value, json};

use crate::site::{Database, Site};

on_each_database! {
    async fn are_listed_newest_first_with_who_and_from_where(site: Site) {
        let project = site.project("Events").await;
        let (owner, events) = (site.owner(), format!("/api/atlas/v2/groups/{project}/events"));
        site.advance_ms(5_000);
        let window = format!("/api/atlas/v2/groups/{project}/maintenanceWindow");
        owner.patch(&window, json!({"dayOfWeek": 3})).await.expect(200);

        let listed = owner.get(&events).await.expect(200).body;
        assert_eq!(listed["totalCount"], 2);
        let newest = listed["results"][0].clone();
        assert_eq!(newest["eventTypeName"], "ATLAS_MAINTENANCE_WINDOW_ADDED");
        assert_eq!(listed["results"][1]["eventTypeName"], "GROUP_CREATED");
        assert_eq!((&newest["groupId"], &newest["orgId"]), (&json!(project), &json!(site.org)));
        assert_eq!((&newest["publicKey"], &newest["isGlobalAdmin"]), (&json!(site.owner.public), &json!(false)));
        assert_eq!(newest["apiKeyId"].as_str().unwrap().len(), 24);
        assert_eq!(newest["remoteAddress"], "127.0.0.1");
        let created = newest["created"].as_str().unwrap();
        assert!(created.ends_with('Z') && !created.contains('.'), "{created}");

        let one = format!("{events}/{}", newest["id"].as_str().unwrap());
        assert_eq!(owner.get(&one).await.expect(200).body, newest);
        assert_eq!(newest["raw"], Value::Null);
        let raw = owner.get(&format!("{one}?includeRaw=true")).await.expect(200).body["raw"].clone();
        assert_eq!(raw["cid"], project);
        owner.get(&format!("{events}/0123456789abcdef01234567")).await.refused(404, "EVENT_NOT_FOUND");
        owner.get(&format!("{events}/nonsense")).await.refused(404, "EVENT_NOT_FOUND");

        let count = |query: String| {
            let (owner, events) = (owner.clone(), events.clone());
            async move { owner.get(&format!("{events}?{query}")).await.expect(200).body["totalCount"].as_u64().unwrap() }
        };
        assert_eq!(count("eventType=GROUP_CREATED".into()).await, 1);
        assert_eq!(count("eventType=GROUP_CREATED,ATLAS_MAINTENANCE_WINDOW_ADDED".into()).await, 2);
        assert_eq!(count("eventType=GROUP_CREATED&eventType=CLUSTER_CREATED".into()).await, 1);
        assert_eq!(count("eventType=AUTO_INDEXING_ENABLED".into()).await, 0, "Atlas' types that we do not have");
        assert_eq!(count("eventType=KEYWARD_NODE_ENROLLED".into()).await, 0, "ours stand on our own route");
        assert_eq!(count("excludedEventType=GROUP_CREATED".into()).await, 1);
        assert_eq!(count("clusterNames=orders".into()).await, 0);
        assert_eq!(count(format!("minDate={created}")).await, 1);
        assert_eq!(count("maxDate=2001-01-01T00:00:00Z".into()).await, 0);
        for wrong in ["eventType=no+such", "minDate=yesterday", "includeRaw=perhaps", "pageNum=0"] {
            owner.get(&format!("{events}?{wrong}")).await.refused(400, "INVALID_QUERY_PARAMETER");
        }
        let ours = format!("/api/keyward/v1/groups/{project}/events");
        for (route, parameter, value, named) in [
            (&events, "eventType", "GROUP_CREATED,group_created", "group_created"),
            (&events, "excludedEventType", "group_created", "group_created"),
            (&ours, "eventType", "KEYWARD_NODE_ENROLED", "KEYWARD_NODE_ENROLED"),
            (&ours, "eventType", "AUTO_INDEXING_ENABLED", "AUTO_INDEXING_ENABLED"),
        ] {
            let refused = owner.get(&format!("{route}?{parameter}={value}")).await.refused(400, "INVALID_QUERY_PARAMETER");
            assert_eq!(refused.body["parameters"], json!([parameter]));
            let detail = refused.body["detail"].as_str().unwrap();
            assert!(detail.contains(&format!("{parameter} names {named}, which is not")), "{detail}");
            assert!(detail.contains("/api/atlas/v2/eventTypes"), "{detail}");
        }
        owner.get(&format!("{ours}?eventType=KEYWARD_NODE_ENROLLED")).await.expect(200);
    }

    async fn of_an_organization_are_its_own_and_ours_are_on_our_route(site: Site) {
        let project = site.project("Own").await;
        let owner = site.owner();
        let org = format!("/api/atlas/v2/orgs/{}/events", site.org);
        let listed = owner.get(&org).await.expect(200).body;
        let types: Vec<&str> =
            listed["results"].as_array().unwrap().iter().map(|event| event["eventTypeName"].as_str().unwrap()).collect();
        assert!(!types.contains(&"GROUP_CREATED"), "a project's events are the project's: {types:?}");
        let token = format!("/api/keyward/v1/groups/{project}/joinTokens");
        owner.post(&token, json!({"name": "db1"})).await;
        let ours = owner.get(&format!("/api/keyward/v1/groups/{project}/events")).await.expect(200).body;
        assert_eq!(ours["results"][0]["type"], "KEYWARD_JOIN_TOKEN_CREATED");
        assert!(ours["results"][0]["text"].as_str().unwrap().ends_with('.'));
        let atlas = owner.get(&format!("/api/atlas/v2/groups/{project}/events")).await.expect(200).body;
        assert_eq!(atlas["totalCount"], 1, "clients of Atlas see types that they know");

        let types = owner.get("/api/atlas/v2/eventTypes?itemsPerPage=500").await.expect(200).body;
        let types = types["results"].as_array().unwrap();
        let of = |name: &str| types.iter().find(|one| one["eventType"] == name).cloned().unwrap();
        assert_eq!(of("AZURE_ENCRYPTION_KEY_NEEDS_ROTATION")["alertable"], true);
        assert_eq!(of("GROUP_CREATED")["alertable"], false);
        assert!(types.iter().all(|one| !one["eventType"].as_str().unwrap().starts_with("KEYWARD_")));

        let stranger = site.org_key(&["ORG_MEMBER"]).await;
        let answer = site.caller(&stranger).get(&format!("/api/atlas/v2/groups/{project}/events")).await;
        assert!(matches!(answer.status, 401 | 403 | 404), "{}", answer.text);
    }
}
