"""Holds every answer of the server against the official document.

Where that document and answers that were recorded of the real service differ, the recorded ones win: each such place
is corrected in the document once it is loaded, below. The environment variable KEYWARD_KNOWN has the ids of things
that exist, as JSON, so that requests reach more than "not found".
"""

import json
import os

import schemathesis

KNOWN = json.loads(os.environ["KEYWARD_KNOWN"])

# Whatever ends these would take the ground from under every later request.
KEPT = {"deleteGroup", "deleteOrg", "deleteGroupCluster"}

# What a request may be refused with beside what the document lists.
REFUSALS = ("400", "401", "403", "404", "405", "406", "409", "413", "415", "429", "501")


def operations(document):
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            if isinstance(operation, dict) and "operationId" in operation:
                yield path, method, operation


def schemas(value):
    if isinstance(value, dict):
        yield value
        for inner in value.values():
            yield from schemas(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from schemas(inner)


@schemathesis.hook
def before_load_schema(context, schema):
    by_id = {operation["operationId"]: operation for _, _, operation in operations(schema)}

    def also(operation_id, status, like):
        answers = by_id[operation_id]["responses"]
        answers[status] = answers.pop(like)

    # Recorded: 201 where the document has 200, 202 where it has 204.
    also("createGroup", "201", "200")
    also("createGroupAlertConfig", "201", "200")
    also("deleteGroup", "202", "204")
    # Recorded: an empty body, and the media type in another header.
    for operation_id in ("updateGroupMaintenanceWindow", "deferGroupMaintenanceWindow"):
        by_id[operation_id]["responses"]["200"] = {"description": ""}
    by_id["toggleGroupMaintenanceWindowAutoDefer"]["responses"]["200"] = {"description": ""}
    # Answers without a body carry no media type.
    for _, _, operation in operations(schema):
        for status in ("202", "204"):
            if operation["responses"].get(status, {}).get("content"):
                bodies = operation["responses"][status]["content"].values()
                if not any(body.get("schema") for body in bodies):
                    operation["responses"][status] = {"description": ""}

    # Recorded: parameters are texts, where the document has objects.
    error = schema["components"]["schemas"]["ApiError"]
    error["properties"]["parameters"] = {"type": "array", "items": {"type": "string"}}
    refusal = {
        "description": "",
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/ApiError"}}},
    }
    for _, _, operation in operations(schema):
        for status in REFUSALS:
            operation["responses"].setdefault(status, refusal)

    # The document's unions overlap (HOST_DOWN is in two members of one, the hardware of three clouds is the same),
    # and it calls unions of texts objects.
    for union in schemas(schema["components"]["schemas"]):
        members = union.get("oneOf")
        if not isinstance(members, list):
            continue
        if all(one.get("type") == "string" for one in members):
            union.pop("type", None)
        union["anyOf"] = union.pop("oneOf")
    # No answer has a password. The pattern of telephone numbers escapes its escapes, so that no number fits it.
    user = schema["components"]["schemas"]["CloudAppUser"]
    user["required"] = [name for name in user["required"] if name != "password"]
    user["properties"]["mobileNumber"].pop("pattern")
    # Newer than the document.
    stalled = ["ENCRYPTION_AT_REST_CONFIG_UPDATE_STALLED", "ENCRYPTION_AT_REST_CONFIG_UPDATE_NO_LONGER_STALLED"]
    audit = schema["components"]["schemas"].get("NDSAuditTypeViewForNdsGroup", {})
    if "enum" in audit:
        audit["enum"] = audit["enum"] + stalled


def media_type(case):
    """The version that the document has of an operation's answer."""
    answers = case.operation.definition.raw["responses"]
    for status in sorted(answers):
        answer = answers[status]
        if status.startswith("2") and answer.get("content"):
            return sorted(answer["content"])[-1]
    return "application/vnd.atlas.2025-03-12+json"


@schemathesis.hook
def before_call(context, case, kwargs):
    operation_id = case.operation.definition.raw.get("operationId")
    headers = dict(case.headers or {})
    headers["Accept"] = media_type(case)
    headers["Authorization"] = KNOWN["authorization"]
    case.headers = headers
    # The document does not describe what an envelope makes of an answer.
    if case.query:
        case.query.pop("envelope", None)
    if operation_id not in KEPT and case.path_parameters:
        for name, value in KNOWN["path"].items():
            if name in case.path_parameters:
                case.path_parameters[name] = value
    if isinstance(case.body, dict):
        # Another cloud cannot be reached from here, and an access list would lock this very client out.
        vault = case.body.get("azureKeyVault")
        if isinstance(vault, dict) and isinstance(vault.get("azureEnvironment"), str):
            vault["azureEnvironment"] = "AZURE"
        if operation_id == "updateOrgSettings":
            case.body["apiAccessListRequired"] = False


@schemathesis.check
def no_server_error(context, response, case):
    """501 is the honest answer of an operation that is not built; everything else from 500 up is a fault."""
    if response.status_code == 501:
        body = response.json()
        assert body["errorCode"] == "NOT_IMPLEMENTED", body
    elif response.status_code >= 500:
        raise AssertionError(f"{response.status_code}: {response.text}")


@schemathesis.check
def no_secret(context, response, case):
    """The client secret of the project's vault is in no answer."""
    assert KNOWN["secret"] not in response.text
