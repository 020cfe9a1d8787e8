//! The service as a whole: what it sends, what it refuses to send, and what it makes of the answers.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
};

use aws_lc_rs::digest;
use keyward_kms::{KeyService, Operation, Severity, highest_severity};
use keyward_model::Class;
use serde_json::json as value;

use crate::recorded::{
    self, CLIENT, Own, Reply, SUBSCRIPTION, Seen, Server, TENANT, VERSION, json, vault_error,
};

const CANARY: [u8; 32] = [7; 32];

fn canary_sha256() -> [u8; 32] {
    digest::digest(&digest::SHA256, &CANARY).as_ref().try_into().unwrap()
}

/// A vault whose every operation is answered by `answer`; challenge and token are as usual.
async fn vault(answer: impl Fn(&Own, &Seen) -> Reply + Send + Sync + 'static) -> Server {
    Server::start(move |own, seen| own.usual(seen).unwrap_or_else(|| answer(own, seen))).await
}

fn operation(seen: &Seen) -> &str {
    seen.path.rsplit('/').next().unwrap()
}

fn bundle(own: &Own, changes: impl FnOnce(&mut serde_json::Value)) -> Reply {
    let modulus = {
        let mut bytes = vec![0xff; 256];
        bytes[255] = 0x01;
        data_encoding::BASE64URL_NOPAD.encode(&bytes)
    };
    let mut body = value!({
        "key": { "kid": format!("{}/keys/k1/{VERSION}", own.url), "kty": "RSA",
            "key_ops": ["encrypt", "decrypt", "sign", "verify", "wrapKey", "unwrapKey"], "n": modulus, "e": "AQAB" },
        "attributes": { "enabled": true, "created": 1_760_000_000, "updated": 1_760_000_000,
            "recoveryLevel": "Recoverable", "recoverableDays": 90 }
    });
    changes(&mut body);
    json(200, body)
}

#[tokio::test]
async fn a_start_costs_one_unwrap_and_a_probe_one_call() {
    let server = vault(|own, _| own.value(&CANARY)).await;
    let service = server.service();

    let (plaintext, facts) = service.unwrap(&server.key(), &[1; 256]).await.unwrap();
    assert_eq!(*plaintext, CANARY);
    assert_eq!((facts.http_status, facts.token_age_s), (Some(200), Some(0)));
    let unwrap = format!("POST /keys/k1/{VERSION}/unwrapkey");
    assert_eq!(
        server.calls(),
        [format!("GET /keys/k1/{VERSION}"), format!("POST /{TENANT}/oauth2/v2.0/token"), unwrap.clone()]
    );

    server.forget_calls();
    for _ in 0..3 {
        let evidence = service.probe(&server.key(), &[1; 256], &canary_sha256()).await;
        assert_eq!(evidence.class, Class::Success, "{evidence:?}");
    }
    assert_eq!(server.calls(), [unwrap.clone(), unwrap.clone(), unwrap]);
}

#[tokio::test]
async fn requests_have_azures_shape() {
    let server = vault(|own, _| own.value(&[9; 256])).await;
    let wrapped = server.service().wrap(&server.key(), &[7; 32]).await.unwrap();
    assert_eq!(wrapped, [9; 256]);

    let seen = server.seen();
    let [challenge, token, wrap] = &seen[..] else { panic!("{:?}", server.calls()) };
    assert_eq!((challenge.token(), challenge.body.as_str()), (None, ""));
    assert_eq!(token.form("client_id").as_deref(), Some(CLIENT));
    assert_eq!(token.form("client_secret").as_deref(), Some("the-client-secret"));
    assert_eq!(token.form("grant_type").as_deref(), Some("client_credentials"));
    assert_eq!(token.form("scope").as_deref(), Some("https://vault.azure.net/.default"));
    assert_eq!((wrap.method.as_str(), wrap.query.as_str()), ("POST", "api-version=2025-07-01"));
    assert_eq!(wrap.path, format!("/keys/k1/{VERSION}/wrapkey"));
    assert_eq!(wrap.token(), Some("token-1"));
    let expected = data_encoding::BASE64URL_NOPAD.encode(&[7; 32]);
    assert_eq!(wrap.json(), value!({ "alg": "RSA-OAEP-256", "value": expected }));
}

/// Whom a vault trusts is checked before it, or anyone it names, gets a token or a secret.
#[tokio::test]
async fn a_challenge_that_does_not_fit_gets_no_token() {
    let other_tenant = "99999999-2222-3333-4444-555555555555";
    let headers = [
        (
            format!(r#"Bearer authorization="URL/{other_tenant}", resource="https://vault.azure.net""#),
            Class::Misconfigured,
            "tenant",
        ),
        (
            format!(
                r#"Bearer authorization="https://login.evil.example/{TENANT}", resource="https://vault.azure.net""#
            ),
            Class::Misconfigured,
            "authority",
        ),
        (
            format!(
                r#"Bearer authorization="http://localhost/{TENANT}", resource="https://vault.azure.net""#
            ),
            Class::Misconfigured,
            "authority",
        ),
        (
            format!(r#"Bearer authorization="URL/{TENANT}", resource="https://graph.microsoft.com""#),
            Class::Misconfigured,
            "audience",
        ),
        (
            format!(
                r#"Bearer authorization="URL/{TENANT}", resource="https://vault.azure.net.evil.example""#
            ),
            Class::Misconfigured,
            "audience",
        ),
        (format!(r#"Bearer authorization="URL/{TENANT}""#), Class::Malformed, "not one of Key Vault's"),
        (r#"Basic realm="proxy""#.to_owned(), Class::Malformed, "not one of Key Vault's"),
    ];
    for (header, class, word) in headers {
        let server = Server::start({
            let header = header.clone();
            move |own, _| {
                Reply(401, vec![("www-authenticate", header.replace("URL", &own.url))], String::new())
            }
        })
        .await;
        let error = server.service().describe(&server.key()).await.unwrap_err();
        assert_eq!(error.class, class, "{header}");
        assert!(error.to_string().contains(word), "{error}");
        assert_eq!(server.calls().len(), 1, "{header}");
        assert_eq!(server.seen()[0].token(), None);
    }
    // The wordings that older and other services use.
    for header in [
        format!(r#"Bearer authorization_uri="URL/{TENANT}", scope="https://vault.azure.net/.default""#),
        format!(
            r#"bearer  resource=https://vault.azure.net/ , authorization="URL/{}/""#,
            TENANT.to_uppercase()
        ),
    ] {
        let server = Server::start(move |own, seen| match seen.token() {
            None if seen.method == "GET" => {
                Reply(401, vec![("www-authenticate", header.replace("URL", &own.url))], String::new())
            }
            _ => own.usual(seen).unwrap_or_else(|| own.value(&CANARY)),
        })
        .await;
        server.service().unwrap(&server.key(), &[1; 256]).await.unwrap();
    }
}

#[tokio::test]
async fn a_vault_outside_the_cloud_is_not_asked() {
    let server = vault(|own, _| own.value(&CANARY)).await;
    let elsewhere: keyward_model::KeyIdentifier =
        format!("https://v.vault.azure.net/keys/k1/{VERSION}").parse().unwrap();
    let error = server.service().unwrap(&elsewhere, &[1; 256]).await.unwrap_err();
    assert_eq!((error.class, error.operation), (Class::Misconfigured, Operation::Unwrap));
    assert_eq!(server.calls(), Vec::<String>::new());
}

/// A refusal from someone who does not know who asks is no evidence about the key.
#[tokio::test]
async fn an_answer_before_the_challenge_never_weighs() {
    for (status, code, inner, expected) in [
        (403, "Forbidden", Some("KeyDisabled"), Class::Malformed),
        (404, "KeyNotFound", None, Class::Malformed),
        (200, "x", None, Class::Malformed),
        (403, "Forbidden", Some("ForbiddenByFirewall"), Class::DeniedByFirewall),
        (403, "Forbidden", Some("ForbiddenByConnection"), Class::DeniedByPrivateLink),
    ] {
        let server = Server::start(move |_, _| vault_error(status, code, inner)).await;
        let evidence = server.service().probe(&server.key(), &[1; 256], &canary_sha256()).await;
        assert_eq!(evidence.class, expected);
        assert!(server.seen().iter().all(|seen| seen.token().is_none()));
    }
}

/// A 401 is judged only with a token fetched for it.
#[tokio::test]
async fn a_401_is_answered_with_a_fresh_token_once() {
    let tokens = Arc::new(AtomicUsize::new(0));
    let given = tokens.clone();
    // Takes only the newest token from the second one on: the first one serves one call.
    let server = Server::start(move |own, seen| {
        if seen.path.ends_with("/token") {
            return recorded::token(&format!("token-{}", given.fetch_add(1, SeqCst) + 1));
        }
        match seen.token() {
            Some("token-2") => own.value(&CANARY),
            Some("token-1") if seen.path.ends_with("/wrapkey") => own.value(&CANARY),
            _ => own.challenge(),
        }
    })
    .await;
    let service = server.service();
    service.wrap(&server.key(), &[1]).await.unwrap();
    let evidence = service.probe(&server.key(), &[1; 256], &canary_sha256()).await;
    assert_eq!((evidence.class, evidence.token_age_s), (Class::Success, Some(0)));
    assert_eq!(tokens.load(SeqCst), 2);
}

/// Also when the refusal came so late that there is no time for another try.
#[tokio::test(flavor = "multi_thread")]
async fn a_late_401_is_answered_with_a_fresh_token_too() {
    let was_late = AtomicBool::new(false);
    let server = Server::start(move |own, seen| {
        if seen.path.ends_with("/token") {
            return recorded::token("token");
        }
        match seen.token() {
            Some(_) if seen.path.ends_with("/wrapkey") => own.value(&CANARY),
            Some(_) if !was_late.swap(true, SeqCst) => {
                std::thread::sleep(std::time::Duration::from_millis(5_200));
                own.challenge()
            }
            Some(_) => own.value(&CANARY),
            None => own.challenge(),
        }
    })
    .await;
    let mut config = server.config();
    config.call_timeout = std::time::Duration::from_secs(20);
    let service = keyward_kms::azure::AzureKeyService::new(config).unwrap();
    service.wrap(&server.key(), &[1]).await.unwrap();
    let evidence = service.probe(&server.key(), &[1; 256], &canary_sha256()).await;
    assert_eq!(evidence.class, Class::Success, "{evidence:?}");
}

#[tokio::test]
async fn a_401_that_stands_is_an_outage() {
    let server = Server::start(|own, seen| match own.usual(seen) {
        Some(reply) => reply,
        None => own.challenge(),
    })
    .await;
    let service = server.service();
    let evidence = service.probe(&server.key(), &[1; 256], &canary_sha256()).await;
    assert_eq!((evidence.class, evidence.http_status), (Class::Unauthorized, Some(401)));
    let token_requests =
        |server: &Server| server.calls().iter().filter(|call| call.ends_with("/token")).count();
    // Each of a probe's two tries had a token fetched for it; a refused one is not used again.
    assert_eq!(token_requests(&server), 2);
    let evidence = service.probe(&server.key(), &[1; 256], &canary_sha256()).await;
    assert_eq!(evidence.class, Class::Unauthorized);
    assert_eq!(token_requests(&server), 4);
}

#[tokio::test]
async fn claims_of_a_challenge_are_handed_on() {
    let claims = r#"{"access_token":{"nbf":{"essential":true,"value":"1760000000"}}}"#;
    let server = Server::start(move |own, seen| {
        if seen.path.ends_with("/token") {
            let reply =
                if seen.form("claims").as_deref() == Some(claims) { "with-claims" } else { "token-1" };
            return recorded::token(reply);
        }
        match seen.token() {
            Some("with-claims") => own.value(&CANARY),
            Some(_) => {
                let encoded = data_encoding::BASE64.encode(claims.as_bytes());
                let mut challenge = own.challenge();
                let (_, header) =
                    challenge.1.iter_mut().find(|(name, _)| *name == "www-authenticate").unwrap();
                header.push_str(&format!(r#", error="insufficient_claims", claims="{encoded}""#));
                challenge
            }
            None => own.challenge(),
        }
    })
    .await;
    service_succeeds(&server).await;
}

async fn service_succeeds(server: &Server) {
    let evidence = server.service().probe(&server.key(), &[1; 256], &canary_sha256()).await;
    assert_eq!(evidence.class, Class::Success, "{evidence:?}");
}

/// A vault that moves to another tenant while we run: its 401 names it, and it gets no further token.
#[tokio::test]
async fn a_vault_that_changes_hands_gets_no_further_token() {
    let calls = Arc::new(AtomicUsize::new(0));
    let server = Server::start(move |own, seen| {
        if seen.path.ends_with("/unwrapkey") && calls.fetch_add(1, SeqCst) > 0 {
            let mut challenge = own.challenge();
            let (_, header) = challenge.1.iter_mut().find(|(name, _)| *name == "www-authenticate").unwrap();
            *header = header.replace(TENANT, "99999999-2222-3333-4444-555555555555");
            return challenge;
        }
        own.usual(seen).unwrap_or_else(|| own.value(&CANARY))
    })
    .await;
    let service = server.service();
    service.unwrap(&server.key(), &[1; 256]).await.unwrap();
    server.forget_calls();
    let evidence = service.probe(&server.key(), &[1; 256], &canary_sha256()).await;
    assert_eq!(evidence.class, Class::Misconfigured, "{evidence:?}");
    assert_eq!(server.calls().len(), 1, "no token was fetched: {:?}", server.calls());
}

/// The grant that Atlas asks for: found out once, remembered, and found out anew when it changes.
#[tokio::test]
async fn either_grant_works_and_is_learned() {
    let granted = Arc::new(std::sync::Mutex::new(["encrypt", "decrypt"]));
    let now_granted = granted.clone();
    let server = vault(move |own, seen| {
        if now_granted.lock().unwrap().contains(&operation(seen)) {
            own.value(&CANARY)
        } else {
            vault_error(403, "Forbidden", Some("ForbiddenByRbac"))
        }
    })
    .await;
    let service = server.service();
    let operations = |server: &Server| -> Vec<String> {
        let tried = server
            .seen()
            .iter()
            .filter(|seen| seen.token().is_some())
            .map(|s| operation(s).to_owned())
            .collect();
        server.forget_calls();
        tried
    };
    service.unwrap(&server.key(), &[1; 256]).await.unwrap();
    assert_eq!(operations(&server), ["unwrapkey", "decrypt"]);
    service.unwrap(&server.key(), &[1; 256]).await.unwrap();
    assert_eq!(operations(&server), ["decrypt"]);
    service.wrap(&server.key(), &CANARY).await.unwrap();
    assert_eq!(operations(&server), ["wrapkey", "encrypt"]);
    service.wrap(&server.key(), &CANARY).await.unwrap();
    assert_eq!(operations(&server), ["encrypt"]);

    *granted.lock().unwrap() = ["wrapkey", "unwrapkey"];
    let evidence = service.probe(&server.key(), &[1; 256], &canary_sha256()).await;
    assert_eq!(evidence.class, Class::Success);
    assert_eq!(operations(&server), ["decrypt", "unwrapkey"]);
    service.probe(&server.key(), &[1; 256], &canary_sha256()).await;
    assert_eq!(operations(&server), ["unwrapkey"]);

    *granted.lock().unwrap() = ["none", "none"];
    let evidence = service.probe(&server.key(), &[1; 256], &canary_sha256()).await;
    assert_eq!(
        (evidence.class, evidence.inner_code.as_deref()),
        (Class::DeniedByRbac, Some("ForbiddenByRbac"))
    );
    assert_eq!(operations(&server), ["unwrapkey", "decrypt"]);
}

/// A denial stands only when both pairs of operations were denied.
#[tokio::test]
async fn what_the_other_pair_says_may_say_more() {
    for (second, expected) in [
        (vault_error(403, "Forbidden", Some("KeyDisabled")), Class::KeyDisabled),
        (vault_error(503, "ServiceUnavailable", None), Class::ServerFault),
        (vault_error(403, "Forbidden", Some("KeyOperationForbidden")), Class::OperationTakenOff),
        (vault_error(403, "Forbidden", Some("ForbiddenByPolicy")), Class::DeniedByRbac),
        (vault_error(403, "Forbidden", Some("ForbiddenByFirewall")), Class::DeniedByFirewall),
    ] {
        let second = (second.0, second.2);
        let server = vault(move |_, seen| match operation(seen) {
            "unwrapkey" => vault_error(403, "Forbidden", Some("ForbiddenByRbac")),
            _ => Reply(second.0, vec![], second.1.clone()),
        })
        .await;
        let evidence = server.service().probe(&server.key(), &[1; 256], &canary_sha256()).await;
        assert_eq!(evidence.class, expected);
    }
}

/// A disabled key is no question of grants: no second call.
#[tokio::test]
async fn a_disabled_key_costs_one_call() {
    let server = vault(|_, _| vault_error(403, "Forbidden", Some("KeyDisabled"))).await;
    let evidence = server.service().probe(&server.key(), &[1; 256], &canary_sha256()).await;
    assert_eq!(evidence.class, Class::KeyDisabled);
    assert_eq!(server.calls().len(), 3, "challenge, token, unwrapkey: {:?}", server.calls());
    assert_eq!(evidence.region.as_deref(), Some("westeurope"));
    assert_eq!(evidence.request_id.as_deref(), Some("request-1"));
    assert_eq!(evidence.host, Some(format!("localhost:{}", server.address.port())));
    assert_eq!(evidence.code.as_deref(), Some("Forbidden"));
    assert_eq!(evidence.message.as_deref(), Some("message of Forbidden"));
}

#[tokio::test]
async fn a_missing_key_is_deleted_only_when_the_vault_confirms_it() {
    let deleted = |own: &Own| {
        json(
            200,
            value!({ "recoveryId": format!("{}/deletedkeys/k1", own.url), "deletedDate": 1_760_000_000,
                "scheduledPurgeDate": 1_768_000_000, "key": { "kid": format!("{}/keys/k1/{VERSION}", own.url), "kty": "RSA" } }),
        )
    };
    type Second = fn(&Own) -> Reply;
    let cases: [(Second, Class); 6] = [
        (|_| vault_error(404, "KeyNotFound", None), Class::KeyPurged),
        (|_| vault_error(403, "Forbidden", Some("ForbiddenByRbac")), Class::KeyPurged),
        (|_| vault_error(500, "InternalServerError", None), Class::KeyPurged),
        (|_| Reply(200, vec![], "{}".into()), Class::KeyPurged),
        (|own| bundle(own, |_| ()), Class::KeyPurged),
        (
            |own| {
                json(
                    200,
                    value!({ "recoveryId": "x", "key": { "kid": format!("{}/keys/other/{VERSION}", own.url), "kty": "RSA" } }),
                )
            },
            Class::KeyPurged,
        ),
    ];
    for (second, expected) in cases {
        let server = vault(move |own, seen| match seen.path.as_str() {
            "/deletedkeys/k1" => second(own),
            _ => vault_error(404, "KeyNotFound", None),
        })
        .await;
        let evidence = server.service().probe(&server.key(), &[1; 256], &canary_sha256()).await;
        assert_eq!(evidence.class, expected);
        assert!(server.calls().contains(&"GET /deletedkeys/k1".to_owned()));
    }
    for first in [(404, "KeyNotFound", None), (409, "Conflict", Some("ObjectIsBeingDeleted"))] {
        let server = vault(move |own, seen| match seen.path.as_str() {
            "/deletedkeys/k1" => deleted(own),
            _ => vault_error(first.0, first.1, first.2),
        })
        .await;
        let service = server.service();
        let evidence = service.probe(&server.key(), &[1; 256], &canary_sha256()).await;
        assert_eq!((evidence.class, evidence.http_status), (Class::KeyDeleted, Some(first.0)));
        // At a start too.
        assert_eq!(service.unwrap(&server.key(), &[1; 256]).await.unwrap_err().class, Class::KeyDeleted);
    }
}

/// A vault is deleted only when ARM says both that it is gone and that it is among the deleted ones.
#[tokio::test]
async fn a_vault_is_deleted_only_when_arm_confirms_it() {
    let path = format!(
        "/subscriptions/{SUBSCRIPTION}/resourceGroups/g1/providers/Microsoft.KeyVault/vaults/localhost"
    );
    for (gone, listed, with_arm, expected) in [
        (true, true, true, Class::VaultDeleted),
        (true, false, true, Class::Malformed),
        (false, true, true, Class::Malformed),
        (true, true, false, Class::Malformed),
    ] {
        let vault_path = path.clone();
        let server = vault(move |_, seen| {
            if seen.path.starts_with("/keys/") {
                return Reply(404, vec![], "no such host here".into());
            }
            assert_eq!(seen.query, "api-version=2026-02-01");
            if seen.path == vault_path {
                let found = value!({ "location": "westeurope", "properties": { "tenantId": TENANT } });
                return if gone { vault_error(404, "ResourceNotFound", None) } else { json(200, found) };
            }
            assert_eq!(seen.path, format!("/subscriptions/{SUBSCRIPTION}/providers/Microsoft.KeyVault/deletedVaults"));
            let id = if listed { vault_path.to_lowercase() } else { vault_path.replace("localhost", "other") };
            json(200, value!({ "value": [{ "name": "x", "properties": { "vaultId": id, "location": "westeurope" } }] }))
        })
        .await;
        let mut config = server.config();
        if with_arm {
            config.subscription_id = Some(SUBSCRIPTION.into());
            config.resource_group = Some("g1".into());
        }
        let service = keyward_kms::azure::AzureKeyService::new(config).unwrap();
        let evidence = service.probe(&server.key(), &[1; 256], &canary_sha256()).await;
        assert_eq!(evidence.class, expected, "gone {gone}, listed {listed}, ARM {with_arm}");
        let arm_scope = format!("{}/.default", server.url());
        let scopes: Vec<_> = server.seen().iter().filter_map(|seen| seen.form("scope")).collect();
        assert_eq!(scopes.contains(&arm_scope), with_arm, "ARM gets a token of its own");
    }
}

/// The list of deleted vaults is not followed to another server.
#[tokio::test]
async fn pages_elsewhere_are_not_followed() {
    let elsewhere = Server::start(|_, _| json(200, value!({ "value": [] }))).await;
    let next = format!("{}/page2", elsewhere.url());
    let server = vault(move |_, seen| {
        if seen.path.ends_with("/vaults/localhost") {
            return vault_error(404, "ResourceNotFound", None);
        }
        if seen.path.ends_with("/deletedVaults") {
            return json(200, value!({ "value": [], "nextLink": next }));
        }
        Reply(404, vec![], String::new())
    })
    .await;
    let mut config = server.config();
    (config.subscription_id, config.resource_group) = (Some(SUBSCRIPTION.into()), Some("g1".into()));
    let service = keyward_kms::azure::AzureKeyService::new(config).unwrap();
    let evidence = service.probe(&server.key(), &[1; 256], &canary_sha256()).await;
    assert_eq!(evidence.class, Class::Malformed);
    assert!(server.calls().iter().any(|call| call.ends_with("/deletedVaults")));
    assert_eq!(elsewhere.calls(), Vec::<String>::new());
}

#[tokio::test]
async fn what_is_not_the_canary_is_damage_and_not_a_refusal() {
    let server = vault(|own, _| own.value(&[8; 32])).await;
    let evidence = server.service().probe(&server.key(), &[1; 256], &canary_sha256()).await;
    assert_eq!(evidence.class, Class::BadCiphertext);
    let server = vault(|_, _| vault_error(400, "BadParameter", None)).await;
    let evidence = server.service().probe(&server.key(), &[1; 256], &canary_sha256()).await;
    assert_eq!(evidence.class, Class::BadCiphertext);
}

/// Answers that worked and still make no sense; the text says why without repeating them.
#[tokio::test]
async fn nonsense_in_a_200_is_named() {
    let cases: [fn(&Own) -> Reply; 7] = [
        |_| Reply(200, vec![], String::new()),
        |_| Reply(200, vec![], "<html>U0VDUkVU</html>".into()),
        |own| {
            json(
                200,
                value!({ "kid": format!("{}/keys/k1/{}", own.url, "f".repeat(32)), "value": "U0VDUkVU" }),
            )
        },
        |own| json(200, value!({ "kid": format!("{}/keys/k2/{VERSION}", own.url), "value": "U0VDUkVU" })),
        |own| json(200, value!({ "kid": format!("{}/keys/k1/{VERSION}", own.url), "value": "U0VDUkVU!" })),
        |own| json(200, value!({ "kid": format!("{}/keys/k1/{VERSION}", own.url), "value": "" })),
        |_| json(200, value!({ "value": "U0VDUkVU" })),
    ];
    for reply in cases {
        let server = vault(move |own, _| reply(own)).await;
        let error = server.service().unwrap(&server.key(), &[1; 256]).await.unwrap_err();
        assert_eq!(error.class, Class::Malformed);
        assert!(!format!("{error} {error:?}").contains("U0VDUkVU"), "{error:?}");
    }
    // Padding is taken, though never sent.
    let server = vault(|own, _| {
        json(200, value!({ "kid": format!("{}/keys/k1/{VERSION}", own.url), "value": "U0VDUkVUUw==" }))
    })
    .await;
    assert_eq!(*server.service().unwrap(&server.key(), &[1; 256]).await.unwrap().0, *b"SECRETS");
}

#[tokio::test]
async fn a_fault_that_passes_is_waited_out() {
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = calls.clone();
    let server = vault(move |own, _| match counted.fetch_add(1, SeqCst) {
        0 => vault_error(503, "ServiceUnavailable", None),
        _ => own.value(&CANARY),
    })
    .await;
    service_succeeds(&server).await;
    assert_eq!(calls.load(SeqCst), 2);
}

#[tokio::test]
async fn retry_after_is_waited_for_or_the_call_given_up() {
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = calls.clone();
    let server = vault(move |own, _| match counted.fetch_add(1, SeqCst) {
        0 => Reply(429, vec![("retry-after", "2".into())], String::new()),
        _ => own.value(&CANARY),
    })
    .await;
    let began = std::time::Instant::now();
    service_succeeds(&server).await;
    assert!(began.elapsed() >= std::time::Duration::from_secs(2));

    let server = vault(|_, _| Reply(429, vec![("retry-after", "3600".into())], String::new())).await;
    let error = server.service().wrap(&server.key(), &CANARY).await.unwrap_err();
    assert_eq!((error.class, error.facts.retry_after_s), (Class::Throttled, Some(3600)));
    assert_eq!(server.calls().iter().filter(|call| call.ends_with("/wrapkey")).count(), 1);
}

#[tokio::test]
async fn a_key_is_described() {
    let server = vault(|own, _| {
        bundle(own, |body| {
            body["attributes"]["nbf"] = value!(1_700_000_000);
            body["attributes"]["exp"] = value!(1_900_000_000);
        })
    })
    .await;
    let described = server.service().describe(&server.key()).await.unwrap();
    assert_eq!(described.key_identifier, server.key());
    assert_eq!(
        (described.kty.as_str(), described.key_size_bits, described.enabled),
        ("RSA", Some(2048), true)
    );
    assert_eq!(described.not_before.unwrap().epoch_ms(), 1_700_000_000_000);
    assert_eq!(described.expires.unwrap().epoch_ms(), 1_900_000_000_000);
    assert_eq!(described.recovery_level.as_deref(), Some("Recoverable"));
    assert_eq!(described.public_key_sha256.len(), 64);
    assert_eq!(server.calls().last().unwrap(), &format!("GET /keys/k1/{VERSION}"));

    let server = vault(|own, _| {
        bundle(own, |body| body["key"]["kid"] = value!(format!("{}/keys/k1/{}", own.url, "a".repeat(32))))
    })
    .await;
    let service = server.service();
    assert_eq!(service.latest_version(&server.key()).await.unwrap().version(), "a".repeat(32));
    assert_eq!(server.calls().last().unwrap(), "GET /keys/k1");
    let error = service.describe(&server.key()).await.unwrap_err();
    assert_eq!(error.class, Class::Malformed, "an answer about another version: {error}");
}

fn texts(findings: &[keyward_kms::Finding]) -> String {
    findings.iter().map(|found| format!("{:?}: {}\n", found.severity, found.text)).collect()
}

/// A vault that wraps by keeping: enough for the check's own round trip.
fn round_trip(own: &Own, seen: &Seen) -> Reply {
    let body = value!({ "kid": format!("{}/keys/k1/{VERSION}", own.url), "value": seen.json()["value"] });
    json(200, body)
}

#[tokio::test]
async fn a_check_names_each_missing_grant() {
    type Denied = &'static [&'static str];
    let cases: [(Denied, &[&str]); 5] = [
        (&[], &[]),
        (&["wrapkey", "encrypt"], &["wrapKey (or encrypt)"]),
        (&["unwrapkey", "decrypt"], &["unwrapKey (or decrypt)"]),
        (&["wrapkey", "unwrapkey"], &[]),
        (
            &["get", "wrapkey", "encrypt", "unwrapkey", "decrypt"],
            &["get on", "wrapKey (or encrypt)", "unwrapKey (or decrypt)"],
        ),
    ];
    for (denied, expected) in cases {
        let server = vault(move |own, seen| {
            let operation = if seen.method == "GET" { "get" } else { operation(seen) };
            if denied.contains(&operation) {
                return vault_error(403, "Forbidden", Some("ForbiddenByRbac"));
            }
            match operation {
                "get" => bundle(own, |_| ()),
                // Whoever may unwrap gets as far as the ciphertext.
                "unwrapkey" | "decrypt" if denied.contains(&"wrapkey") && denied.contains(&"encrypt") => {
                    vault_error(400, "BadParameter", None)
                }
                _ => round_trip(own, seen),
            }
        })
        .await;
        let found = server.service().check(&server.key()).await;
        let refusals: Vec<_> = found.iter().filter(|found| found.severity == Severity::Refuse).collect();
        assert_eq!(refusals.len(), expected.len(), "{denied:?}: {}", texts(&found));
        for (refusal, word) in refusals.iter().zip(expected) {
            assert!(
                refusal.text.contains(word) && refusal.text.contains("ForbiddenByRbac"),
                "{}",
                refusal.text
            );
            assert_eq!(refusal.class, Some(Class::DeniedByRbac));
        }
    }
}

#[tokio::test]
async fn a_key_that_will_not_do_is_refused_and_not_tried_out() {
    type Change = fn(&mut serde_json::Value);
    let cases: [(Change, &str); 8] = [
        (|body| body["key"]["kty"] = value!("EC"), "not RSA"),
        (|body| body["key"]["n"] = value!(data_encoding::BASE64URL_NOPAD.encode(&[0xff; 128])), "1024 bits"),
        (|body| body["key"]["key_ops"] = value!(["sign", "verify"]), "permit to wrap"),
        (|body| body["key"]["key_ops"] = value!(["wrapKey", "encrypt"]), "permit to unwrap"),
        (|body| body["attributes"]["enabled"] = value!(false), "disabled"),
        (|body| body["attributes"]["nbf"] = value!(4_000_000_000_u64), "not valid before"),
        (|body| body["attributes"]["exp"] = value!(1_600_000_000), "has expired"),
        (|body| body["key"].as_object_mut().unwrap().retain(|name, _| name != "n"), "public key"),
    ];
    for (change, word) in cases {
        let server = vault(move |own, seen| match seen.method.as_str() {
            "GET" => bundle(own, change),
            _ => round_trip(own, seen),
        })
        .await;
        let found = server.service().check(&server.key()).await;
        assert_eq!(highest_severity(&found), Some(Severity::Refuse), "{}", texts(&found));
        assert!(texts(&found).contains(word), "{}", texts(&found));
        assert!(server.calls().iter().all(|call| !call.ends_with("/wrapkey")), "{:?}", server.calls());
    }
}

#[tokio::test]
async fn a_check_tells_an_outage_from_a_refusal() {
    let server = vault(|_, _| Reply(429, vec![("retry-after", "3600".into())], String::new())).await;
    let found = server.service().check(&server.key()).await;
    assert_eq!(found.iter().map(|found| found.class).collect::<Vec<_>>(), [Some(Class::Throttled)]);
}

#[tokio::test]
async fn soft_delete_and_purge_protection_are_looked_at() {
    let setup = |purge: bool, tenant: &str| {
        let mut properties = value!({ "tenantId": tenant, "vaultUri": "x", "enableSoftDelete": true });
        if purge {
            properties["enablePurgeProtection"] = value!(true);
        }
        json(200, value!({ "id": "x", "location": "westeurope", "properties": properties }))
    };
    let private = |status: &str| {
        let connection =
            value!({ "properties": { "privateLinkServiceConnectionState": { "status": status } } });
        let properties = value!({ "tenantId": TENANT, "enablePurgeProtection": true, "publicNetworkAccess": "Disabled",
            "privateEndpointConnections": [connection] });
        json(200, value!({ "location": "westeurope", "properties": properties }))
    };
    type Arm = Arc<dyn Fn() -> Reply + Send + Sync>;
    type Expected = &'static [(Severity, &'static str)];
    let cases: [(Option<Arm>, &str, Expected); 8] = [
        (Some(Arc::new(move || setup(true, TENANT))), "Recoverable", &[]),
        (
            Some(Arc::new(move || setup(false, TENANT))),
            "Recoverable+Purgeable",
            &[(Severity::Warn, "purge protection")],
        ),
        (Some(Arc::new(move || setup(true, TENANT))), "Purgeable", &[(Severity::Warn, "no soft delete")]),
        (
            Some(Arc::new(move || setup(true, "99999999-2222-3333-4444-555555555555"))),
            "Recoverable",
            &[(Severity::Refuse, "belongs to tenant")],
        ),
        (
            Some(Arc::new(|| vault_error(403, "AuthorizationFailed", None))),
            "Recoverable",
            &[(Severity::Warn, "could not be checked")],
        ),
        (None, "Recoverable", &[(Severity::Warn, "is not checked")]),
        (Some(Arc::new(move || private("Approved"))), "Recoverable", &[]),
        (
            Some(Arc::new(move || private("Rejected"))),
            "Recoverable",
            &[(Severity::Warn, "no private endpoint")],
        ),
    ];
    for (arm, level, expected) in cases {
        let with_arm = arm.is_some();
        let server = vault(move |own, seen| match (&arm, seen.method.as_str()) {
            (Some(arm), "GET") if seen.path.starts_with("/subscriptions/") => arm(),
            (_, "GET") => bundle(own, |body| body["attributes"]["recoveryLevel"] = value!(level)),
            _ => round_trip(own, seen),
        })
        .await;
        let mut config = server.config();
        if with_arm {
            (config.subscription_id, config.resource_group) = (Some(SUBSCRIPTION.into()), Some("g1".into()));
        }
        let found = keyward_kms::azure::AzureKeyService::new(config).unwrap().check(&server.key()).await;
        assert_eq!(found.len(), expected.len(), "{}", texts(&found));
        for (found, (severity, word)) in found.iter().zip(expected) {
            assert_eq!(found.severity, *severity);
            assert!(found.text.contains(word) && !found.hint.is_empty(), "{found:?}");
        }
    }
}

#[tokio::test]
async fn an_error_says_what_happened_to_what_and_what_to_do() {
    let server = vault(|_, _| vault_error(403, "Forbidden", Some("KeyDisabled"))).await;
    let error = server.service().unwrap(&server.key(), &[1; 256]).await.unwrap_err();
    let host = format!("localhost:{}", server.address.port());
    assert_eq!(
        error.to_string(),
        format!(
            "unwrapping with https://{host}/keys/k1/{VERSION}: the customer key is disabled (403 Forbidden/KeyDisabled \
             from {host}, \"message of Forbidden\", request id request-1)"
        )
    );
    assert_eq!(error.hint(), Class::KeyDisabled.hint());
}
