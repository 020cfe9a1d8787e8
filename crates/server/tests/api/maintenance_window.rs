//! The maintenance window, as Atlas' clients use it.

use serde_json::{Value, json};

use crate::site::{Database, Site};

fn path(project: &str) -> String {
    format!("/api/atlas/v2/groups/{project}/maintenanceWindow")
}

on_each_database! {
    async fn reads_patches_and_resets(site: Site) {
        let project = site.project("Windows").await;
        let (owner, path) = (site.owner(), path(&project));
        let unset = json!({
            "autoDeferOnceEnabled": false, "dayOfWeek": 1, "hourOfDay": 1, "numberOfDeferrals": 0,
            "startASAP": false, "timeZoneId": "UTC",
        });
        assert_eq!(owner.get(&path).await.expect(200).body, unset);

        let events = site.events().await;
        let set = owner.patch(&path, json!({"dayOfWeek": 7, "hourOfDay": 4})).await.expect(200);
        // Atlas answers without a body, and names the media type elsewhere.
        assert_eq!((set.text.as_str(), set.header("content-type")), ("", ""));
        assert_eq!(set.header("x-content-type"), "application/vnd.atlas.2023-01-01+json;charset=utf-8");
        assert_eq!(site.events().await, events + 1);

        // Everything that was answered can be sent back; nothing changes, and nothing is told.
        let whole = owner.get(&path).await.expect(200).body;
        assert_eq!((&whole["dayOfWeek"], &whole["hourOfDay"]), (&json!(7), &json!(4)));
        owner.patch(&path, whole).await.expect(200);
        assert_eq!(site.events().await, events + 1);

        // TF sends the day always, the hour when it changed.
        owner.patch(&path, json!({"dayOfWeek": 2})).await.expect(200);
        assert_eq!(owner.get(&path).await.body["hourOfDay"], 4);
        let hours = json!({"startHourOfDay": 8, "endHourOfDay": 18});
        owner.patch(&path, json!({"dayOfWeek": 2, "protectedHours": hours})).await.expect(200);
        assert_eq!(owner.get(&path).await.body["protectedHours"], hours);
        owner.patch(&path, json!({"dayOfWeek": 2, "protectedHours": {}})).await.expect(200);
        assert_eq!(owner.get(&path).await.body["protectedHours"], Value::Null);
        let types = event_types(&site, &project).await;
        assert_eq!(types[..5], [
            "ATLAS_MAINTENANCE_PROTECTED_HOURS_REMOVED",
            "ATLAS_MAINTENANCE_PROTECTED_HOURS_CREATED",
            "ATLAS_MAINTENANCE_WINDOW_MODIFIED",
            "ATLAS_MAINTENANCE_WINDOW_ADDED",
            "GROUP_CREATED",
        ]);

        let reset = owner.delete(&path).await.expect(204);
        assert_eq!(reset.text, "");
        assert_eq!(owner.get(&path).await.body, unset);
        owner.delete(&path).await.expect(204);
    }

    async fn deferring_needs_a_window_and_something_to_defer(site: Site) {
        let project = site.project("Deferrals").await;
        let (owner, path) = (site.owner(), path(&project));
        let (defer, auto) = (format!("{path}/defer"), format!("{path}/autoDefer"));
        let post = |path: String| {
            let owner = owner.clone();
            async move { owner.send("POST", &path, None).await }
        };
        // Complaint 8: these two were called in the wrong order, and the answers said too little.
        let undefined = post(auto.clone()).await.refused(400, "ATLAS_MAINTENANCE_WINDOW_NOT_DEFINED");
        assert!(undefined.body["detail"].as_str().unwrap().contains("PATCH maintenanceWindow"), "{}", undefined.text);
        post(defer.clone()).await.refused(400, "ATLAS_MAINTENANCE_NOT_SCHEDULED");
        owner.patch(&path, json!({"dayOfWeek": 1, "hourOfDay": 2})).await.expect(200);
        post(auto.clone()).await.expect(200);
        assert_eq!(owner.get(&path).await.body["autoDeferOnceEnabled"], true);
        post(auto).await.expect(200);
        assert_eq!(owner.get(&path).await.body["autoDeferOnceEnabled"], false);
        owner.patch(&path, json!({"dayOfWeek": 1, "autoDeferOnceEnabled": true})).await.expect(200);
        assert_eq!(owner.get(&path).await.body["autoDeferOnceEnabled"], true);
        post(defer).await.refused(400, "ATLAS_MAINTENANCE_NOT_SCHEDULED");
        owner
            .patch(&path, json!({"dayOfWeek": 1, "startASAP": true}))
            .await
            .refused(400, "ATLAS_MAINTENANCE_NOT_SCHEDULED");
    }

    async fn refuses_what_does_not_hold_together_and_stores_nothing(site: Site) {
        let project = site.project("Refusals").await;
        let (owner, path) = (site.owner(), path(&project));
        owner.patch(&path, json!({"hourOfDay": 2})).await.refused(400, "MISSING_ATTRIBUTE");
        let cases = [
            (json!({"dayOfWeek": 0}), "dayOfWeek"),
            (json!({"dayOfWeek": 8}), "dayOfWeek"),
            (json!({"dayOfWeek": "monday"}), "dayOfWeek"),
            (json!({"dayOfWeek": 1.5}), "dayOfWeek"),
            (json!({"dayOfWeek": 1, "hourOfDay": 24}), "hourOfDay"),
            (json!({"dayOfWeek": 1, "hourOfDay": -1}), "hourOfDay"),
            (json!({"dayOfWeek": 1, "numberOfDeferrals": 1}), "numberOfDeferrals"),
            (json!({"dayOfWeek": 1, "timeZoneId": "Europe/Berlin"}), "timeZoneId"),
            (json!({"dayOfWeek": 1, "surprise": true}), "surprise"),
            (json!({"dayOfWeek": 1, "protectedHours": {"startHourOfDay": 24, "endHourOfDay": 1}}), "protectedHours"),
            (json!({"dayOfWeek": 1, "hourOfDay": 2, "protectedHours": {"startHourOfDay": 1, "endHourOfDay": 3}}), "protectedHours"),
            (json!({"dayOfWeek": 1, "hourOfDay": 2, "protectedHours": {"startHourOfDay": 5, "endHourOfDay": 5}}), "protectedHours"),
        ];
        let events = site.events().await;
        for (body, field) in cases {
            let refused = owner.patch(&path, body).await.refused(400, "INVALID_ATTRIBUTE");
            assert!(refused.body["parameters"][0].as_str().unwrap().starts_with(field), "{}", refused.text);
        }
        let half = json!({"dayOfWeek": 1, "protectedHours": {"startHourOfDay": 5}});
        owner.patch(&path, half).await.refused(400, "MISSING_ATTRIBUTE");
        assert_eq!(site.events().await, events);
        assert_eq!(owner.get(&path).await.body["dayOfWeek"], 1);

        // What the preview adds is not built, and is not pretended.
        let preview = owner.version("preview");
        preview.get(&path).await.refused(501, "NOT_IMPLEMENTED");
        preview.patch(&path, json!({"dayOfWeek": 1})).await.refused(501, "NOT_IMPLEMENTED");

        let reader = site.project_key(&project, &["GROUP_READ_ONLY"]).await;
        let reader = site.caller(&reader);
        reader.get(&path).await.expect(200);
        reader.patch(&path, json!({"dayOfWeek": 1})).await.refused(401, "USER_UNAUTHORIZED");
        reader.delete(&path).await.refused(401, "USER_UNAUTHORIZED");
    }
}

async fn event_types(site: &Site, project: &str) -> Vec<String> {
    let answer = site.owner().get(&format!("/api/atlas/v2/groups/{project}/events")).await.expect(200);
    let events = answer.body["results"].as_array().unwrap();
    events.iter().map(|event| event["eventTypeName"].as_str().unwrap().to_owned()).collect()
}
