//! What a refusal of the server means for a person.

use keyward_model::Code;
use serde::Deserialize;

use crate::failure::{Failure, REVOKED, UNAVAILABLE};

/// Atlas' error body.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Body {
    detail: String,
    error_code: String,
    bad_request_detail: Fields,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Fields {
    fields: Vec<Field>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Field {
    field: String,
    description: String,
}

/// Whether a 401 says "who are you", and not "you may not".
pub(super) fn wants_signature(body: &[u8]) -> bool {
    let body: Body = serde_json::from_slice(body).unwrap_or_default();
    matches!(body.error_code.as_str(), "" | "UNEXPECTED_ERROR")
}

/// The failure of a call that was answered with `status` and `body`; `who` asked.
pub(super) fn failure(status: u16, body: &[u8], who: &str) -> Failure {
    let parsed: Body = serde_json::from_slice(body).unwrap_or_default();
    if parsed.error_code.is_empty() {
        return Failure::new(
            format!("the server answers with status {status}"),
            "check that the address is that of a keyward server, and read its log",
        );
    }
    if status == 401 && wants_signature(body) {
        return Failure::new(
            format!("the server does not accept {who}"),
            "check the key or secret; `keyward login` stores another one",
        );
    }
    let (message, advice) = split(&parsed);
    let hint = advice.unwrap_or_else(|| by_status(status).to_owned());
    let mut failure = Failure::new(message, hint).with_exit(exit(status, &parsed.error_code));
    failure.causes = parsed
        .bad_request_detail
        .fields
        .into_iter()
        .map(|field| format!("{}: {}", field.field, field.description))
        .chain([format!("{} (status {status})", parsed.error_code)])
        .collect();
    failure
}

/// The text, and the advice that the code has, which the server puts at the text's end.
fn split(body: &Body) -> (String, Option<String>) {
    let whole = body.detail.trim();
    let advised = Code::ALL
        .iter()
        .filter(|code| code.as_str() == body.error_code)
        .find_map(|code| Some((whole.strip_suffix(code.advice())?, code.advice())));
    let (text, advice) = match advised {
        Some((text, advice)) => (text, Some(as_said_here(advice))),
        None => (whole, None),
    };
    (as_said_here(text), advice)
}

/// A sentence as this program writes them: no capital, unless it is an abbreviation or a name, and no full stop.
fn as_said_here(sentence: &str) -> String {
    let text = sentence.trim().trim_end_matches('.');
    let mut characters = text.chars();
    match (characters.next(), characters.next()) {
        (Some(first), Some(second)) if second.is_lowercase() || second == ' ' => {
            first.to_lowercase().chain([second]).chain(characters).collect()
        }
        _ => text.to_owned(),
    }
}

fn by_status(status: u16) -> &'static str {
    match status {
        400 => "correct what is named above; nothing was changed",
        401 | 403 => "ask an owner of the project or organization for the role (keyward project member add)",
        404 => "see what there is: keyward project list, keyward cluster list",
        409 => "change what stands in the way, then repeat the command",
        429 => "wait a minute, then repeat the command",
        503 => "nothing was changed; repeat the command when what is named above answers again",
        _ => "read the server's log; report it if it says no more than this",
    }
}

fn exit(status: u16, code: &str) -> u8 {
    match (status, code) {
        (503, _) => UNAVAILABLE,
        (_, "AZURE_KEY_VAULT_KEY_NOT_ENABLED" | "NO_PERMISSION_TO_ENCRYPT_DECRYPT") => REVOKED,
        _ => crate::failure::FAILED,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn said(status: u16, body: &serde_json::Value) -> Failure {
        failure(status, body.to_string().as_bytes(), "abcdefgh")
    }

    #[test]
    fn the_advice_of_a_code_becomes_the_hint() {
        let code = Code::UserUnauthorized;
        let body = json!({
            "detail": format!("The key abcdefgh is no owner of payments. {}", code.advice()),
            "error": 401, "errorCode": code.as_str(), "parameters": [], "reason": "Unauthorized",
        });
        let failure = said(401, &body);
        assert_eq!(failure.message, "the key abcdefgh is no owner of payments");
        assert_eq!(failure.hint, as_said_here(code.advice()));
        assert_eq!(as_said_here("ARM said no."), "ARM said no");
        assert_eq!(as_said_here("A key."), "a key");
        assert_eq!(failure.causes, ["USER_UNAUTHORIZED (status 401)"]);
        assert_eq!(failure.exit, crate::failure::FAILED);
    }

    #[test]
    fn fields_are_named_and_an_outage_has_its_exit_code() {
        let body = json!({
            "detail": "Wrong", "errorCode": "INVALID_SOMETHING_NEW",
            "badRequestDetail": { "fields": [{ "field": "azureKeyVault.tenantID", "description": "no UUID" }] },
        });
        let failure = said(400, &body);
        assert_eq!(failure.causes, ["azureKeyVault.tenantID: no UUID", "INVALID_SOMETHING_NEW (status 400)"]);
        assert_eq!(said(503, &body).exit, UNAVAILABLE);
    }

    #[test]
    fn an_unknown_key_and_a_foreign_server_are_told_apart() {
        let unknown =
            json!({ "detail": "You are not authorized for this resource.", "errorCode": "UNEXPECTED_ERROR" });
        assert_eq!(said(401, &unknown).message, "the server does not accept abcdefgh");
        let foreign = failure(502, b"<html>", "abcdefgh");
        assert_eq!(foreign.message, "the server answers with status 502");
        assert!(wants_signature(unknown.to_string().as_bytes()) && wants_signature(b""));
        let role = json!({ "detail": "x", "errorCode": "USER_UNAUTHORIZED" });
        assert!(!wants_signature(role.to_string().as_bytes()));
    }
}
