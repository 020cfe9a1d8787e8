"""The commands that the double knows. Each has the privileges that mongod asks for it."""

import os
import socket
import time

from bson import Int64, ObjectId
from bson.datetime_ms import DatetimeMS

import access
import query
import server as process
from wire import CommandError

COMMANDS = {}
CLUSTER, DATABASE, COLLECTION = "cluster", "database", "collection"


class Known:
    """A command, and what it needs: pairs of a kind of resource and an action."""

    def __init__(self, run, needs):
        self.run, self.needs, self.open_to_all = run, needs, needs is None

    def needed(self, command, database):
        name = next(iter(command.values()))
        resources = {
            CLUSTER: access.CLUSTER,
            DATABASE: {"db": database, "collection": ""},
            COLLECTION: {"db": database, "collection": name if isinstance(name, str) else ""},
        }
        return [(resources[kind], action) for kind, action in self.needs]


def command(*names, needs=()):
    """`needs=None`: open to all; none named: to whoever is logged in."""

    def register(run):
        for name in names:
            COMMANDS[name] = Known(run, needs)
        return run

    return register


def now():
    return DatetimeMS(int(time.time() * 1000))


# Who is there.


@command("hello", "isMaster", "ismaster", needs=None)
def hello(server, session, asked, database):
    given = asked.get("topologyVersion")
    with server.lock:
        current = server.topology_version()
        if given and given["processId"] == current["processId"] and "maxAwaitTimeMS" in asked:

            def moved():
                return server.topology_version()["counter"] != given["counter"] or server.stopping

            server.changed.wait_for(moved, asked["maxAwaitTimeMS"] / 1000)
        if server.replica:
            said = server.replica.hello()
        else:
            said = {"isWritablePrimary": True, "topologyVersion": current}
    if next(iter(asked)) != "hello":
        said["ismaster"] = said["isWritablePrimary"]
    if "saslSupportedMechs" in asked:
        said["saslSupportedMechs"] = ["SCRAM-SHA-256"]
    return {
        "helloOk": True,
        **said,
        "maxBsonObjectSize": 16 << 20,
        "maxMessageSizeBytes": 48_000_000,
        "maxWriteBatchSize": 100_000,
        "localTime": now(),
        "logicalSessionTimeoutMinutes": 30,
        "connectionId": session.number,
        "minWireVersion": 0,
        "maxWireVersion": 21,
        "readOnly": False,
    }


@command("ping", "endSessions", "killCursors", "logout", needs=None)
def nothing(server, session, asked, database):
    return {}


@command("buildInfo", "buildinfo", needs=None)
def build_info(server, session, asked, database):
    numbers = process.VERSION.split("-")[0].split(".")
    return {
        "version": process.VERSION,
        "versionArray": [*(int(number) for number in numbers), 0],
        "gitVersion": "0" * 40,
        "modules": [],
        "storageEngines": ["wiredTiger"],
        "doubleOfMongod": True,
    }


@command("serverStatus", needs=[(CLUSTER, "serverStatus")])
def server_status(server, session, asked, database):
    return {
        "host": f"{socket.gethostname()}:{server.options.port}",
        "version": process.VERSION,
        "process": "mongod",
        "pid": Int64(os.getpid()),
        "uptime": time.monotonic() - server.began,
        "localTime": now(),
        "storageEngine": {"name": "wiredTiger", "persistent": True},
        "connections": {"current": len(server.connections)},
    }


@command("getCmdLineOpts", needs=[(CLUSTER, "getCmdLineOpts")])
def command_line(server, session, asked, database):
    return {"argv": server.options.argv, "parsed": {"setParameter": server.options.parameters}}


@command("saslStart", needs=None)
def sasl_start(server, session, asked, database):
    if asked["mechanism"] != "SCRAM-SHA-256":
        raise CommandError(334, f"Unsupported mechanism {asked['mechanism']}")
    session.conversation = access.Conversation(bytes(asked["payload"]), database, server.credentials)
    session.skip_empty = bool(asked.get("options", {}).get("skipEmptyExchange"))
    return {"conversationId": 1, "done": False, "payload": session.conversation.first.encode()}


@command("saslContinue", needs=None)
def sasl_continue(server, session, asked, database):
    conversation = session.conversation
    if conversation is None:
        raise CommandError(17, "No SASL session state found")
    if not asked["payload"]:
        session.conversation = None
        return {"conversationId": 1, "done": True, "payload": b""}
    payload = conversation.finish(bytes(asked["payload"]))
    session.users = [*session.users, conversation.user]
    if session.skip_empty:
        session.conversation = None
    return {"conversationId": 1, "done": session.skip_empty, "payload": payload}


@command("authenticate", needs=None)
def authenticate(server, session, asked, database):
    if asked.get("mechanism") != "MONGODB-X509" or database != "$external":
        raise CommandError(334, f"Unsupported mechanism {asked.get('mechanism')}")
    if not session.subject:
        raise CommandError(18, "There is no x.509 client certificate matching the user.")
    user = (session.subject, "$external")
    known = any((kept["user"], kept["db"]) == user for kept in server.users())
    if not known or asked.get("user", session.subject) != session.subject:
        raise CommandError(18, "Authentication failed.")
    session.users = [*session.users, user]
    return {"dbname": "$external", "user": session.subject}


@command("connectionStatus", needs=None)
def connection_status(server, session, asked, database):
    info = {"authenticatedUsers": [{"user": user, "db": db} for user, db in session.users]}
    if asked.get("showPrivileges"):
        held = [privilege for user in session.users for privilege in server.privileges(user)]
        info["authenticatedUserPrivileges"] = [
            {"resource": resource, "actions": ["anyAction"] if actions is None else actions} for resource, actions in held
        ]
    return {"authInfo": info}


@command("createUser", needs=[(DATABASE, "createUser")])
def create_user(server, session, asked, database):
    name = asked["createUser"]
    by_certificate = database == "$external"
    kept = {
        "_id": f"{database}.{name}",
        "user": name,
        "db": database,
        "credentials": {"external": True} if by_certificate else {"SCRAM-SHA-256": access.derive(asked["pwd"])},
        "roles": [r if isinstance(r, dict) else {"role": r, "db": database} for r in asked["roles"]],
    }
    return _insert_one(server, asked, "admin.system.users", kept, 51003, f"User \"{name}@{database}\" already exists")


@command("createRole", needs=[(DATABASE, "createRole")])
def create_role(server, session, asked, database):
    name = asked["createRole"]
    kept = {"_id": f"{database}.{name}", "role": name, "db": database, "privileges": asked["privileges"], "roles": []}
    if asked["roles"]:
        raise CommandError(2, "roles of roles are not known here")
    return _insert_one(server, asked, "admin.system.roles", kept, 51002, f"Role \"{name}@{database}\" already exists")


def _insert_one(server, asked, namespace, document, code, taken):
    with server.lock:
        server.must_be_writable(namespace)
        collection = server.collection(namespace)
        try:
            server.change("i", namespace, document, lambda: server.store.insert(collection, document))
        except CommandError as error:
            raise CommandError(code, taken) from error
        position = server.position()
    return _concern(server, asked, position)


# The process.


@command("fsync", needs=[(CLUSTER, "fsync")])
def fsync(server, session, asked, database):
    if not asked.get("lock"):
        server.store.checkpoint()
        return {"numFiles": 1}
    with server.lock:
        server.fsync_locks += 1
        first = server.fsync_locks == 1
    if first:
        try:
            server.store.flush()
            server.store.checkpoint()
            server.store.begin_backup()
        except BaseException:
            with server.lock:
                server.fsync_locks -= 1
                server.changed.notify_all()
            raise
        process.log("COMMAND", "mongod is locked and no writes are allowed")
    return {"info": "now locked against writes, use db.fsyncUnlock() to unlock", "lockCount": Int64(server.fsync_locks)}


@command("fsyncUnlock", needs=[(CLUSTER, "unlock")])
def fsync_unlock(server, session, asked, database):
    with server.lock:
        if not server.fsync_locks:
            raise CommandError(20, "fsyncUnlock called when not locked")
        if server.fsync_locks == 1:
            server.store.end_backup()
        server.fsync_locks -= 1
        server.changed.notify_all()
        return {"info": "fsyncUnlock completed", "lockCount": Int64(server.fsync_locks)}


@command("currentOp", needs=[(CLUSTER, "inprog")])
def current_op(server, session, asked, database):
    return {"inprog": [], **({"fsyncLock": True} if server.fsync_locks else {})}


@command("shutdown", needs=[(CLUSTER, "shutdown")])
def shutdown(server, session, asked, database):
    if database != "admin":
        raise CommandError(13, "shutdown may only be run against the admin database.")
    if server.replica and server.replica.state == "PRIMARY":
        # Without `force` a primary stays that nobody can follow.
        server.replica.step_down(120, asked.get("timeoutSecs", 15), asked.get("force", False))
    server.ask_to_stop()
    return None


@command("configureFailPoint", needs=[(CLUSTER, "configureFailPoint")])
def fail_point(server, session, asked, database):
    if server.options.parameters.get("enableTestCommands") != "1":
        raise CommandError(59, "no such command: 'configureFailPoint'")
    name = asked["configureFailPoint"]
    if not server.replica or name != "initialSyncHangBeforeCopyingDatabases":
        raise CommandError(2, f"{name} is no fail point of the double")
    points = server.replica.fail_points
    points.add(name) if asked["mode"] == "alwaysOn" else points.discard(name)
    return {}


# The replica set.


def _replica(server):
    if not server.replica:
        raise CommandError(76, "not running with --replSet")
    return server.replica


def _configured(server):
    replica = _replica(server)
    if not replica.config:
        raise CommandError(94, "no replset config has been received")
    return replica


@command("replSetInitiate", needs=[(CLUSTER, "replSetConfigure")])
def initiate(server, session, asked, database):
    replica = _replica(server)
    if replica.config:
        raise CommandError(23, "already initialized")
    config = asked["replSetInitiate"] or {}
    config = config or {
        "_id": replica.set_name,
        "members": [{"_id": 0, "host": f"{server.options.hosts[0]}:{server.options.port}"}],
    }
    replica.check(config)
    for member in config["members"]:
        if not replica.is_self(member["host"]):
            _must_be_free(replica, member["host"])
    with server.lock:
        if replica.config:
            raise CommandError(23, "already initialized")
        replica.initiate(config)
    return {}


def _must_be_free(replica, host):
    try:
        client = replica.connect(host)
        said = client.call("admin", {"_doubleDescribe": 1})
        client.close()
    except Exception as error:
        raise CommandError(
            74, f"replSetInitiate quorum check failed because {host} did not respond affirmatively: {error!r}"
        ) from error
    if said["set"] != replica.set_name:
        raise CommandError(93, f"Our set name does not match that of {host}")
    if said["configured"]:
        raise CommandError(103, f"{host} is already initialized")
    if said["hasData"]:
        raise CommandError(110, f"{host} has data already, cannot initiate set.")


@command("_doubleDescribe", needs=[(CLUSTER, "internal")])
def describe(server, session, asked, database):
    replica = _replica(server)
    with server.lock:
        own = [namespace for namespace in server.store.collections if not namespace.startswith("local.")]
        return {"set": replica.set_name, "configured": bool(replica.config), "hasData": bool(own)}


@command("replSetGetConfig", needs=[(CLUSTER, "replSetGetConfig")])
def get_config(server, session, asked, database):
    return {"config": _configured(server).config}


@command("replSetGetStatus", needs=[(CLUSTER, "replSetGetStatus")])
def get_status(server, session, asked, database):
    replica = _configured(server)
    with server.lock:
        if not replica.own:
            raise CommandError(93, "Our replica set config is invalid or we are not a member of it")
        return replica.status()


@command("replSetReconfig", needs=[(CLUSTER, "replSetConfigure")])
def reconfigure(server, session, asked, database):
    replica = _configured(server)
    replica.check(asked["replSetReconfig"])
    with server.lock:
        replica.reconfigure(asked["replSetReconfig"], asked.get("force", False))
    return {}


@command("replSetStepDown", needs=[(CLUSTER, "replSetStateChange")])
def step_down(server, session, asked, database):
    seconds, catch_up = asked["replSetStepDown"], asked.get("secondaryCatchUpPeriodSecs", 10)
    if catch_up >= seconds:
        raise CommandError(2, "stepdown period must be longer than secondaryCatchUpPeriodSecs")
    _configured(server).step_down(seconds, catch_up, asked.get("force", False))
    return {}


@command("replSetFreeze", needs=[(CLUSTER, "replSetStateChange")])
def freeze(server, session, asked, database):
    with server.lock:
        _configured(server).freeze(asked["replSetFreeze"])
    return {}


@command("replSetStepUp", needs=[(CLUSTER, "replSetStateChange")])
def step_up(server, session, asked, database):
    if not _configured(server).stand(bool(asked.get("handoff"))):
        raise CommandError(125, "Election failed.")
    return {}


@command("replSetHeartbeat", needs=[(CLUSTER, "internal")])
def heartbeat(server, session, asked, database):
    replica = _replica(server)
    with server.lock:
        replica.hear(asked["said"])
        return {"said": replica.heartbeat()}


@command("replSetRequestVotes", needs=[(CLUSTER, "internal")])
def request_votes(server, session, asked, database):
    replica = _replica(server)
    with server.lock:
        return {"granted": replica.consider(asked["asked"])}


@command("_doubleFetch", needs=[(CLUSTER, "internal")])
def fetch(server, session, asked, database):
    """Entries of the oplog after a position, or the last one; a member says with it how far it is."""
    replica = _configured(server)
    with server.lock:
        if replica.state != "PRIMARY":
            raise CommandError(10107, "not primary")
        if asked["after"] is None:
            return {"diverged": False, "entries": [server.store.oplog_last()]}
        term, number = asked["after"]
        here = server.store.oplog_get(number)
        if not here or here["t"] != term:
            return {"diverged": True, "entries": []}
        peer = replica.peers.get(asked["member"])
        if peer and peer.applied < (term, number):
            peer.applied = (term, number)
            server.changed.notify_all()
        moved = lambda: replica.applied[1] > number or replica.state != "PRIMARY" or server.stopping  # noqa: E731
        server.changed.wait_for(moved, asked["waitMS"] / 1000)
        if server.stopping:
            raise CommandError(91, "The server is shutting down")
        return {"diverged": False, "entries": server.store.oplog_after(number, 500)}


# Documents.


def _namespace(asked, database):
    return f"{database}.{next(iter(asked.values()))}"


def _concern(server, asked, position):
    """Waits until the write is where its write concern wants it."""
    concern = asked.get("writeConcern") or {}
    replica = server.replica
    wanted = concern.get("w", "majority" if replica else 1)
    if concern.get("j") or wanted == "majority":
        server.store.flush()
    if not replica:
        if wanted != "majority" and wanted > 1:
            raise CommandError(2, "cannot use 'w' > 1 when a host is not replicated")
        return {}
    with server.lock:
        members = [m for m in replica.config["members"] if not m.get("arbiterOnly")] if replica.config else [None]
        needed = replica.majority() if wanted == "majority" else wanted
        if needed > len(members):
            return {"writeConcernError": {"code": 100, "codeName": "UnsatisfiableWriteConcern", "errmsg": "too few"}}

        def there():
            return replica.reached(position) >= needed

        def over():
            return there() or replica.state != "PRIMARY" or server.stopping

        timeout = concern.get("wtimeout", 0)
        server.changed.wait_for(over, timeout / 1000 if timeout else None)
        if there():
            return {}
        if server.stopping:
            raise CommandError(91, "The server is shutting down")
        if replica.state != "PRIMARY":
            raise CommandError(11602, "operation was interrupted: Primary stepped down while waiting for replication")
        error = {"code": 64, "codeName": "WriteConcernFailed", "errmsg": "waiting for replication timed out"}
        return {"writeConcernError": {**error, "errInfo": {"wtimeout": True}}}


def _write(server, asked, database, statements, do):
    """Does statements one by one; `do` gives what to add to the answer's `n` and further fields."""
    namespace, retry, errors, answer = _namespace(asked, database), server.retry_of(asked), [], {"n": 0}
    with server.lock:
        server.must_be_writable(namespace)
        for number, statement in enumerate(statements):
            if retry in server.done and number in server.done[retry]:
                answer["n"] += 1
                continue
            try:
                do(namespace, statement, server.retry_note(retry, number), number, answer)
            except CommandError as error:
                errors.append({"index": number, "code": error.code, "errmsg": str(error)})
                if asked.get("ordered", True):
                    break
            else:
                if retry:
                    server.done[retry].add(number)
        position = server.position()
    if errors:
        answer["writeErrors"] = errors
    return {**answer, **_concern(server, asked, position)}


@command("insert", needs=[(COLLECTION, "insert")])
def insert(server, session, asked, database):
    def one(namespace, document, more, number, answer):
        document = {"_id": document.get("_id", ObjectId()), **document}
        collection = server.collection(namespace)
        server.change("i", namespace, document, lambda: server.store.insert(collection, document), more)
        answer["n"] += 1

    return _write(server, asked, database, asked["documents"], one)


def _found(server, namespace, wanted):
    """Records and documents that match, by `_id` where the query names one."""
    collection = server.store.collections.get(namespace)
    if not collection:
        return []
    one = wanted.get("_id", {})
    if "_id" in wanted and not isinstance(one, dict):
        found = server.store.by_id(collection, one) if "_id_" in collection.indexes else None
        rows = [found] if found else []
    else:
        rows = server.store.scan(collection)
    return [(record, document) for record, document in rows if query.matches(document, wanted)]


@command("update", needs=[(COLLECTION, "update")])
def update(server, session, asked, database):
    def one(namespace, statement, more, number, answer):
        answer.setdefault("nModified", 0)
        found = _found(server, namespace, statement["q"])
        collection = server.collection(namespace)
        for record, old in found if statement.get("multi") else found[:1]:
            new = query.updated(old, statement["u"])
            answer["n"] += 1
            if new != old:
                replace = lambda: server.store.replace(collection, record, old, new)  # noqa: E731, B023
                server.change("u", namespace, new, replace, more)
                answer["nModified"] += 1
        if not found and statement.get("upsert"):
            plain = {k: v for k, v in statement["q"].items() if not k.startswith("$") and not isinstance(v, dict)}
            new = query.updated({"_id": plain.get("_id", ObjectId()), **plain}, statement["u"], inserting=True)
            server.change("i", namespace, new, lambda: server.store.insert(collection, new), more)
            answer["n"] += 1
            answer.setdefault("upserted", []).append({"index": number, "_id": new["_id"]})

    return _write(server, asked, database, asked["updates"], one)


@command("delete", needs=[(COLLECTION, "remove")])
def delete(server, session, asked, database):
    def one(namespace, statement, more, number, answer):
        found = _found(server, namespace, statement["q"])
        for record, document in found[:1] if statement["limit"] else found:
            collection = server.store.collections[namespace]
            remove = lambda: server.store.delete(collection, record, document)  # noqa: E731, B023
            server.change("d", namespace, {"_id": document["_id"]}, remove, more)
            answer["n"] += 1

    return _write(server, asked, database, asked["deletes"], one)


def _first_batch(server, namespace, documents, size):
    """A cursor's first answer; what is over is kept for `getMore`."""
    first, rest, number = documents[:size], documents[size:], 0
    if rest:
        with server.lock:
            number, server.next_cursor = server.next_cursor, server.next_cursor + 1
            server.cursors[number] = (namespace, rest)
    return {"cursor": {"id": Int64(number), "ns": namespace, "firstBatch": first}}


@command("find", needs=[(COLLECTION, "find")])
def find(server, session, asked, database):
    namespace = _namespace(asked, database)
    with server.lock:
        server.must_be_readable(asked)
        documents = [document for _, document in _found(server, namespace, asked.get("filter", {}))]
    documents = query.in_order(documents, asked.get("sort"))[asked.get("skip", 0) :]
    if asked.get("limit"):
        documents = documents[: asked["limit"]]
    documents = [query.projected(document, asked.get("projection")) for document in documents]
    size = len(documents) if asked.get("singleBatch") else asked.get("batchSize", 101)
    return _first_batch(server, namespace, documents, size)


@command("aggregate", needs=[(COLLECTION, "find")])
def aggregate(server, session, asked, database):
    namespace = _namespace(asked, database)
    with server.lock:
        server.must_be_readable(asked)
        documents = [document for _, document in _found(server, namespace, {})]
    documents = query.aggregated(documents, asked["pipeline"])
    return _first_batch(server, namespace, documents, asked.get("cursor", {}).get("batchSize", 101))


@command("getMore")
def get_more(server, session, asked, database):
    number, size = asked["getMore"], asked.get("batchSize") or 1000
    with server.lock:
        if number not in server.cursors:
            raise CommandError(43, f"cursor id {number} not found")
        namespace, rest = server.cursors.pop(number)
        if rest[size:]:
            server.cursors[number] = (namespace, rest[size:])
        left = number if rest[size:] else 0
    return {"cursor": {"id": Int64(left), "ns": namespace, "nextBatch": rest[:size]}}


@command("count", needs=[(COLLECTION, "find")])
def count(server, session, asked, database):
    with server.lock:
        server.must_be_readable(asked)
        return {"n": len(_found(server, _namespace(asked, database), asked.get("query", {})))}


# Collections and databases.


@command("create", needs=[(COLLECTION, "createCollection")])
def create(server, session, asked, database):
    namespace = _namespace(asked, database)
    with server.lock:
        server.must_be_writable(namespace)
        if namespace in server.store.collections:
            raise CommandError(48, f"Collection {namespace} already exists.")
        server.create(namespace, {})
        position = server.position()
    return _concern(server, asked, position)


@command("createIndexes", needs=[(COLLECTION, "createIndex")])
def create_indexes(server, session, asked, database):
    namespace = _namespace(asked, database)
    with server.lock:
        server.must_be_writable(namespace)
        collection = server.collection(namespace)
        before = len(collection.indexes)
        for index in asked["indexes"]:
            spec = {"v": 2, **index}
            if spec["name"] not in collection.indexes:
                entry = {"createIndexes": collection.name, "spec": spec}
                server.store.create_index(collection, spec, server.noting("c", f"{database}.$cmd", entry))
        position, after = server.position(), len(collection.indexes)
    return {"numIndexesBefore": before, "numIndexesAfter": after, **_concern(server, asked, position)}


@command("dropIndexes", needs=[(COLLECTION, "dropIndex")])
def drop_indexes(server, session, asked, database):
    with server.lock:
        collection = _existing(server, asked, database)
        if asked["index"] not in collection.indexes or asked["index"] == "_id_":
            raise CommandError(27, f"index not found with name [{asked['index']}]")
        entry = {"dropIndexes": collection.name, "index": asked["index"]}
        server.store.drop_index(collection, asked["index"], server.noting("c", f"{database}.$cmd", entry))
        position = server.position()
    return _concern(server, asked, position)


def _existing(server, asked, database):
    namespace = _namespace(asked, database)
    server.must_be_writable(namespace)
    if namespace not in server.store.collections:
        raise CommandError(26, f"ns not found {namespace}")
    return server.store.collections[namespace]


def _drop(server, collection):
    entry = {"drop": collection.name}
    server.store.drop(collection, server.noting("c", f"{collection.database}.$cmd", entry))


@command("drop", needs=[(COLLECTION, "dropCollection")])
def drop(server, session, asked, database):
    with server.lock:
        _drop(server, _existing(server, asked, database))
        position = server.position()
    return _concern(server, asked, position)


@command("dropDatabase", needs=[(DATABASE, "dropDatabase")])
def drop_database(server, session, asked, database):
    with server.lock:
        server.must_be_writable(f"{database}.")
        for collection in list(server.store.collections.values()):
            if collection.database == database:
                _drop(server, collection)
        position = server.position()
    return {"dropped": database, **_concern(server, asked, position)}


@command("listDatabases", needs=[(CLUSTER, "listDatabases")])
def list_databases(server, session, asked, database):
    with server.lock:
        server.must_be_readable({**asked, "$readPreference": {"mode": "nearest"}})
        sizes = {}
        for collection in server.store.collections.values():
            sizes[collection.database] = sizes.get(collection.database, 0) + server.store.size(collection)
    found = [{"name": name, "sizeOnDisk": Int64(size), "empty": False} for name, size in sorted(sizes.items())]
    return {"databases": found, "totalSize": Int64(sum(sizes.values()))}


@command("listCollections", needs=[(DATABASE, "listCollections")])
def list_collections(server, session, asked, database):
    with server.lock:
        found = [
            {"name": c.name, "type": "collection", "options": c.options, "info": {"readOnly": False}}
            for c in server.store.collections.values()
            if c.database == database
        ]
    found = [one for one in found if query.matches(one, asked.get("filter", {}))]
    return _first_batch(server, f"{database}.$cmd.listCollections", found, len(found))


@command("listIndexes", needs=[(COLLECTION, "listIndexes")])
def list_indexes(server, session, asked, database):
    namespace = _namespace(asked, database)
    with server.lock:
        if namespace not in server.store.collections:
            raise CommandError(26, f"ns does not exist: {namespace}")
        specs = [index.spec for index in server.store.collections[namespace].indexes.values()]
    return _first_batch(server, namespace, specs, len(specs))


@command("collStats", "collstats", needs=[(COLLECTION, "collStats")])
def collection_stats(server, session, asked, database):
    namespace = _namespace(asked, database)
    with server.lock:
        collection = server.store.collections.get(namespace)
        if not collection:
            return {"ns": namespace, "count": 0, "size": 0, "nindexes": 0}
        return {
            "ns": namespace,
            "count": sum(1 for _ in server.store.scan(collection)),
            "storageSize": server.store.size(collection),
            "nindexes": len(collection.indexes),
            "wiredTiger": {
                "uri": f"statistics:table:{collection.ident}",
                "creationString": server.store.creation_string(collection),
            },
        }
