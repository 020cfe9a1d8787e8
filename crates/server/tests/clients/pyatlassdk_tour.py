"""A project from its creation to its end, driven with pyatlassdk as it is published.

Reads its orders as JSON from standard input and prints one line per step. Everything that the client returns has
been validated by it against the official document; an unexpected answer ends the tour with an error.
"""

import json
import sys
import time

from pyatlassdk import AtlasApiError, AtlasClient


def say(step, **facts):
    print(json.dumps({"step": step, **facts}), flush=True)


def without_body(call):
    """Calls an operation that Atlas answers with an empty body: pyatlassdk reads every body as JSON."""
    try:
        call()
    except json.JSONDecodeError:
        pass


def refused(code, call):
    try:
        call()
    except AtlasApiError as error:
        assert error.payload["errorCode"] == code, error.payload
        return error
    raise AssertionError(f"not refused with {code}")


def wait(what, check, seconds=60):
    end = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < end, f"waited too long for {what}"
        time.sleep(0.2)


def plain(model):
    return model.model_dump(mode="json", by_alias=True, exclude_none=True)


def main():
    orders = json.load(sys.stdin)
    client = AtlasClient(
        **orders["credentials"],
        base_url=orders["url"] + "/api/atlas/v2",
        oauth_token_url=orders["url"] + "/api/oauth/token",
    )
    say("signs in", mode=client.auth_mode)
    organizations = plain(client.organizations.list_orgs())
    assert [org["id"] for org in organizations["results"]] == [orders["org"]], organizations

    group = plain(client.projects.create_group({"name": orders["name"], "orgId": orders["org"]}))["id"]
    say("creates a project", group=group)

    owner = {"username": orders["owner"], "roles": ["GROUP_OWNER"]}
    user = plain(client.mongo_db_cloud_users.add_group_users(group, owner))
    assert user["username"] == orders["owner"], user
    say("adds a project owner", user=user["id"])

    encryption = client.encryption_at_rest_using_customer_key_management
    before = plain(encryption.get_group_encryption_at_rest(group))
    for provider in ("awsKms", "azureKeyVault", "googleCloudKms"):
        assert before[provider]["enabled"] is False, before
    spec = {
        "clusterType": "REPLICASET",
        "name": "orders",
        "encryptionAtRestProvider": "AZURE",
        "replicationSpecs": [
            {
                "regionConfigs": [
                    {
                        "providerName": "AZURE",
                        "regionName": "US_EAST_2",
                        "priority": 7,
                        "electableSpecs": {"instanceSize": "M10", "nodeCount": 3},
                    }
                ]
            }
        ],
    }
    refused("ENCRYPTION_AT_REST_NOT_ENABLED", lambda: client.clusters.create_group_cluster(group, spec))
    say("cannot encrypt before the key is configured")

    vault = orders["vault"]
    stored = plain(encryption.update_group_encryption_at_rest(group, {"azureKeyVault": vault}))["azureKeyVault"]
    assert stored["valid"] is True and "secret" not in stored, stored
    for name, value in vault.items():
        assert name == "secret" or stored[name] == value, (name, stored)
    say("sets the customer key")

    configs = plain(client.alert_configurations.list_group_alert_configs(group))["results"]
    rotation = [one for one in configs if one["eventTypeName"] == "AZURE_ENCRYPTION_KEY_NEEDS_ROTATION"]
    assert [one["threshold"]["threshold"] for one in rotation] == [90], configs
    say("has the alert configuration for the key's age")

    window = {"dayOfWeek": 1, "hourOfDay": 3}
    without_body(lambda: client.maintenance_windows.update_group_maintenance_window(group, window))
    read = plain(client.maintenance_windows.get_group_maintenance_window(group))
    assert (read["dayOfWeek"], read["hourOfDay"]) == (1, 3), read
    say("sets the maintenance window")

    cluster = plain(client.clusters.create_group_cluster(group, spec))
    assert cluster["encryptionAtRestProvider"] == "AZURE", cluster
    state = lambda: plain(client.clusters.get_group_cluster(group_id=group, cluster_name="orders"))["stateName"]
    wait("the cluster", lambda: state() == "IDLE")
    say("creates a cluster")
    processes = plain(client.monitoring_and_logs.list_group_processes(group))["results"]
    assert len(processes) == 3, processes

    rotated = {"azureKeyVault": {"keyIdentifier": orders["next_key"]}}
    stored = plain(encryption.update_group_encryption_at_rest(group, rotated))["azureKeyVault"]
    assert stored["keyIdentifier"] == orders["next_key"] and stored["valid"] is True, stored
    wait("the cluster", lambda: state() == "IDLE")
    say("rotates the key in place")

    events = plain(client.events.list_group_events(group))["results"]
    names = [event["eventTypeName"] for event in events]
    assert names.count("ENCRYPTION_AT_REST_CONFIGURATION_UPDATED") + names.count("AZURE_ENCRYPTION_KEY_ROTATED") >= 2, names
    assert "CLUSTER_CREATED" in names and names[-1] == "GROUP_CREATED", names
    one = plain(client.events.get_group_event(group_id=group, event_id=events[0]["id"]))
    assert one["eventTypeName"] == names[0], one
    say("reads events", count=len(names))

    refusal = refused(
        orders["in_use"],
        lambda: encryption.update_group_encryption_at_rest(group, {"azureKeyVault": {"enabled": False}}),
    )
    assert refusal.status_code == 409 and "orders" in str(refusal.payload), refusal.payload
    without_body(lambda: client.clusters.delete_group_cluster(group_id=group, cluster_name="orders"))

    def is_gone():
        try:
            client.clusters.get_group_cluster(group_id=group, cluster_name="orders")
        except AtlasApiError as error:
            assert error.payload["errorCode"] == "CLUSTER_NOT_FOUND", error.payload
            return True
        return False

    wait("the cluster's end", is_gone)
    off = {name: {"enabled": False} for name in ("awsKms", "azureKeyVault", "googleCloudKms")}
    after = plain(encryption.update_group_encryption_at_rest(group, off))
    assert after["azureKeyVault"]["enabled"] is False, after
    without_body(lambda: client.projects.delete_group(group))
    assert group not in [one["id"] for one in plain(client.projects.list_groups()).get("results", [])]
    say("tears down")
    client.close()


main()
