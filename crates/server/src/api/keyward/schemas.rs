//! The shapes of our own API, as JSON schemas.

use serde_json::{Value, json};

/// All of them, by name.
pub(super) fn schemas() -> Value {
    let text = || json!({"type": "string"});
    let maybe = || json!({"type": "string", "nullable": true});
    let time = || json!({"type": "string", "format": "date-time"});
    let maybe_time = || json!({"type": "string", "format": "date-time", "nullable": true});
    let number = || json!({"type": "integer"});
    let flag = || json!({"type": "boolean"});
    let list =
        |schema: &str| json!({"type": "array", "items": {"$ref": format!("#/components/schemas/{schema}")}});
    let texts = || json!({"type": "array", "items": {"type": "string"}});
    let object = |required: &[&str], properties: Value| json!({"type": "object", "required": required, "properties": properties});
    let state = || {
        json!({
            "type": "string",
            "enum": ["starting", "running", "waitingForCustomerKey", "stoppedRevoked", "stopped", "failed"],
        })
    };
    let verdict = || json!({"type": "string", "enum": ["Valid", "Unavailable", "Revoked"]});
    let mut all = json!({
        "Any": {"type": "object"},
        "Link": object(&["rel", "href"], json!({"rel": text(), "href": text()})),
        "Error": object(
            &["detail", "error", "errorCode", "parameters", "reason"],
            json!({
                "detail": text(), "error": number(), "errorCode": text(), "parameters": texts(), "reason": text(),
                "badRequestDetail": {"type": "object"},
            }),
        ),
        "Job": object(
            &["name", "intervalS", "passes", "failures", "elsewhere"],
            json!({
                "name": text(), "intervalS": number(), "passes": number(), "failures": number(),
                "elsewhere": flag(), "started": maybe_time(), "tookMs": {"type": "integer", "nullable": true},
                "status": {"type": "object", "nullable": true}, "error": maybe(),
            }),
        ),
        "RevocationPolicy": object(
            &[],
            json!({
                "refusals": number(), "strongWindowMs": number(), "denialWindowMs": number(), "gapMs": number(),
            }),
        ),
        "EncryptionChange": object(&[], json!({"clientSecretExpires": maybe_time()})),
        "EncryptionNode": object(
            &["id", "name", "moved", "heldBack"],
            json!({
                "id": text(), "name": text(), "cluster": maybe(), "state": maybe(), "verdict": maybe(),
                "reason": maybe(), "keyIdentifier": maybe(), "wantedKeyIdentifier": maybe(), "moved": flag(),
                "masterKeyHeld": {"type": "boolean", "nullable": true}, "progress": maybe(),
                "heldBack": {"type": "array", "items": object(
                    &["what", "reason", "hint", "needsApproval"],
                    json!({"what": text(), "reason": text(), "hint": text(), "needsApproval": flag()}),
                )},
                "reportedAt": maybe_time(),
            }),
        ),
        "FormerKey": object(
            &["keyIdentifier", "from", "until", "neededByNodes", "neededBySnapshots"],
            json!({
                "keyIdentifier": text(), "from": time(), "until": time(), "neededByNodes": texts(),
                "neededBySnapshots": {"type": "array", "items": object(
                    &["url", "node", "createdAt", "masterKeyId"],
                    json!({"url": text(), "node": text(), "createdAt": time(), "masterKeyId": text()}),
                )},
            }),
        ),
        "Encryption": object(
            &["azureKeyVault", "validity", "policy", "progress", "nodes", "formerKeys"],
            json!({
                "azureKeyVault": {"type": "object"},
                "validity": object(
                    &["valid", "findings", "warnings"],
                    json!({
                        "valid": flag(), "checkedAt": maybe_time(), "unreachableSince": maybe_time(),
                        "findings": texts(), "warnings": texts(),
                        "vaultRotatesAfterDays": {"type": "integer", "nullable": true},
                    }),
                ),
                "keyChangedAt": maybe_time(), "clientSecretExpires": maybe_time(),
                "policy": {"$ref": "#/components/schemas/RevocationPolicy"},
                "progress": object(&["nodes", "moved"], json!({"nodes": number(), "moved": number()})),
                "nodes": list("EncryptionNode"), "formerKeys": list("FormerKey"),
            }),
        ),
        "Waiting": object(
            &["work", "on", "text"],
            json!({
                "work": {
                    "type": "string",
                    "enum": [
                        "place", "release", "run", "firstKey", "moveKey", "rotateMasterKey", "resync", "switchOff",
                    ],
                },
                "on": object(&["kind"], json!({
                    "kind": {
                        "type": "string",
                        "enum": [
                            "report", "otherNode", "nodeUnhealthy", "member", "stepDown", "majority", "noReplicaSet",
                            "window", "verdict", "approval", "noFreeNode", "noCustomerKey", "paused",
                        ],
                    },
                    "node": text(), "nodeName": text(), "state": maybe(), "left": number(), "needed": number(),
                    "opens": time(), "daysLate": number(), "pastDay90": flag(), "verdict": text(),
                    "missing": number(),
                })),
                "text": text(),
            }),
        ),
        "HeldBack": object(
            &["what", "reason", "hint", "needsApproval"],
            json!({
                "what": text(), "reason": text(), "hint": text(), "needsApproval": flag(), "approval": maybe(),
                "revision": number(),
            }),
        ),
        "ClusterNode": object(
            &["id", "name", "revision", "done", "waiting", "silent"],
            json!({
                "id": text(), "name": text(), "hostname": maybe(), "address": text(), "agentVersion": text(),
                "state": state(), "reason": text(), "since": time(), "verdict": verdict(), "customerKey": maybe(),
                "wantedCustomerKey": maybe(), "encrypted": flag(), "masterKeyId": maybe(),
                "masterKeyCreatedAt": maybe_time(), "masterKeyAgeDays": {"type": "integer", "nullable": true},
                "masterKeyHeld": flag(), "replicaState": maybe(),
                "engine": {"type": "object", "nullable": true, "properties": {"kind": text(), "version": text()}},
                "reportedAt": time(), "silent": flag(), "revision": number(), "doneRevision": number(),
                "done": flag(), "work": maybe(), "waiting": list("Waiting"), "progress": maybe(),
                "heldBack": list("HeldBack"), "warnings": texts(),
            }),
        ),
        "ClusterNodes": object(
            &["results", "totalCount", "cluster"],
            json!({
                "results": list("ClusterNode"),
                "totalCount": number(),
                "cluster": object(&["name", "state", "nodesWanted", "waiting", "violations"], json!({
                    "name": text(),
                    "state": {
                        "type": "string", "enum": ["IDLE", "CREATING", "UPDATING", "DELETING", "REPAIRING"],
                    },
                    "nodesWanted": number(), "waiting": list("Waiting"), "violations": texts(),
                })),
            }),
        ),
        "RotatedNodes": object(&["nodes"], json!({"nodes": texts()})),
        "Node": object(
            &["id", "name", "hostname", "enrolledAt"],
            json!({
                "id": text(), "name": text(), "hostname": text(), "clusterName": maybe(), "enrolledAt": time(),
                "revokedAt": maybe_time(), "silentSince": maybe_time(), "reportedAt": maybe_time(),
                "agentVersion": maybe(), "address": maybe(), "state": maybe(), "verdict": maybe(), "heldBack": {
                    "type": "array", "nullable": true, "items": {"$ref": "#/components/schemas/HeldBack"},
                },
                "progress": maybe(), "status": {"type": "object", "nullable": true},
                "wraps": {"type": "array", "nullable": true, "items": {"type": "object"}},
                "snapshots": {"type": "array", "nullable": true, "items": {"type": "object"}},
            }),
        ),
        "NewJoinToken": object(&[], json!({"name": maybe()})),
        "JoinToken": object(
            &["id", "createdAt", "expiresAt", "usable"],
            json!({
                "id": text(), "name": maybe(), "createdAt": time(), "expiresAt": time(), "usedBy": maybe(),
                "usable": flag(), "token": text(),
            }),
        ),
        "Alert": object(
            &["id", "alertConfigId", "groupId", "eventTypeName", "status", "created", "updated", "text", "since"],
            json!({
                "id": text(), "alertConfigId": text(), "groupId": text(), "orgId": text(), "eventTypeName": text(),
                "status": {"type": "string", "enum": ["OPEN", "TRACKING", "CLOSED", "CANCELLED"]},
                "created": time(), "updated": time(), "resolved": time(), "lastNotified": time(),
                "acknowledgedUntil": time(), "acknowledgementComment": text(), "acknowledgingUsername": text(),
                "acknowledgedBy": maybe(), "clusterName": maybe(), "replicaSetName": text(),
                "hostnameAndPort": text(), "node": maybe(), "text": text(), "since": time(), "links": list("Link"),
            }),
        ),
        "Event": object(
            &["id", "at", "type", "text", "outcome", "actor", "detail"],
            json!({
                "id": text(), "at": time(), "type": text(), "text": text(), "outcome": text(), "actor": text(),
                "remoteAddress": maybe(), "orgId": maybe(), "groupId": maybe(), "clusterName": maybe(),
                "detail": {"type": "object"},
            }),
        ),
    });
    // By itself: the text above is as long as the macro takes.
    all["Server"] = object(
        &["certificate", "agentAuthority"],
        json!({
            "certificate": object(
                &["own", "validFrom", "validUntil", "since"],
                json!({
                    "own": flag(), "validFrom": time(), "validUntil": time(), "since": time(), "problem": maybe(),
                }),
            ),
            "agentAuthority": object(
                &["sha256"],
                json!({
                    "sha256": text(), "madeAt": maybe_time(), "replacedFrom": maybe_time(),
                    "former": {"type": "object", "nullable": true},
                }),
            ),
        }),
    );
    all
}
