//! Every answer that the Azure Key Vault reference lists, and what it means.

use keyward_kms::{
    Operation,
    azure::classify::{
        Answer, Fault, SecondLook, Stage, Suspicion, after_failover, classify, confirm, suspicion,
    },
};
use keyward_model::{Class, Weight};
use proptest::prelude::*;

const UNWRAP: Stage = Stage::Vault(Operation::Unwrap);
const WRAP: Stage = Stage::Vault(Operation::Wrap);
const GET: Stage = Stage::Vault(Operation::Describe);
const ENTRA: Stage = Stage::Directory;
const IMDS: Stage = Stage::MetadataService;
const ARM: Stage = Stage::ResourceManager;

fn vault_error(code: &str, inner: Option<&str>, message: &str) -> String {
    let mut error = serde_json::json!({ "error": { "code": code, "message": message } });
    if let Some(inner) = inner {
        error["error"]["innererror"] = serde_json::json!({ "code": inner });
    }
    error.to_string()
}

fn entra_error(error: &str, number: Option<u64>) -> String {
    let number = number.map_or_else(Vec::new, |number| vec![number]);
    serde_json::json!({
        "error": error,
        "error_description": format!("AADSTS{}: words that may change.", number.first().copied().unwrap_or(1)),
        "error_codes": number,
        "timestamp": "2026-11-24 10:00:00Z",
        "trace_id": "7d9cf2b1-0000-0000-0000-000000000001",
        "correlation_id": "7d9cf2b1-0000-0000-0000-000000000002",
        "error_uri": "https://login.microsoftonline.com/error?code=1"
    })
    .to_string()
}

fn class_of(stage: Stage, status: u16, body: &str) -> Class {
    classify(stage, Ok(Answer { status, body: body.as_bytes() })).0
}

/// The data plane's rows.
#[test]
fn every_row_of_the_vault() {
    let policy = "The user, group or application 'appid=..;oid=..;iss=..' does not have keys unwrapKey permission \
                  on key vault 'n;location=westeurope'.";
    let rbac = "Caller is not authorized to perform action on resource.\r\nCaller: appid=..\r\nAction: \
                'Microsoft.KeyVault/vaults/keys/unwrap/action'\r\nAssignment: (not found)\r\nVault: n;location=r";
    #[rustfmt::skip]
    let rows: &[(&str, Stage, u16, String, Class)] = &[
        ("no access policy entry",        UNWRAP, 403, vault_error("Forbidden", Some("AccessDenied"), policy), Class::DeniedByPolicy),
        ("caller on no access policy",    UNWRAP, 403, vault_error("Forbidden", Some("AccessDenied"), "Access denied. Caller was not found on any access policy."), Class::DeniedByPolicy),
        ("same, newer wording",           UNWRAP, 403, vault_error("Forbidden", Some("ForbiddenByPolicy"), policy), Class::DeniedByPolicy),
        ("RBAC denies",                   UNWRAP, 403, vault_error("Forbidden", Some("ForbiddenByRbac"), rbac), Class::DeniedByRbac),
        ("firewall",                      UNWRAP, 403, vault_error("Forbidden", Some("ForbiddenByFirewall"), "Client address is not authorized and caller is not a trusted service."), Class::DeniedByFirewall),
        ("no approved private link",      UNWRAP, 403, vault_error("Forbidden", Some("ForbiddenByConnection"), "Public network access is disabled"), Class::DeniedByPrivateLink),
        ("key disabled",                  UNWRAP, 403, vault_error("Forbidden", Some("KeyDisabled"), "Operation unwrapKey is not allowed on a disabled key."), Class::KeyDisabled),
        ("not yet valid",                 WRAP,   403, vault_error("Forbidden", Some("KeyNotYetValid"), "Operation wrapKey is not allowed on a key that is not yet valid."), Class::KeyNotCurrent),
        ("expired",                       WRAP,   403, vault_error("Forbidden", Some("KeyExpired"), "Operation wrapKey is not allowed on an expired key."), Class::KeyNotCurrent),
        ("expired, on an unwrap",         UNWRAP, 403, vault_error("Forbidden", Some("KeyExpired"), "x"), Class::KeyNotCurrent),
        ("operation not in key_ops",      UNWRAP, 403, vault_error("Forbidden", Some("KeyOperationForbidden"), "Operation decrypt is not permitted on this key."), Class::OperationTakenOff),
        ("key or version absent",         UNWRAP, 404, vault_error("KeyNotFound", None, "A key with (name/id) n was not found in this key vault."), Class::KeyPurged),
        ("key absent, read",              GET,    404, vault_error("KeyNotFound", None, "A key with (name/id) n was not found in this key vault."), Class::KeyPurged),
        ("soft-deleted name",             WRAP,   409, vault_error("Conflict", Some("ObjectIsDeletedButRecoverable"), "Key n is currently in a deleted but recoverable state"), Class::Malformed),
        ("deletion under way",            UNWRAP, 409, vault_error("Conflict", Some("ObjectIsBeingDeleted"), "Key n is currently being deleted"), Class::Malformed),
        ("bad ciphertext",                UNWRAP, 400, vault_error("BadParameter", None, "The parameter is incorrect."), Class::BadCiphertext),
        ("bad size or algorithm",         WRAP,   400, vault_error("BadParameter", None, "Property alg has invalid value"), Class::Misconfigured),
        ("token missing",                 UNWRAP, 401, vault_error("Unauthorized", None, "AKV10000: Request is missing a Bearer or PoP token."), Class::Unauthorized),
        ("token's audience",              UNWRAP, 401, vault_error("Unauthorized", None, "AKV10022: Invalid audience."), Class::Misconfigured),
        ("token's issuer",                UNWRAP, 401, vault_error("Unauthorized", None, "AKV10032: Invalid issuer. Expected one of https://sts.windows.net/a/"), Class::Misconfigured),
        ("signing key not resolved",      UNWRAP, 401, vault_error("Unauthorized", None, "AKV10046: Unable to resolve the key used for signature validation."), Class::Unauthorized),
        ("token expired",                 UNWRAP, 401, vault_error("Unauthorized", None, "[TokenExpired] Error validating token: 'S2S12005'."), Class::Unauthorized),
        ("throttled",                     UNWRAP, 429, vault_error("Throttled", None, "Too many requests."), Class::Throttled),
        ("throttled without a body",      UNWRAP, 429, String::new(), Class::Throttled),
        ("server fault",                  UNWRAP, 500, vault_error("InternalServerError", None, "Internal server error"), Class::ServerFault),
        ("bad gateway",                   UNWRAP, 502, "<html>".into(), Class::ServerFault),
        ("unavailable",                   UNWRAP, 503, vault_error("ServiceUnavailable", None, "x"), Class::ServerFault),
        ("gateway time-out",              UNWRAP, 504, String::new(), Class::ServerFault),
        ("request time-out",              UNWRAP, 408, String::new(), Class::TimedOut),
        ("success",                       UNWRAP, 200, r#"{"kid":"x","value":"y"}"#.into(), Class::Success),
        // What a proxy, a captive portal or a future Azure may say: no definite answer, so neutral.
        ("403 of a proxy",                UNWRAP, 403, "<html>Access denied by policy</html>".into(), Class::Malformed),
        ("403 without an inner code",     UNWRAP, 403, vault_error("Forbidden", None, "Operation unwrapKey is not allowed on a disabled key."), Class::Malformed),
        ("403, unknown inner code",       UNWRAP, 403, vault_error("Forbidden", Some("ForbiddenByWeather"), "x"), Class::Malformed),
        ("403, inner code without code",  UNWRAP, 403, r#"{"error":{"innererror":{"code":"KeyDisabled"}}}"#.into(), Class::Malformed),
        ("403, another code",             UNWRAP, 403, vault_error("Teapot", Some("KeyDisabled"), "x"), Class::Malformed),
        ("inner code with another status",UNWRAP, 418, vault_error("Forbidden", Some("KeyDisabled"), "x"), Class::Malformed),
        ("404 of a proxy",                UNWRAP, 404, "not found".into(), Class::Malformed),
        ("404, another code",             UNWRAP, 404, vault_error("NotFound", None, "x"), Class::Malformed),
        ("400, another code",             UNWRAP, 400, vault_error("Strange", None, "x"), Class::Malformed),
        ("redirect",                      UNWRAP, 302, String::new(), Class::Malformed),
        ("cut off in the middle",         UNWRAP, 403, r#"{"error":{"code":"Forbidden","innererror":{"code":"KeyDis"#.into(), Class::Malformed),
        ("an array",                      UNWRAP, 403, "[]".into(), Class::Malformed),
        ("null",                          UNWRAP, 404, "null".into(), Class::Malformed),
        ("code is a number",              UNWRAP, 403, r#"{"error":{"code":403}}"#.into(), Class::Malformed),
    ];
    for (name, stage, status, body, expected) in rows {
        assert_eq!(class_of(*stage, *status, body), *expected, "{name}: {status} {body}");
    }
}

/// Entra ID's rows, and the metadata service's.
#[test]
fn every_row_of_entra_id() {
    #[rustfmt::skip]
    let rows: &[(&str, Stage, u16, String, Class)] = &[
        ("application not in the tenant",     ENTRA, 400, entra_error("unauthorized_client", Some(700_016)), Class::ApplicationDeleted),
        ("service principal deleted",         ENTRA, 401, entra_error("invalid_client", Some(7_000_229)), Class::ApplicationDeleted),
        ("service principal deleted, 400",    ENTRA, 400, entra_error("unauthorized_client", Some(7_000_229)), Class::ApplicationDeleted),
        ("wrong secret",                      ENTRA, 401, entra_error("invalid_client", Some(7_000_215)), Class::CredentialRejected),
        ("secrets expired",                   ENTRA, 401, entra_error("invalid_client", Some(7_000_222)), Class::ClientSecretExpired),
        ("application disabled",              ENTRA, 400, entra_error("unauthorized_client", Some(7_000_112)), Class::ApplicationDisabled),
        ("application disabled, 401",         ENTRA, 401, entra_error("unauthorized_client", Some(7_000_112)), Class::ApplicationDisabled),
        ("tenant not found",                  ENTRA, 400, entra_error("invalid_request", Some(90_002)), Class::Misconfigured),
        ("certificate not registered",        ENTRA, 401, entra_error("invalid_client", Some(700_027)), Class::CredentialRejected),
        ("assertion signature",               ENTRA, 401, entra_error("invalid_client", Some(50_012)), Class::CredentialRejected),
        ("assertion out of its time",         ENTRA, 401, entra_error("invalid_client", Some(500_133)), Class::CredentialRejected),
        ("directory trouble 90033",           ENTRA, 400, entra_error("invalid_request", Some(90_033)), Class::DirectoryUnavailable),
        ("directory trouble 90006",           ENTRA, 400, entra_error("server_error", Some(90_006)), Class::DirectoryUnavailable),
        ("directory trouble 90012",           ENTRA, 400, entra_error("invalid_request", Some(90_012)), Class::DirectoryUnavailable),
        ("directory trouble 90024",           ENTRA, 400, entra_error("invalid_request", Some(90_024)), Class::DirectoryUnavailable),
        ("directory trouble 90090",           ENTRA, 400, entra_error("invalid_request", Some(90_090)), Class::DirectoryUnavailable),
        ("temporarily unavailable",           ENTRA, 400, entra_error("temporarily_unavailable", None), Class::DirectoryUnavailable),
        ("server error",                      ENTRA, 500, entra_error("server_error", None), Class::DirectoryUnavailable),
        ("unavailable without a body",        ENTRA, 503, String::new(), Class::DirectoryUnavailable),
        ("too many requests",                 ENTRA, 429, String::new(), Class::Throttled),
        ("tenant throttled",                  ENTRA, 400, entra_error("invalid_request", Some(90_055)), Class::Throttled),
        // Beyond the table.
        ("resource not in the tenant",        ENTRA, 400, entra_error("invalid_resource", Some(500_011)), Class::Misconfigured),
        ("bad scope",                         ENTRA, 400, entra_error("invalid_scope", Some(70_011)), Class::Misconfigured),
        ("wrong client, unknown number",      ENTRA, 401, entra_error("invalid_client", Some(1)), Class::CredentialRejected),
        ("unauthorized client, unknown",      ENTRA, 400, entra_error("unauthorized_client", Some(1)), Class::Misconfigured),
        ("unknown error",                     ENTRA, 400, entra_error("new_error", Some(1)), Class::Malformed),
        ("a weighty number, unknown error",   ENTRA, 400, entra_error("new_error", Some(7_000_112)), Class::Malformed),
        ("a weighty number, odd status",      ENTRA, 302, entra_error("unauthorized_client", Some(7_000_112)), Class::Malformed),
        ("a weighty number in trouble",       ENTRA, 503, entra_error("unauthorized_client", Some(7_000_112)), Class::DirectoryUnavailable),
        ("a proxy's page",                    ENTRA, 403, "<html>".into(), Class::Malformed),
        ("no error at all",                   ENTRA, 400, "{}".into(), Class::Malformed),
        ("cut off",                           ENTRA, 400, r#"{"error":"unauthorized_client","error_codes":[7000"#.into(), Class::Malformed),
        // Of several numbers the one that weighs least decides.
        ("expired secret, disabled",          ENTRA, 401, r#"{"error":"unauthorized_client","error_codes":[7000112,7000222]}"#.into(), Class::ClientSecretExpired),
        ("wrong secret, disabled",            ENTRA, 401, r#"{"error":"invalid_client","error_codes":[7000112,7000215]}"#.into(), Class::CredentialRejected),
        ("signature, disabled",               ENTRA, 400, r#"{"error":"unauthorized_client","error_codes":[7000112,50012]}"#.into(), Class::CredentialRejected),
        ("clock, not in the tenant",          ENTRA, 400, r#"{"error":"unauthorized_client","error_codes":[700016,500133]}"#.into(), Class::CredentialRejected),
        ("wrong tenant, not in the tenant",   ENTRA, 400, r#"{"error":"unauthorized_client","error_codes":[700016,90002]}"#.into(), Class::Misconfigured),
        ("disabled, and something unknown",   ENTRA, 400, r#"{"error":"unauthorized_client","error_codes":[7000112,7]}"#.into(), Class::Misconfigured),
        ("unknown first, then disabled",      ENTRA, 401, r#"{"error":"invalid_client","error_codes":[7,7000112]}"#.into(), Class::CredentialRejected),
        ("numbers that are texts",            ENTRA, 400, r#"{"error":"unauthorized_client","error_codes":["7000112"]}"#.into(), Class::Malformed),
        ("application not found, 401",        ENTRA, 401, entra_error("invalid_client", Some(700_016)), Class::ApplicationDeleted),
        ("principal gone, wrong secret",      ENTRA, 401, r#"{"error":"invalid_client","error_codes":[7000229,7000215]}"#.into(), Class::CredentialRejected),
        ("deleted and disabled",              ENTRA, 400, r#"{"error":"unauthorized_client","error_codes":[7000112,700016]}"#.into(), Class::ApplicationDeleted),
        // The number may stand in the description only.
        ("number in the description",         ENTRA, 401, r#"{"error":"invalid_client","error_description":"AADSTS7000222: The provided client secret keys are expired."}"#.into(), Class::ClientSecretExpired),
        ("token given",                       ENTRA, 200, r#"{"access_token":"x"}"#.into(), Class::Success),
        // The metadata service of a machine.
        ("identity not found",                IMDS,  400, r#"{"error":"invalid_request","error_description":"Identity not found"}"#.into(), Class::Misconfigured),
        ("being updated",                     IMDS,  404, String::new(), Class::DirectoryUnavailable),
        ("being updated, 410",                IMDS,  410, String::new(), Class::DirectoryUnavailable),
        ("too many",                          IMDS,  429, String::new(), Class::Throttled),
        ("fault",                             IMDS,  500, r#"{"error":"unknown"}"#.into(), Class::DirectoryUnavailable),
        ("not a metadata service",            IMDS,  403, "<html>".into(), Class::Malformed),
        ("numbers mean nothing there",        IMDS,  400, entra_error("unauthorized_client", Some(7_000_112)), Class::Misconfigured),
    ];
    for (name, stage, status, body, expected) in rows {
        assert_eq!(class_of(*stage, *status, body), *expected, "{name}: {status} {body}");
    }
}

/// ARM's rows: by itself none of them weighs.
#[test]
fn every_row_of_the_resource_manager() {
    #[rustfmt::skip]
    let rows: &[(&str, u16, String, Class)] = &[
        ("vault absent",           404, vault_error("ResourceNotFound", None, "The Resource 'Microsoft.KeyVault/vaults/v' was not found."), Class::Misconfigured),
        ("group absent",           404, vault_error("ResourceGroupNotFound", None, "x"), Class::Misconfigured),
        ("not among the deleted",  404, vault_error("DeletedVaultNotFound", None, "x"), Class::Misconfigured),
        ("not granted",            403, vault_error("AuthorizationFailed", None, "does not have authorization to perform action 'Microsoft.KeyVault/vaults/read'"), Class::DeniedByRbac),
        ("bad token",              401, vault_error("InvalidAuthenticationToken", None, "x"), Class::Unauthorized),
        ("throttled",              429, String::new(), Class::Throttled),
        ("fault",                  503, String::new(), Class::ServerFault),
        ("anything else",          404, "not here".into(), Class::Malformed),
        ("found",                  200, "{}".into(), Class::Success),
    ];
    for (name, status, body, expected) in rows {
        assert_eq!(class_of(ARM, *status, body), *expected, "{name}: {status} {body}");
    }
}

/// No answer at all reads the same whoever was asked, and never weighs.
#[test]
fn every_fault() {
    let rows = [
        (Fault::TimedOut, Class::TimedOut),
        (Fault::ConnectionFailed, Class::ConnectionFailed),
        (Fault::NameNotResolved, Class::NameNotResolved),
        (Fault::NoSuchName, Class::NameNotResolved),
        (Fault::TlsFailed, Class::TlsFailed),
        (Fault::NotAnAnswer, Class::Malformed),
        (Fault::PublicAddress, Class::DeniedByPrivateLink),
    ];
    for stage in [UNWRAP, WRAP, GET, ENTRA, IMDS, ARM] {
        for (fault, expected) in rows {
            let (class, facts) = classify(stage, Err(fault));
            assert_eq!((class, class.weight()), (expected, Weight::Neutral));
            assert_eq!(facts.http_status, None);
        }
    }
}

/// A deletion is one only when a second call said so; and only doubtful answers ask for a second call.
#[test]
fn deletions_are_confirmed() {
    let of = |status, body: String| {
        let (class, facts) = classify(UNWRAP, Ok(Answer { status, body: body.as_bytes() }));
        (class, suspicion(class, &facts))
    };
    let gone = of(404, vault_error("KeyNotFound", None, "x"));
    assert_eq!(gone, (Class::KeyPurged, Some(Suspicion::KeyDeleted)));
    let going = of(409, vault_error("Conflict", Some("ObjectIsBeingDeleted"), "x"));
    assert_eq!(going, (Class::Malformed, Some(Suspicion::KeyDeleted)));
    let kept = of(409, vault_error("Conflict", Some("ObjectIsDeletedButRecoverable"), "x"));
    assert_eq!(kept, (Class::Malformed, Some(Suspicion::KeyDeleted)));
    assert_eq!(of(404, "gone".into()), (Class::Malformed, Some(Suspicion::VaultDeleted)));
    assert_eq!(of(418, "tea".into()), (Class::Malformed, None));
    assert_eq!(of(403, vault_error("Forbidden", Some("KeyDisabled"), "x")), (Class::KeyDisabled, None));
    // A vault behind a private link is gone without its name going: nobody answers at its address.
    for fault in [
        Fault::NameNotResolved,
        Fault::NoSuchName,
        Fault::ConnectionFailed,
        Fault::TimedOut,
        Fault::TlsFailed,
        Fault::PublicAddress,
    ] {
        let (class, facts) = classify(UNWRAP, Err(fault));
        assert_eq!(suspicion(class, &facts), Some(Suspicion::VaultDeleted), "{fault:?}");
    }
    assert_eq!(
        of(403, vault_error("Forbidden", Some("ForbiddenByFirewall"), "x")),
        (Class::DeniedByFirewall, None)
    );
    assert_eq!(of(503, String::new()), (Class::ServerFault, None));
    assert_eq!(of(401, String::new()), (Class::Unauthorized, None));

    for first in Class::ALL {
        use {SecondLook::*, Suspicion::*};
        assert_eq!(confirm(first, KeyDeleted, AmongTheDeleted), Class::KeyDeleted);
        assert_eq!(confirm(first, VaultDeleted, AmongTheDeleted), Class::VaultDeleted);
        assert_eq!(confirm(first, KeyDeleted, NotConfirmed), first);
        assert_eq!(confirm(first, VaultDeleted, NotConfirmed), first);
    }
}

/// Nothing can be purged in a vault that is failed over: a key that only the other region misses is not gone. All else
/// that region says stands, and so does what is said where nothing is known of regions.
#[test]
fn a_key_that_the_other_region_misses_is_not_gone() {
    for class in Class::ALL {
        let elsewhere = after_failover(class, Some("westeurope"), Some("northeurope"));
        let expected = if class == Class::KeyPurged { Class::ServerFault } else { class };
        assert_eq!(elsewhere, expected);
        for (worked_in, answered_by) in [
            (Some("westeurope"), Some("westeurope")),
            (None, Some("northeurope")),
            (Some("westeurope"), None),
            (None, None),
        ] {
            assert_eq!(after_failover(class, worked_in, answered_by), class);
        }
    }
}

/// What an operator needs stands in the facts: codes, request id, message, on one line and bounded.
#[test]
fn facts_are_kept() {
    let body =
        vault_error("Forbidden", Some("KeyDisabled"), &format!("line one\r\nline two {}", "x".repeat(2000)));
    let (_, facts) = classify(UNWRAP, Ok(Answer { status: 403, body: body.as_bytes() }));
    assert_eq!((facts.http_status, facts.code.as_deref()), (Some(403), Some("Forbidden")));
    assert_eq!(facts.inner_code.as_deref(), Some("KeyDisabled"));
    let message = facts.message.unwrap();
    assert!(message.starts_with("line one  line two xxx") && message.chars().count() == 500, "{message}");

    // Some proxies write `innerError`.
    let body = r#"{"error":{"code":"Forbidden","message":"m","innerError":{"code":"ForbiddenByRbac"}}}"#;
    let (class, facts) = classify(UNWRAP, Ok(Answer { status: 403, body: body.as_bytes() }));
    assert_eq!((class, facts.inner_code.as_deref()), (Class::DeniedByRbac, Some("ForbiddenByRbac")));

    let (_, facts) = classify(
        ENTRA,
        Ok(Answer { status: 401, body: entra_error("invalid_client", Some(7_000_222)).as_bytes() }),
    );
    assert_eq!(facts.code.as_deref(), Some("invalid_client"));
    assert_eq!(facts.inner_code.as_deref(), Some("AADSTS7000222"));
    assert_eq!(facts.request_id.as_deref(), Some("7d9cf2b1-0000-0000-0000-000000000001"));

    // Of several numbers the one that decided is shown.
    for (numbers, shown) in [
        ("[7000112,7]", "AADSTS7"),
        ("[700016,50012]", "AADSTS50012"),
        ("[7000112,700016]", "AADSTS700016"),
        ("[7000112]", "AADSTS7000112"),
        ("[7000215,90033]", "AADSTS90033"),
    ] {
        let body = format!(r#"{{"error":"unauthorized_client","error_codes":{numbers}}}"#);
        let (_, facts) = classify(ENTRA, Ok(Answer { status: 400, body: body.as_bytes() }));
        assert_eq!(facts.inner_code.as_deref(), Some(shown), "{numbers}");
    }

    let body = vault_error("Unauthorized", None, "AKV10046: Unable to resolve the key.");
    let (_, facts) = classify(UNWRAP, Ok(Answer { status: 401, body: body.as_bytes() }));
    assert_eq!(facts.inner_code.as_deref(), Some("AKV10046"));
}

/// A body of an answer that worked, or one that is not the service's, never gets into the facts.
#[test]
fn bodies_are_not_repeated() {
    for (stage, status) in [(UNWRAP, 200), (ENTRA, 200), (IMDS, 200), (ARM, 200), (UNWRAP, 403), (ENTRA, 400)]
    {
        let body = r#"{"kid":"k","value":"SECRET","access_token":"SECRET"}"#;
        let (_, facts) = classify(stage, Ok(Answer { status, body: body.as_bytes() }));
        assert!(!format!("{facts:?}").contains("SECRET"), "{facts:?}");
    }
}

fn stages() -> impl Strategy<Value = Stage> {
    prop::sample::select(vec![UNWRAP, WRAP, GET, ENTRA, IMDS, ARM])
}

/// The reference's table of the vault, column by column: only these four pairs of status and code weigh at all.
#[test]
fn what_weighs_is_a_short_list() {
    let statuses = [400, 401, 403, 404, 407, 408, 409, 410, 423, 429, 451, 500, 502, 503, 511];
    let codes = [
        "",
        "BadParameter",
        "Unauthorized",
        "Forbidden",
        "forbidden",
        "KeyNotFound",
        "SecretNotFound",
        "NotFound",
        "VaultNotFound",
        "Conflict",
        "Throttled",
        "AccessDenied",
        "KeyDisabled",
        "ResourceNotFound",
        "AuthorizationFailed",
    ];
    let inner_codes = [
        None,
        Some(""),
        Some("AccessDenied"),
        Some("ForbiddenByPolicy"),
        Some("ForbiddenByRbac"),
        Some("ForbiddenByFirewall"),
        Some("ForbiddenByConnection"),
        Some("KeyDisabled"),
        Some("keydisabled"),
        Some("SecretDisabled"),
        Some("KeyNotYetValid"),
        Some("KeyExpired"),
        Some("KeyOperationForbidden"),
        Some("ForbiddenByAzurePolicy"),
        Some("ObjectIsBeingDeleted"),
        Some("VaultIsReadOnly"),
    ];
    let mut weighing = std::collections::BTreeSet::new();
    for stage in [UNWRAP, WRAP, GET, ENTRA, IMDS] {
        for status in statuses {
            for code in codes {
                for inner in inner_codes {
                    let body = vault_error(code, inner, "m");
                    let (class, _) = classify(stage, Ok(Answer { status, body: body.as_bytes() }));
                    if class.weight() != Weight::Neutral {
                        weighing.insert((status, code, inner.filter(|_| status == 403)));
                    }
                }
            }
        }
    }
    let expected = [
        (403, "Forbidden", Some("AccessDenied")),
        (403, "Forbidden", Some("ForbiddenByPolicy")),
        (403, "Forbidden", Some("ForbiddenByRbac")),
        (403, "Forbidden", Some("KeyDisabled")),
        (403, "Forbidden", Some("KeyOperationForbidden")),
        (404, "KeyNotFound", None),
    ];
    assert_eq!(weighing, expected.into_iter().collect());
}

proptest! {
    /// Bytes that are not the service's never weigh, whatever the status.
    #[test]
    fn garbled_bodies_never_weigh(stage in stages(), status in 100u16..600, body in prop::collection::vec(any::<u8>(), 0..300)) {
        let (class, _) = classify(stage, Ok(Answer { status, body: &body }));
        let expected = if (200..300).contains(&status) { Weight::Success } else { Weight::Neutral };
        prop_assert_eq!(class.weight(), expected);
    }

    /// A 5xx, 429 or 401 never weighs, whatever its body says.
    #[test]
    fn outages_never_weigh_whatever_they_say(
        stage in stages(),
        status in prop_oneof![500u16..600, Just(429), Just(401)],
        code in "[A-Za-z]{0,12}|Forbidden|KeyNotFound",
        inner in prop_oneof![Just("KeyDisabled"), Just("ForbiddenByRbac"), Just("AccessDenied"), Just("KeyOperationForbidden")],
    ) {
        let (class, _) = classify(stage, Ok(Answer { status, body: vault_error(&code, Some(inner), "m").as_bytes() }));
        prop_assert_eq!(class.weight(), Weight::Neutral);
    }

    /// A cut-off answer never weighs: only a whole one is definite.
    #[test]
    fn truncated_answers_never_weigh(cut in any::<prop::sample::Index>()) {
        let body = vault_error("Forbidden", Some("KeyDisabled"), "Operation unwrapKey is not allowed on a disabled key.");
        let (class, _) = classify(UNWRAP, Ok(Answer { status: 403, body: &body.as_bytes()[..cut.index(body.len())] }));
        prop_assert_eq!(class, Class::Malformed);
    }
}
