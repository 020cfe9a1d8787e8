"""Azure's own Python client with no setting at all, as with a hosts file: only the authority is trusted.

Argument: the vault's vault.json. A hosts file can't be had in a test, so names are resolved here: Azure's names lead to
the vault's two listeners.
"""

import json
import os
import socket
import sys
from urllib.parse import urlsplit

vault = json.load(open(sys.argv[1]))
os.environ["REQUESTS_CA_BUNDLE"] = vault["caFile"]
host = vault["vaultName"] + ".vault.azure.net"
listeners = {host: urlsplit(vault["url"]).port, "login.microsoftonline.com": urlsplit(vault["authority"]).port}
resolve = socket.getaddrinfo


def hosts_file(name, port, *rest, **more):
    assert name in listeners and port == 443, f"asked for {name}:{port}"
    return resolve("127.0.0.1", listeners[name], *rest, **more)


socket.getaddrinfo = hosts_file

from azure.identity import ClientSecretCredential  # noqa: E402
from azure.keyvault.keys import KeyClient  # noqa: E402
from azure.keyvault.keys.crypto import CryptographyClient, KeyWrapAlgorithm  # noqa: E402

credential = ClientSecretCredential(vault["tenantId"], vault["clientId"], vault["clientSecret"])
key = KeyClient(f"https://{host}", credential).create_rsa_key("unchanged")
assert key.id.startswith(f"https://{host}/keys/unchanged/"), key.id
client = CryptographyClient(key, credential)
wrapped = client.wrap_key(KeyWrapAlgorithm.rsa_oaep_256, b"secret").encrypted_key
assert client.unwrap_key(KeyWrapAlgorithm.rsa_oaep_256, wrapped).key == b"secret"
print("unchanged: all done")
