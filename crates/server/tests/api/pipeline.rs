//! What every request goes through: signing in, versions, limits, and the form of answers.

use serde_json::{Value, json};

use crate::site::{Answer, Database, Site, nonce_of, sign};

on_each_database! {
    /// The bare request, with its whole body, gets the exact challenge before anything is validated.
    async fn an_unsigned_request_gets_the_challenge(site: Site) {
        for (method, path, body) in [
            ("GET", "/api/atlas/v2/groups", ""),
            ("POST", "/api/atlas/v2/groups", "{ this is no json"),
            ("PATCH", "/api/atlas/v2/groups/nonsense/encryptionAtRest", "[]"),
            ("GET", "/api/atlas/v2/no/such/path", ""),
            ("DELETE", "/api/atlas/v2/groups", ""),
        ] {
            let request = site.plain(method, path).header("accept", "nonsense").body(body.to_owned());
            let answer = Answer::of(request.send().await.unwrap()).await.expect(401);
            let challenge = answer.header("www-authenticate").to_owned();
            let nonce = nonce_of(&challenge);
            assert_eq!(nonce.len(), 32);
            assert_eq!(
                challenge,
                format!("Digest realm=\"MMS Public API\", domain=\"\", nonce=\"{nonce}\", algorithm=MD5, qop=\"auth\", stale=false")
            );
            assert_eq!(answer.header("content-type"), "application/json");
            assert_eq!(
                answer.body,
                json!({"error": 401, "reason": "Unauthorized", "detail": "You are not authorized for this resource.",
                       "errorCode": "UNEXPECTED_ERROR", "parameters": []})
            );
        }
    }

    async fn a_nonce_is_good_for_minutes_and_no_counter_twice(site: Site) {
        let challenge = Answer::of(site.plain("GET", "/api/atlas/v2/orgs").send().await.unwrap()).await;
        let nonce = nonce_of(challenge.header("www-authenticate"));
        let get = async |nonce: &str, nc| {
            let signature = sign(&site.owner, nonce, nc, "GET", "/api/atlas/v2/orgs");
            let request = site.plain("GET", "/api/atlas/v2/orgs").header("authorization", signature);
            Answer::of(request.send().await.unwrap()).await
        };
        let stale = |answer: Answer| {
            let answer = answer.expect(401);
            assert!(answer.header("www-authenticate").ends_with("stale=true"), "{answer:?}");
            nonce_of(answer.header("www-authenticate"))
        };
        get(&nonce, 1).await.expect(200);
        get(&nonce, 2).await.expect(200);
        stale(get(&nonce, 2).await);
        stale(get(&nonce, 1).await);
        get(&nonce, 7).await.expect(200);
        site.advance_ms(299_000);
        get(&nonce, 8).await.expect(200);
        site.advance_ms(2_000);
        let fresh = stale(get(&nonce, 9).await);
        get(&fresh, 1).await.expect(200);
        // A nonce that nobody gave out, signed with the right key, is answered with one of ours.
        stale(get("QUJDREVGR0hJSktMTU5PUFFSU1RVVldY", 1).await);
    }

    async fn a_signature_holds_for_its_key_method_and_target_alone(site: Site) {
        let nonce = async || {
            let bare = Answer::of(site.plain("GET", "/api/atlas/v2/orgs").send().await.unwrap()).await;
            nonce_of(bare.header("www-authenticate"))
        };
        let with = async |method: &str, path: &str, signature: String| {
            let request = site.plain(method, path).header("authorization", signature);
            Answer::of(request.send().await.unwrap()).await
        };
        let orgs = "/api/atlas/v2/orgs";
        with("GET", orgs, sign(&site.owner, &nonce().await, 1, "GET", orgs)).await.expect(200);
        with("POST", orgs, sign(&site.owner, &nonce().await, 1, "GET", orgs)).await.expect(401);
        with("GET", "/api/atlas/v2/groups", sign(&site.owner, &nonce().await, 1, "GET", orgs)).await.expect(401);
        with("GET", "/api/atlas/v2/orgs?pretty=true", sign(&site.owner, &nonce().await, 1, "GET", orgs)).await.expect(401);
        let mut wrong = site.owner.clone();
        wrong.private = "00000000-0000-4000-8000-000000000000".to_owned();
        let refused = with("GET", orgs, sign(&wrong, &nonce().await, 1, "GET", orgs)).await.expect(401);
        assert!(refused.header("www-authenticate").ends_with("stale=false"));
        wrong.public = "zzzzzzzz".to_owned();
        with("GET", orgs, sign(&wrong, &nonce().await, 1, "GET", orgs)).await.expect(401);
        for odd in ["Digest", "Digest x", "Basic eDp5", "Bearer", "Bearer kwt_x", "Negotiate x"] {
            with("GET", orgs, odd.to_owned()).await.expect(401);
        }
    }

    async fn guessing_is_limited_by_name_and_by_address(site: Site) {
        let path = "/api/atlas/v2/orgs";
        let mut wrong = site.owner.clone();
        wrong.private = "guess".to_owned();
        let bare = Answer::of(site.plain("GET", path).send().await.unwrap()).await;
        let nonce = nonce_of(bare.header("www-authenticate"));
        let guess = async || {
            let signature = sign(&wrong, &nonce, 1, "GET", path);
            Answer::of(site.plain("GET", path).header("authorization", signature).send().await.unwrap()).await
        };
        let mut answers = Vec::new();
        for _ in 0..25 {
            answers.push(guess().await);
        }
        assert!(answers[..20].iter().all(|answer| answer.status == 401));
        let limited = answers[20].clone().refused(429, "RATE_LIMITED");
        let wait: i64 = limited.header("retry-after").parse().unwrap();
        assert!((1..=60).contains(&wait), "{wait}");
        // Who has the key is let in all the same: nobody can lock an owner out by guessing.
        let signature = sign(&site.owner, &nonce, 1, "GET", path);
        let right = site.plain("GET", path).header("authorization", &signature).send().await.unwrap();
        assert_eq!(right.status(), 200);
        site.advance_ms((wait + 60) * 1000);
        assert_eq!(guess().await.status, 401, "after the wait a guess is a guess again");
        // Tokens are guessed without a name: the address is what is limited.
        let mut statuses = Vec::new();
        for index in 0..60 {
            let guess = site.plain("GET", path).header("authorization", format!("Bearer kwt_{index}"));
            statuses.push(guess.send().await.unwrap().status().as_u16());
        }
        assert_eq!(statuses[0], 401);
        assert_eq!(*statuses.last().unwrap(), 429);
    }

    async fn versions_are_resolved_and_said(site: Site) {
        let owner = site.owner();
        let media = |version: &str| format!("application/vnd.atlas.{version}+json");
        for (asked, answered) in [("2023-01-01", "2023-01-01"), ("2024-05-30", "2023-01-01"), ("2025-03-12", "2023-01-01")] {
            let answer = owner.send_bytes("GET", "/api/atlas/v2/orgs", None, &media(asked)).await.expect(200);
            assert_eq!(answer.header("content-type"), format!("application/vnd.atlas.{answered}+json;charset=utf-8"));
            assert!(answer.header("deprecation").is_empty());
        }
        for wrong in [media("2022-01-01"), media("nonsense"), media("preview"), "text/html".to_owned()] {
            let answer = owner.send_bytes("GET", "/api/atlas/v2/orgs", None, &wrong).await.expect(406);
            assert_eq!(
                answer.body,
                json!({"detail": "Invalid accept header or version date.", "error": 406,
                       "errorCode": "INVALID_VERSION_DATE", "parameters": [], "reason": "Not Acceptable"})
            );
        }
        let plain = owner.send_bytes("GET", "/api/atlas/v2/orgs", None, "application/json").await.expect(200);
        assert_eq!(plain.header("content-type"), "application/vnd.atlas.2023-01-01+json;charset=utf-8");
        // An older version of an operation that has a newer one says so.
        let path = format!("/api/atlas/v2/orgs/{}/users", site.org);
        let old = owner.send_bytes("GET", &path, None, &media("2023-01-01")).await.expect(200);
        assert_eq!(old.header("deprecation"), "Wed, 19 Feb 2025 00:00:00 GMT");
        assert_eq!(old.header("sunset"), "Thu, 01 Jul 2027 00:00:00 GMT");
        let new = owner.send_bytes("GET", &path, None, &media("2025-02-19")).await.expect(200);
        assert!(new.header("deprecation").is_empty() && new.header("sunset").is_empty());
        // The body's media type may be plain JSON; the version then comes from Accept.
        let challenge = Answer::of(site.plain("PATCH", "/").send().await.unwrap()).await;
        assert_eq!(challenge.status, 404, "only /api is an API");
    }

    async fn what_does_not_exist_and_what_is_not_built_is_told_apart(site: Site) {
        let owner = site.owner();
        owner.get("/api/atlas/v2/no/such/path").await.refused(404, "RESOURCE_NOT_FOUND");
        let answer = owner.put("/api/atlas/v2/groups", json!({})).await.refused(405, "METHOD_NOT_ALLOWED");
        assert_eq!(answer.header("allow"), "GET, POST");
        let path = format!("/api/atlas/v2/orgs/{}/maintenanceSettings", site.org);
        let answer = owner.version("preview").get(&path).await.refused(501, "NOT_IMPLEMENTED");
        assert!(answer.body["detail"].as_str().unwrap().contains("getOrgMaintenanceSettings"), "{}", answer.text);
        for method in ["PATCH", "PUT", "POST", "DELETE"] {
            assert_eq!(owner.send(method, "/api/atlas/v1.0/groups", None).await.status, 404);
        }
    }

    async fn pretty_envelope_and_pages(site: Site) {
        let owner = site.owner();
        for index in 0..5 {
            site.project(&format!("Project {index}")).await;
        }
        let pretty = owner.get("/api/atlas/v2/groups?pretty=true").await.expect(200);
        assert!(pretty.text.contains("\n  \"links\""), "{}", pretty.text);
        let list = owner.get("/api/atlas/v2/groups?envelope=true&itemsPerPage=2").await.expect(200);
        assert_eq!((&list.body["status"], &list.body["totalCount"]), (&json!(200), &json!(5)));
        let one = owner.get(&format!("/api/atlas/v2/orgs/{}?envelope=true", site.org)).await.expect(200);
        assert_eq!((&one.body["status"], &one.body["content"]["id"]), (&json!(200), &json!(site.org)));
        let bare = owner.get("/api/atlas/v2/groups?includeCount=false").await.expect(200);
        assert!(bare.body.get("totalCount").is_none());
        // Follow `next` to the end.
        let mut path = "/api/atlas/v2/groups?itemsPerPage=2".to_owned();
        let mut seen = Vec::new();
        for pages in 1.. {
            let page = owner.get(&path).await.expect(200);
            seen.extend(page.body["results"].as_array().unwrap().iter().map(|project| project["name"].clone()));
            let link = |rel: &str| {
                let links = page.body["links"].as_array().unwrap();
                links.iter().find(|link| link["rel"] == rel).map(|link| link["href"].as_str().unwrap().to_owned())
            };
            assert!(link("self").unwrap().starts_with(&site.url), "{}", page.text);
            assert_eq!(link("previous").is_some(), pages > 1);
            match link("next") {
                Some(next) => path = next.trim_start_matches(&site.url).to_owned(),
                None => {
                    assert_eq!(pages, 3);
                    break;
                }
            }
        }
        seen.sort_by_key(Value::to_string);
        assert_eq!(json!(seen), json!(["Project 0", "Project 1", "Project 2", "Project 3", "Project 4"]));
        for query in ["pageNum=0", "itemsPerPage=501", "itemsPerPage=x", "pretty=maybe", "envelope=1"] {
            owner.get(&format!("/api/atlas/v2/groups?{query}")).await.refused(400, "INVALID_QUERY_PARAMETER");
        }
    }

    async fn bad_bodies_are_refused_and_nothing_is_stored(site: Site) {
        let owner = site.owner();
        let before = site.events().await;
        let json_type = "application/vnd.atlas.2023-01-01+json";
        let org = site.org;
        let post = async |body: Vec<u8>, media_type: &str| owner.send_bytes("POST", "/api/atlas/v2/groups", Some(body), media_type).await;
        for (body, code) in [
            ("{".to_owned(), "MALFORMED_JSON"),
            ("nonsense".to_owned(), "MALFORMED_JSON"),
            (format!("{{\"name\":\"a\",\"name\":\"b\",\"orgId\":\"{org}\"}}"), "INVALID_JSON"),
            (format!("{}{}", "[".repeat(5000), "]".repeat(5000)), "INVALID_JSON"),
            ("[]".to_owned(), "INVALID_ATTRIBUTE"),
            ("null".to_owned(), "INVALID_ATTRIBUTE"),
            (format!("{{\"name\":7,\"orgId\":\"{org}\"}}"), "INVALID_ATTRIBUTE"),
            (format!("{{\"name\":\"a\",\"orgId\":\"{org}\",\"colour\":\"red\"}}"), "INVALID_ATTRIBUTE"),
            (format!("{{\"name\":\"{}\",\"orgId\":\"{org}\"}}", "a".repeat(65)), "INVALID_ATTRIBUTE"),
            (format!("{{\"name\":\"a\\u0000b\",\"orgId\":\"{org}\"}}"), "INVALID_ATTRIBUTE"),
            (format!("{{\"name\":\"<script>\",\"orgId\":\"{org}\"}}"), "INVALID_ATTRIBUTE"),
            (format!("{{\"orgId\":\"{org}\"}}"), "MISSING_ATTRIBUTE"),
            ("{\"name\":\"a\",\"orgId\":\"nonsense\"}".to_owned(), "INVALID_ATTRIBUTE"),
            (format!("{{\"name\":\"a\",\"orgId\":\"{org}\",\"regionUsageRestrictions\":\"MOON\"}}"), "INVALID_ENUM_VALUE"),
        ] {
            let answer = post(body.clone().into_bytes(), json_type).await;
            assert_eq!((answer.status, answer.code()), (400, code), "{}: {}", &body[..body.len().min(80)], answer.text);
        }
        post(vec![b' '; (1 << 20) + 1], json_type).await.refused(413, "REQUEST_TOO_LARGE");
        let foreign = json!({"name": "a", "orgId": "5f3a0c9e8d7b6a5f4e3d2c1b"});
        owner.post("/api/atlas/v2/groups", foreign).await.refused(404, "ORG_NOT_FOUND");
        owner.send_bytes("POST", "/api/atlas/v2/groups", None, json_type).await.refused(400, "INVALID_JSON");
        assert_eq!(site.events().await, before);
        assert_eq!(owner.get("/api/atlas/v2/groups").await.body["totalCount"], 0);
    }

    async fn a_body_of_another_media_type_is_not_read(site: Site) {
        let signed = async |media_type: &str| {
            let path = "/api/atlas/v2/groups";
            let bare = Answer::of(site.plain("POST", path).send().await.unwrap()).await;
            let signature = sign(&site.owner, &nonce_of(bare.header("www-authenticate")), 1, "POST", path);
            let request = site
                .plain("POST", path)
                .header("authorization", signature)
                .header("accept", "application/vnd.atlas.2023-01-01+json")
                .header("content-type", media_type)
                .body(json!({"name": "a", "orgId": site.org}).to_string());
            Answer::of(request.send().await.unwrap()).await
        };
        signed("text/xml").await.refused(415, "UNSUPPORTED_MEDIA_TYPE");
        signed("multipart/form-data; boundary=x").await.refused(415, "UNSUPPORTED_MEDIA_TYPE");
        signed("application/json").await.expect(201);
    }

    async fn clients_beside_the_documented_api_are_answered(site: Site) {
        let open = async |method: &str, path: &str| {
            Answer::of(site.plain(method, path).body("[{\"x\":1}]").send().await.unwrap()).await
        };
        let version = open("GET", "/api/private/unauth/nds/defaultMongoDBMajorVersion").await.expect(200);
        assert_eq!((version.text.as_str(), version.header("content-type")), ("8.0", "text/plain;charset=utf-8"));
        let ip = open("GET", "/api/private/ipinfo").await.expect(200);
        assert_eq!(ip.body, json!({"currentIpv4Address": "127.0.0.1"}));
        open("POST", "/api/private/unauth/telemetry/events").await.expect(204);
        open("POST", "/api/private/v1.0/telemetry/events").await.expect(401);
        site.owner().post("/api/private/v1.0/telemetry/events", json!([])).await.expect(204);
    }
}
