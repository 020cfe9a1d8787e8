//! `keyward login`: who is let in, what stands in the way, and what is left of it.

use serde_json::Value;

use crate::site::Site;

#[tokio::test(flavor = "multi_thread")]
async fn login_prints_a_token_that_opens_the_api_and_keeps_one_account() {
    let site = Site::start().await;
    site.login().await;
    let token = site.says(&["login", "--print-token"]).await;
    let pem = std::fs::read(&site.ca_file).unwrap();
    let client = reqwest::Client::builder()
        .tls_certs_only([reqwest::Certificate::from_pem(&pem).unwrap()])
        .build()
        .unwrap();
    let orgs = client
        .get(format!("{}/api/atlas/v2/orgs", site.url))
        .header("accept", "application/vnd.atlas.2023-01-01+json")
        .bearer_auth(token.trim())
        .send()
        .await
        .unwrap();
    assert_eq!(orgs.status(), 200);
    site.says(&["login", "--print-token"]).await;
    let org = site.json(&["org", "list"]).await[0]["id"].as_str().unwrap().to_owned();
    let accounts: Value = client
        .get(format!("{}/api/atlas/v2/orgs/{org}/serviceAccounts", site.url))
        .header("accept", "application/vnd.atlas.2024-08-05+json")
        .bearer_auth(token.trim())
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    assert_eq!(accounts["totalCount"], 1, "{accounts}");

    // With a project, the account owns it too; its roles can be given and taken like anyone's.
    site.says(&["project", "create", "payments"]).await;
    site.login().await;
    site.says(&["login", "--project", "payments", "--print-token"]).await;
    let members = site.json(&["project", "member", "list"]).await;
    let account = members.as_array().unwrap().iter().find(|member| member["kind"] == "service account");
    let account = account.unwrap_or_else(|| panic!("no service account: {members}"));
    assert_eq!(account["roles"], serde_json::json!(["GROUP_OWNER"]));
    let account = account["name"].as_str().unwrap();
    site.says(&["project", "member", "remove", account]).await;
    site.says(&["project", "member", "add", account, "--role", "read-only"]).await;
    site.says(&["project", "member", "add", "alice@example.com", "--role", "owner"]).await;
    let members = site.says(&["project", "member", "list"]).await;
    assert!(members.contains("GROUP_READ_ONLY") && members.contains("alice@example.com"), "{members}");

    // A key that the server does not know is not kept.
    let ca_file = site.ca_file.to_str().unwrap();
    let words =
        ["login", "--url", &site.url, "--ca-file", ca_file, "--public-key", "zzzzzzzz", "--secret-file", "-"];
    let output = site.run(&words, "wrong\n").await;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.starts_with("error: the server does not accept zzzzzzzz"), "{said}");
    site.says(&["org", "list"]).await;
    site.stop().await;
}

/// What a person reads when a login fails: each obstacle with advice of its own, and nothing is kept of it.
#[tokio::test(flavor = "multi_thread")]
async fn what_stands_in_the_way_is_told_apart() {
    let site = Site::start().await;
    // Certificates hold for about a year; this server made its own three years ago.
    let late = Site::start_at(-3 * 365 * 24 * 3_600_000).await;
    let port = |listener: &std::net::TcpListener| listener.local_addr().unwrap().port();
    let closed = port(&std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap());
    let plain = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let no_tls = format!("https://localhost:{}", port(&plain));
    std::thread::spawn(move || {
        for stream in plain.incoming().map_while(Result::ok) {
            let _ = std::io::Write::write_all(&mut &stream, b"HTTP/1.1 400 Bad Request\r\n\r\n");
            let _ = std::io::copy(&mut &stream, &mut std::io::sink());
        }
    });
    let vault = site.vault();
    let (ours, theirs) = (site.ca_file.to_str().unwrap(), late.ca_file.to_str().unwrap());
    let vault_ca = vault.ca_file.to_str().unwrap();
    let closed = format!("https://localhost:{closed}");
    let cases = [
        (closed.as_str(), ours, "nobody listens there", "keyward server run"),
        (
            "https://no-such-host.invalid",
            ours,
            "its name leads nowhere",
            "check the name no-such-host.invalid",
        ),
        (&site.url, theirs, "under an authority that is not trusted", "--ca-file"),
        (&site.url, vault_ca, "under an authority that is not trusted", "--ca-file"),
        (&site.url, "", "under an authority that is not trusted", "--ca-file"),
        (&late.url, theirs, "its certificate does not hold now", "clock"),
        (no_tls.as_str(), ours, "speaks no TLS", "check host and port"),
        (&vault.url, vault_ca, "the server answers with status", "is that of a keyward server"),
    ];
    for (url, ca_file, what, advice) in cases {
        let mut words = vec!["login", "--url", url, "--public-key", "abcdefgh", "--secret-file", "-"];
        if !ca_file.is_empty() {
            words.extend(["--ca-file", ca_file]);
        }
        let (code, said) = site.fails_with(&words, "private\n").await;
        assert_eq!(code, 1, "{said}");
        let (head, hint) = said.rsplit_once("hint: ").unwrap();
        assert!(head.contains(what) && hint.contains(advice), "{url} with {ca_file}: {said}");
        assert!(!said.contains("private"), "{said}");
    }

    // Who is known to the server, and who is not.
    let words = site.login_words();
    let (code, said) = site.fails_with(&words, "wrong\n").await;
    assert!(
        code == 1 && said.starts_with(&format!("error: the server does not accept {}", site.public_key)),
        "{said}"
    );
    let account =
        ["login", "--url", &site.url, "--ca-file", ours, "--client-id", "mdb_sa_id_0123456789abcdef01234567"];
    let account: Vec<&str> = account.into_iter().chain(["--secret-file", "-"]).collect();
    let (code, said) = site.fails_with(&account, "mdb_sa_sk_wrong\n").await;
    assert!(code == 1 && said.contains("gets no token") && said.contains("check its secret"), "{said}");
    let (code, said) = site.fails_with(&words, "\n").await;
    assert!(code == 2 && said.contains("the private key is empty"), "{said}");

    assert!(!site.profiles().exists(), "something is kept of a login that failed");
    // The positive control: the same words, the right key.
    site.login().await;
    assert!(site.profiles().exists());
    late.stop().await;
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_cannot_be_had_leaves_no_account_behind() {
    let site = Site::start().await;
    site.login().await;
    site.says(&["project", "create", "payments"]).await;
    let org = site.json(&["org", "list"]).await[0]["id"].as_str().unwrap().to_owned();
    let accounts = format!("/api/atlas/v2/orgs/{org}/serviceAccounts");
    let names = async || {
        let list = site.call("GET", &accounts, "2024-08-05", None).await;
        let all = list["results"].as_array().unwrap().clone();
        all.iter().map(|one| one["clientId"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let before = names().await;
    assert_eq!(before.len(), 1, "the one whose token asks");

    // Another owner, whose profile names a project that is gone meanwhile: the account is made, its invitation refused.
    let key = serde_json::json!({ "desc": "second owner", "roles": ["ORG_OWNER"] });
    let key = site.call("POST", &format!("/api/atlas/v2/orgs/{org}/apiKeys"), "2023-01-01", Some(key)).await;
    let (public, private) = (key["publicKey"].as_str().unwrap(), key["privateKey"].as_str().unwrap());
    let ca_file = site.ca_file.to_str().unwrap();
    let login =
        ["login", "--profile", "second", "--url", &site.url, "--ca-file", ca_file, "--public-key", public];
    let login: Vec<&str> = login.into_iter().chain(["--secret-file", "-", "--project", "payments"]).collect();
    site.says_with(&login, private).await;
    site.says(&["project", "delete", "payments", "--yes"]).await;
    let print = ["login", "--profile", "second", "--print-token"];
    let (code, said) = site.fails(&print).await;
    assert!(code == 1 && said.contains("(status 404)"), "{said}");
    assert_eq!(names().await, before, "an account is left");
    let events = site.json(&["event", "list", "--org", &org]).await.to_string();
    assert!(events.contains("SERVICE_ACCOUNT_DELETED"), "it was never made, or is not undone: {events}");

    // With a project that is there, it goes.
    site.says(&["project", "create", "orders"]).await;
    let (token, _) =
        site.says_with(&["login", "--profile", "second", "--project", "orders", "--print-token"], "").await;
    assert!(!token.trim().is_empty());
    let both = names().await;
    assert_eq!(both.len(), 2, "{both:?}");

    // One that is gone is replaced.
    let second = both.iter().find(|name| !before.contains(name)).unwrap();
    site.call("DELETE", &format!("{accounts}/{second}"), "2024-08-05", None).await;
    site.says(&["login", "--profile", "second", "--print-token"]).await;
    let after = names().await;
    assert!(after.len() == 2 && !after.contains(second), "{after:?}");
    site.stop().await;
}
