"""Drives a development vault with Azure's own Python client. Argument: the vault's vault.json.

The first application must hold all permissions; the vault must be in RBAC mode with purge protection off.
"""

import datetime
import json
import sys
import time

import requests
from azure.core.exceptions import (
    ClientAuthenticationError,
    HttpResponseError,
    ResourceExistsError,
    ResourceNotFoundError,
    ServiceRequestError,
    ServiceResponseError,
)
from azure.identity import CertificateCredential, ClientSecretCredential
from azure.keyvault.keys import ApiVersion, JsonWebKey, KeyClient, KeyRotationLifetimeAction, KeyRotationPolicy
from azure.keyvault.keys import KeyRotationPolicyAction, KeyType
from azure.keyvault.keys.crypto import CryptographyClient, EncryptionAlgorithm, KeyWrapAlgorithm
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

vault = json.load(open(sys.argv[1]))
ca = vault["caFile"]


def admin(method, path, body=None):
    answer = requests.request(
        method,
        vault["adminUrl"] + "/keyward/v1/" + path,
        json=body,
        verify=ca,
        headers={"Authorization": "Bearer " + vault["adminToken"]},
        timeout=30,
    )
    assert answer.ok, (path, answer.status_code, answer.text)
    return answer.json() if answer.content else None


def secret_credential(client_id=None, secret=None):
    return ClientSecretCredential(
        vault["tenantId"],
        client_id or vault["clientId"],
        secret or vault["clientSecret"],
        authority=vault["authority"],
        disable_instance_discovery=True,
        connection_verify=ca,
    )


SETTINGS = dict(verify_challenge_resource=False, connection_verify=ca, retry_backoff_factor=0.1)


def key_client(credential, **more):
    return KeyClient(vault["url"], credential, **SETTINGS, **more)


def crypto(kid, credential):
    return CryptographyClient(kid, credential, **SETTINGS)


def refused(kind, call, status=None, code=None):
    try:
        call()
    except kind as error:
        if status is not None:
            assert error.status_code == status, (error.status_code, str(error))
        if code is not None:
            inner = getattr(error.error, "innererror", None) or {}
            found = inner.get("code") or error.error.code
            assert found == code, (found, str(error))
        return error
    raise AssertionError(f"{call} was not refused")


credential = secret_credential()
keys = key_client(credential)

# Create, get, versions, list.
first = keys.create_rsa_key("py-key", size=2048, tags={"for": "test"})
assert first.key_type == KeyType.rsa and first.properties.enabled and first.properties.tags == {"for": "test"}
assert len(first.properties.version) == 32 and first.id.startswith(vault["url"] + "/keys/py-key/")
assert keys.get_key("py-key").id == first.id
assert keys.get_key("py-key", first.properties.version).key.n == first.key.n
second = keys.create_rsa_key("py-key", size=3072)
assert second.properties.version != first.properties.version
versions = {p.version for p in keys.list_properties_of_key_versions("py-key")}
assert versions == {first.properties.version, second.properties.version}
for n in range(3):
    admin("POST", "keys", {"name": f"py-many-{n:02}", "size": 2048})
names = [p.name for p in keys.list_properties_of_keys(max_page_size=2)]
assert names == sorted(names) and "py-key" in names and "py-many-02" in names, names

# Update.
later = datetime.datetime(2040, 1, 1, tzinfo=datetime.timezone.utc)
updated = keys.update_key_properties("py-key", expires_on=later, tags={"a": "b"})
assert updated.properties.expires_on == later and updated.properties.tags == {"a": "b"}

# Encrypt and wrap (the client does these itself), decrypt and unwrap (the vault does).
secret = bytes(range(32))
for kid in (first.id, second.id):
    client = crypto(kid, credential)
    for algorithm in (KeyWrapAlgorithm.rsa_oaep_256, KeyWrapAlgorithm.rsa_oaep, KeyWrapAlgorithm.rsa1_5):
        wrapped = client.wrap_key(algorithm, secret)
        opened = client.unwrap_key(algorithm, wrapped.encrypted_key)
        assert opened.key == secret and opened.key_id == kid
    for algorithm in (EncryptionAlgorithm.rsa_oaep_256, EncryptionAlgorithm.rsa_oaep):
        sealed = client.encrypt(algorithm, secret)
        assert client.decrypt(algorithm, sealed.ciphertext).plaintext == secret
damaged = bytearray(crypto(first.id, credential).wrap_key(KeyWrapAlgorithm.rsa_oaep_256, secret).encrypted_key)
damaged[100] ^= 1
refused(
    HttpResponseError,
    lambda: crypto(first.id, credential).unwrap_key(KeyWrapAlgorithm.rsa_oaep_256, bytes(damaged)),
    400,
    "BadParameter",
)

# Import: the vault opens what the imported key seals, and the same numbers come back.
def octets(number):
    return number.to_bytes((number.bit_length() + 7) // 8, "big")


for size in (2048, 3072, 4096):
    pair = rsa.generate_private_key(public_exponent=65537, key_size=size)
    numbers = pair.private_numbers()
    imported = keys.import_key(
        "py-imported",
        JsonWebKey(
            kty="RSA",
            key_ops=["encrypt", "decrypt", "wrapKey", "unwrapKey"],
            n=octets(numbers.public_numbers.n),
            e=octets(numbers.public_numbers.e),
            d=octets(numbers.d),
            p=octets(numbers.p),
            q=octets(numbers.q),
            dp=octets(numbers.dmp1),
            dq=octets(numbers.dmq1),
            qi=octets(numbers.iqmp),
        ),
    )
    assert imported.key.n == octets(numbers.public_numbers.n)
    # What somebody else seals under the public key, the vault opens.
    oaep = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None)
    sealed = pair.public_key().encrypt(secret, oaep)
    assert crypto(imported.id, credential).unwrap_key(KeyWrapAlgorithm.rsa_oaep_256, sealed).key == secret
assert len(list(keys.list_properties_of_key_versions("py-imported"))) == 3

# Rotation and its policy.
policy = keys.update_key_rotation_policy(
    "py-key",
    KeyRotationPolicy(),
    expires_in="P2Y",
    lifetime_actions=[KeyRotationLifetimeAction(KeyRotationPolicyAction.rotate, time_after_create="P90D")],
)
assert policy.expires_in == "P2Y" and policy.lifetime_actions[0].time_after_create == "P90D"
assert keys.get_key_rotation_policy("py-key").lifetime_actions[0].action == KeyRotationPolicyAction.rotate
third = keys.rotate_key("py-key")
assert third.id not in (first.id, second.id) and third.properties.expires_on is not None
assert len(third.key.n) == len(second.key.n)
assert keys.get_key("py-key").id == third.id

# Disabled: readable, does not unwrap; the older version still does.
wrapped = crypto(third.id, credential).wrap_key(KeyWrapAlgorithm.rsa_oaep_256, secret).encrypted_key
keys.update_key_properties("py-key", third.properties.version, enabled=False)
assert keys.get_key("py-key").properties.enabled is False
fresh = crypto(third.id, credential)
refused(
    HttpResponseError, lambda: fresh.unwrap_key(KeyWrapAlgorithm.rsa_oaep_256, wrapped), 403, "KeyDisabled"
)
keys.update_key_properties("py-key", third.properties.version, enabled=True)
assert crypto(third.id, credential).unwrap_key(KeyWrapAlgorithm.rsa_oaep_256, wrapped).key == secret

# Delete, recover, purge, backup, restore.
blob = keys.backup_key("py-key")
refused(ResourceExistsError, lambda: keys.restore_key_backup(blob), 409)
deleted = keys.begin_delete_key("py-key", _polling_interval=0.1).result()
assert deleted.recovery_id.endswith("/deletedkeys/py-key") and deleted.scheduled_purge_date is not None
refused(ResourceNotFoundError, lambda: keys.get_key("py-key"), 404, "KeyNotFound")
refused(ResourceNotFoundError, lambda: crypto(third.id, credential).unwrap_key(KeyWrapAlgorithm.rsa_oaep_256, wrapped), 404)
assert keys.get_deleted_key("py-key").id == third.id
assert [k.name for k in keys.list_deleted_keys()] == ["py-key"]
refused(
    ResourceExistsError, lambda: keys.create_rsa_key("py-key"), 409, "ObjectIsDeletedButRecoverable"
)
recovered = keys.begin_recover_deleted_key("py-key", _polling_interval=0.1).result()
assert recovered.id == third.id
assert crypto(third.id, credential).unwrap_key(KeyWrapAlgorithm.rsa_oaep_256, wrapped).key == secret
keys.begin_delete_key("py-key", _polling_interval=0.1).result()
keys.purge_deleted_key("py-key")
refused(ResourceNotFoundError, lambda: keys.get_deleted_key("py-key"), 404)
restored = keys.restore_key_backup(blob)
assert restored.id == third.id
assert {p.version for p in keys.list_properties_of_key_versions("py-key")} == versions | {third.properties.version}
assert crypto(third.id, credential).unwrap_key(KeyWrapAlgorithm.rsa_oaep_256, wrapped).key == secret
refused(HttpResponseError, lambda: keys.restore_key_backup(b"x" * 300), 400, "BadParameter")

# Every api-version the client knows.
for version in ApiVersion:
    assert key_client(credential, api_version=version).get_key("py-key").id == third.id, version

# Denials: an application without a grant, in both models; credentials that are not good.
other = admin("POST", "apps", {"name": "other"})
stranger = secret_credential(other["clientId"], other["clientSecret"])
error = refused(HttpResponseError, lambda: key_client(stranger).get_key("py-key"), 403, "ForbiddenByRbac")
assert "Action: 'Microsoft.KeyVault/vaults/keys/read'" in error.message and other["clientId"] in error.message
admin("POST", "access/grant", {"clientId": other["clientId"]})
assert key_client(stranger).get_key("py-key").id == third.id
assert crypto(third.id, stranger).unwrap_key(KeyWrapAlgorithm.rsa_oaep_256, wrapped).key == secret
refused(HttpResponseError, lambda: crypto(third.id, stranger).decrypt(KeyWrapAlgorithm.rsa_oaep_256, wrapped), 403, "ForbiddenByRbac")
refused(HttpResponseError, lambda: key_client(stranger).rotate_key("py-key"), 403, "ForbiddenByRbac")
refused(ClientAuthenticationError, lambda: key_client(secret_credential(secret="no")).get_key("py-key"))
admin("POST", f"apps/{other['clientId']}/expire-secret")
error = refused(
    ClientAuthenticationError,
    lambda: key_client(secret_credential(other["clientId"], other["clientSecret"])).get_key("py-key"),
)
assert "AADSTS7000222" in str(error), error
admin("POST", f"apps/{other['clientId']}/renew-secret")
admin("POST", f"apps/{other['clientId']}/disable")
error = refused(
    ClientAuthenticationError,
    lambda: key_client(secret_credential(other["clientId"], other["clientSecret"])).get_key("py-key"),
)
assert "AADSTS7000112" in str(error), error
admin("POST", f"apps/{other['clientId']}/enable")
admin("POST", "access/grant", {"clientId": vault["clientId"], "model": "policy", "actions": ["get"]})
refused(HttpResponseError, lambda: key_client(stranger).get_key("py-key"), 403, "AccessDenied")
error = refused(HttpResponseError, lambda: keys.rotate_key("py-key"), 403, "ForbiddenByPolicy")
assert "does not have keys rotate permission" in error.message
admin("PATCH", "vault", {"accessModel": "rbac"})
assert keys.rotate_key("py-key").id != third.id

# A certificate in place of a secret.
pair = rsa.generate_private_key(public_exponent=65537, key_size=2048)
name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "client")])
now = datetime.datetime.now(datetime.timezone.utc)
certificate = (
    x509.CertificateBuilder()
    .subject_name(name)
    .issuer_name(name)
    .public_key(pair.public_key())
    .serial_number(7)
    .not_valid_before(now - datetime.timedelta(days=1))
    .not_valid_after(now + datetime.timedelta(days=1))
    .sign(pair, hashes.SHA256())
)
pem = certificate.public_bytes(serialization.Encoding.PEM)
private = pair.private_bytes(
    serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
)


def certificate_credential():
    return CertificateCredential(
        vault["tenantId"],
        vault["clientId"],
        certificate_data=private + pem,
        authority=vault["authority"],
        disable_instance_discovery=True,
        connection_verify=ca,
    )


refused(ClientAuthenticationError, lambda: key_client(certificate_credential()).get_key("py-key"))
admin("POST", f"apps/{vault['clientId']}/certificates", {"pem": pem.decode()})
assert key_client(certificate_credential()).get_key("py-key").name == "py-key"

# Faults: the client retries as told, and reports what does not pass.
# Counted from before the fault, which is over after a second, whatever delays the client.
begun = time.monotonic()
admin("PUT", "faults/throttle", {"forS": 1})
assert keys.get_key("py-key").name == "py-key"
assert time.monotonic() - begun >= 0.9, "Retry-After was not respected"
for fault, status, code in [
    ("firewall", 403, "ForbiddenByFirewall"),
    ("private-link", 403, "ForbiddenByConnection"),
    ("error500", 500, "InternalServerError"),
    ("error503", 503, "ServiceUnavailable"),
]:
    admin("PUT", f"faults/{fault}", {})
    refused(HttpResponseError, lambda: key_client(credential, retry_total=0).get_key("py-key"), status, code)
    admin("DELETE", "faults")
admin("PUT", "faults/error401", {})
refused(ClientAuthenticationError, lambda: key_client(credential, retry_total=0).get_key("py-key"), 401)
admin("DELETE", "faults")
for fault in ("refuse", "reset", "dns-gone"):
    admin("PUT", f"faults/{fault}", {})
    # A reset may strike before or after the request went out.
    refused((ServiceRequestError, ServiceResponseError), lambda: key_client(credential, retry_total=0).get_key("py-key"))
    admin("DELETE", "faults")
admin("PUT", "faults/read-only", {})
assert keys.get_key("py-key").name == "py-key"
refused(HttpResponseError, lambda: key_client(credential, retry_total=0).rotate_key("py-key"), 503)
admin("DELETE", "faults")
assert keys.get_key("py-key").name == "py-key"
print("python: all done")
