"""Who may do what: SCRAM-SHA-256, users, roles and their privileges, as far as keyward's documents name them."""

import base64
import hashlib
import hmac
import os

import wire

ITERATIONS = 15000
# What members call themselves to each other; its password is the key file.
SYSTEM = ("__system", "local")
CLUSTER = {"cluster": True}

READ = ["find", "listCollections", "listIndexes", "collStats", "dbStats"]
WRITE = ["insert", "update", "remove", "createCollection", "dropCollection", "createIndex", "dropIndex"]
MONITOR = ["replSetGetStatus", "replSetGetConfig", "serverStatus", "inprog", "listDatabases", "getCmdLineOpts"]
MANAGE = ["replSetConfigure", "replSetStateChange", "replSetGetStatus", "replSetGetConfig"]
HOST = ["fsync", "unlock", "shutdown", "inprog"]


def built_in(role, database):
    """The privileges of a role that every mongod has; `None` for one that it does not."""
    here = {"db": database, "collection": ""}
    everywhere = {"db": "", "collection": ""}
    return {
        "read": [(here, READ)],
        "readWrite": [(here, READ + WRITE)],
        "readAnyDatabase": [(everywhere, READ), (CLUSTER, ["listDatabases"])],
        "readWriteAnyDatabase": [(everywhere, READ + WRITE), (CLUSTER, ["listDatabases"])],
        "clusterMonitor": [(CLUSTER, MONITOR), (everywhere, ["collStats", "dbStats"])],
        "clusterManager": [(CLUSTER, MANAGE)],
        "hostManager": [(CLUSTER, HOST)],
        "root": [({"anyResource": True}, None)],
    }.get(role)


def covers(granted, needed):
    """Whether a privilege's resource holds another."""
    if granted.get("anyResource"):
        return True
    if "cluster" in needed:
        return bool(granted.get("cluster"))
    if "db" not in granted or granted["db"] not in ("", needed["db"]):
        return False
    collection = needed.get("collection", "")
    if granted.get("collection"):
        return granted["collection"] == collection
    # A privilege on "every collection" is none on those of the system.
    return not collection.startswith("system.")


def derive(password, salt=None, iterations=ITERATIONS):
    """What is kept of a password."""
    salt = salt or os.urandom(28)
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, iterations)
    client = hmac.digest(salted, b"Client Key", "sha256")
    return {
        "iterationCount": iterations,
        "salt": base64.b64encode(salt).decode(),
        "storedKey": base64.b64encode(hashlib.sha256(client).digest()).decode(),
        "serverKey": base64.b64encode(hmac.digest(salted, b"Server Key", "sha256")).decode(),
    }


def _fields(text):
    return dict(part.split("=", 1) for part in text.split(",") if "=" in part)


def _xor(one, two):
    return bytes(a ^ b for a, b in zip(one, two))


class Conversation:
    """One log-in, the server's side (RFC 7677)."""

    def __init__(self, payload, database, look_up):
        self.bare = payload.decode().removeprefix("n,,")
        fields = _fields(self.bare)
        self.user = (fields["n"].replace("=2C", ",").replace("=3D", "="), database)
        self.nonce = fields["r"] + base64.b64encode(os.urandom(18)).decode()
        # An unknown user learns at the end only that it failed, as one with a wrong password does.
        self.known = look_up(self.user)
        self.kept = self.known or derive("unknown", iterations=1)
        self.first = f"r={self.nonce},s={self.kept['salt']},i={self.kept['iterationCount']}"

    def finish(self, payload):
        """The server's signature."""
        text = payload.decode()
        without_proof, _, proof = text.rpartition(",p=")
        message = ",".join([self.bare, self.first, without_proof]).encode()
        stored = base64.b64decode(self.kept["storedKey"])
        client = _xor(base64.b64decode(proof), hmac.digest(stored, message, "sha256"))
        right = hmac.compare_digest(hashlib.sha256(client).digest(), stored)
        if not (self.known and right and _fields(without_proof).get("r") == self.nonce):
            raise wire.CommandError(18, "Authentication failed.")
        signature = hmac.digest(base64.b64decode(self.kept["serverKey"]), message, "sha256")
        return b"v=" + base64.b64encode(signature)


def log_in(client, key):
    """A member's side of its log-in at another, with the key file's content."""
    user, database = SYSTEM
    nonce = base64.b64encode(os.urandom(18)).decode()
    bare = f"n={user},r={nonce}"
    options = {"skipEmptyExchange": True}
    start = {"saslStart": 1, "mechanism": "SCRAM-SHA-256", "payload": b"n,," + bare.encode(), "options": options}
    answer = client.call(database, start)
    first = bytes(answer["payload"]).decode()
    fields = _fields(first)
    salt, iterations = base64.b64decode(fields["s"]), int(fields["i"])
    salted = hashlib.pbkdf2_hmac("sha256", key.encode(), salt, iterations)
    client_key = hmac.digest(salted, b"Client Key", "sha256")
    last = f"c=biws,r={fields['r']}"
    message = ",".join([bare, first, last]).encode()
    proof = _xor(client_key, hmac.digest(hashlib.sha256(client_key).digest(), message, "sha256"))
    payload = f"{last},p={base64.b64encode(proof).decode()}".encode()
    goes_on = {"saslContinue": 1, "conversationId": answer["conversationId"], "payload": payload}
    client.call(database, goes_on)
