//! The OpenAPI document of our own API, made from the table of operations and the descriptions here.
//!
//! It is served, and committed as `docs/reference/keyward-openapi.json`; a test keeps the three equal.

use http::Method;
use keyward_model::role::{OrgRole, ProjectRole, Requirement};
use serde_json::{Map, Value, json};

use super::schemas::schemas;
use crate::{
    api::{Operation, Reply, Request},
    handler,
    http::error::ApiError,
};

/// What our own paths begin with.
pub const PREFIX: &str = "/api/keyward/v1";

/// Its operation.
pub fn operations() -> Vec<Operation> {
    vec![Operation {
        id: "getOpenApi",
        method: Method::GET,
        path: "/api/keyward/v1/openapi.json",
        versions: &[],
        requires: Requirement::Authenticated,
        handler: handler!(get),
    }]
}

async fn get(_request: Request) -> Result<Reply, ApiError> {
    Ok(Reply::ok(document(crate::api::all())))
}

/// What an operation does and answers.
struct Described {
    id: &'static str,
    summary: &'static str,
    /// The schema of its body.
    takes: Option<&'static str>,
    /// Status and schema of its answer.
    answers: (u16, Answers),
}

#[derive(Clone, Copy)]
enum Answers {
    Nothing,
    One(&'static str),
    Page(&'static str),
}

const fn described(
    id: &'static str,
    summary: &'static str,
    takes: Option<&'static str>,
    status: u16,
    answers: Answers,
) -> Described {
    Described { id, summary, takes, answers: (status, answers) }
}

use Answers::{Nothing, One, Page};

/// Every operation of our own.
#[rustfmt::skip]
const DESCRIBED: &[Described] = &[
    described("getOpenApi", "This document.", None, 200, One("Any")),
    described("getServer", "This server: the API's certificate, and the authority that agents trust.", None, 200, One("Server")),
    described("listJobs", "What the jobs of this server did last.", None, 200, Page("Job")),
    described("listClusterNodes", "The members of a cluster: what each reported, what is asked of it, what it waits for.", None, 200, One("ClusterNodes")),
    described("rotateClusterMasterKeys", "Rotates the master key of every member, one at a time, without waiting for the maintenance window.", None, 202, One("RotatedNodes")),
    described("getEncryption", "Encryption at rest in full: how far each node is, what the last check found, what still needs which former key.", None, 200, One("Encryption")),
    described("updateEncryption", "Says when the client secret expires.", Some("EncryptionChange"), 200, One("Encryption")),
    described("getRevocationPolicy", "When refusals become a revocation.", None, 200, One("RevocationPolicy")),
    described("updateRevocationPolicy", "Changes when refusals become a revocation; what is absent stays.", Some("RevocationPolicy"), 200, One("RevocationPolicy")),
    described("listNodes", "The nodes that have joined a project.", None, 200, Page("Node")),
    described("getNode", "One node with all that it reported.", None, 200, One("Node")),
    described("revokeNode", "Revokes a node's certificate. The node works on with what it has.", None, 204, Nothing),
    described("listJoinTokens", "Join tokens that have not expired, without their secrets.", None, 200, Page("JoinToken")),
    described("createJoinToken", "Makes a token by which one node joins the project. Its text is shown once.", Some("NewJoinToken"), 201, One("JoinToken")),
    described("deleteJoinToken", "Takes a join token back.", None, 204, Nothing),
    described("listAlerts", "All alerts of a project, in words.", None, 200, Page("Alert")),
    described("listEvents", "All events of a project, those that Atlas does not have included.", None, 200, Page("Event")),
    described("listOrgEventsInFull", "All events of an organization, those that Atlas does not have included.", None, 200, Page("Event")),
];

/// The document of those of `operations` that are our own.
pub fn document(operations: &[Operation]) -> Value {
    let mut paths: Map<String, Value> = Map::new();
    for operation in operations.iter().filter(|operation| operation.path.starts_with(PREFIX)) {
        let path = paths.entry(operation.path).or_insert_with(|| json!({}));
        path[operation.method.as_str().to_lowercase()] = describe(operation);
    }
    paths.sort_keys();
    json!({
        "openapi": "3.0.3",
        "info": {
            "title": "keyward",
            "version": "1",
            "description": "What keyward answers beside the Atlas Administration API.",
            "license": {"name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"},
        },
        "security": [{"Digest": []}, {"ServiceAccount": []}],
        "paths": paths,
        "components": {
            "schemas": schemas(),
            "securitySchemes": {
                "Digest": {"type": "http", "scheme": "digest"},
                "ServiceAccount": {
                    "type": "oauth2",
                    "flows": {"clientCredentials": {"tokenUrl": "/api/oauth/token", "scopes": {}}},
                },
            },
        },
    })
}

/// The ids of our own operations that nobody described.
pub fn undescribed(operations: &[Operation]) -> Vec<&'static str> {
    let ours = operations.iter().filter(|operation| operation.path.starts_with(PREFIX));
    ours.map(|operation| operation.id).filter(|id| found(id).is_none()).collect()
}

fn found(id: &str) -> Option<&'static Described> {
    DESCRIBED.iter().find(|described| described.id == id)
}

fn describe(operation: &Operation) -> Value {
    let described = found(operation.id);
    let (status, answers) = described.map_or((200, One("Any")), |described| described.answers);
    let mut parameters: Vec<Value> = operation
        .path
        .split('/')
        .filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
        .map(|name| json!({"name": name, "in": "path", "required": true, "schema": {"type": "string"}}))
        .collect();
    if let Page(_) = answers {
        let number = |name: &str, usual: u32, most: Option<u32>| {
            let mut schema = json!({"type": "integer", "minimum": 1, "default": usual});
            if let Some(most) = most {
                schema["maximum"] = json!(most);
            }
            json!({"name": name, "in": "query", "required": false, "schema": schema})
        };
        parameters.push(number("pageNum", 1, None));
        parameters.push(number("itemsPerPage", 100, Some(500)));
    }
    let mut shown = json!({
        "operationId": operation.id,
        "summary": described.map_or(operation.id, |described| described.summary),
        "x-keyward-roles": roles(operation.requires),
        "parameters": parameters,
        "responses": {
            status.to_string(): answer(answers),
            "default": {
                "description": "A refusal or failure.",
                "content": {"application/json": {"schema": reference("Error")}},
            },
        },
    });
    if let Some(schema) = described.and_then(|described| described.takes) {
        shown["requestBody"] = json!({"content": {"application/json": {"schema": reference(schema)}}});
    }
    shown
}

fn answer(answers: Answers) -> Value {
    let schema = match answers {
        Nothing => return json!({"description": "Done."}),
        One(name) => reference(name),
        Page(name) => json!({
            "type": "object",
            "required": ["results"],
            "properties": {
                "links": {"type": "array", "items": reference("Link")},
                "results": {"type": "array", "items": reference(name)},
                "totalCount": {"type": "integer", "minimum": 0},
            },
        }),
    };
    json!({"description": "OK", "content": {"application/json": {"schema": schema}}})
}

fn reference(schema: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{schema}")})
}

/// Any of these roles is enough.
fn roles(requires: Requirement) -> Vec<String> {
    let name = |role: Value| role.as_str().unwrap_or_default().to_owned();
    match requires {
        Requirement::Nobody | Requirement::Authenticated => Vec::new(),
        Requirement::Org(roles) => roles.iter().map(|role: &OrgRole| name(json!(role))).collect(),
        Requirement::Project(roles) => roles.iter().map(|role: &ProjectRole| name(json!(role))).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The committed document is what is served. `KEYWARD_WRITE_DOCS=1` writes it anew.
    #[test]
    fn the_committed_document_is_the_code_s() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/reference/keyward-openapi.json");
        let now = serde_json::to_string_pretty(&document(crate::api::all())).unwrap() + "\n";
        if std::env::var_os("KEYWARD_WRITE_DOCS").is_some() {
            std::fs::write(file, &now).unwrap();
        }
        let committed = std::fs::read_to_string(file).unwrap_or_default();
        assert!(
            committed == now,
            "docs/reference/keyward-openapi.json is stale: KEYWARD_WRITE_DOCS=1 writes it"
        );
    }

    #[test]
    fn every_operation_of_ours_is_described_and_nothing_else() {
        let all = crate::api::all();
        assert_eq!(undescribed(all), [""; 0]);
        for described in DESCRIBED {
            let there = all.iter().any(|one| one.id == described.id && one.path.starts_with(PREFIX));
            assert!(there, "{} is described but not there", described.id);
        }
    }

    /// Every reference leads somewhere, and every schema is used.
    #[test]
    fn references_and_schemas_match() {
        let document = document(crate::api::all());
        let text = document.to_string();
        let schemas = document["components"]["schemas"].as_object().unwrap();
        for name in schemas.keys() {
            assert!(text.contains(&format!("\"#/components/schemas/{name}\"")), "{name} is used nowhere");
        }
        for (_, rest) in
            text.match_indices("\"#/components/schemas/").map(|(at, found)| (at, &text[at + found.len()..]))
        {
            let name = rest.split('"').next().unwrap();
            assert!(schemas.contains_key(name), "{name} is nowhere");
        }
    }
}
