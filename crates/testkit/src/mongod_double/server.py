"""The double's process: its connections, its lock, and how a change goes into the store and the oplog."""

import json
import os
import signal
import socket
import sys
import threading
import time
import traceback
from datetime import datetime, timezone

import wiredtiger
from bson import Binary, Int64, ObjectId

import access
import commands
import wire
from replica import Replica
from wire import CommandError

VERSION = "7.0.0-double"
JOURNAL_INTERVAL, CHECKPOINT_INTERVAL = 0.1, 60.0
# Before there is a user, one who comes from this host may make it.
LOCALHOST = {"createUser", "createRole", "grantRole", "replSetConfigure", "replSetGetStatus"}


def log(component, message, severity="I"):
    now = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
    line = {"t": {"$date": now}, "s": severity, "c": component, "ctx": threading.current_thread().name, "msg": message}
    print(json.dumps(line), flush=True)


class Session:
    """One connection, and who is logged in on it."""

    def __init__(self, number):
        self.number, self.users, self.conversation, self.skip_empty = number, [], None, False
        # The subject of its certificate.
        self.subject = None


class Server:
    def __init__(self, options, store):
        self.options, self.store, self.log = options, store, log
        self.lock = threading.RLock()
        # Everything that anyone waits for is told here.
        self.changed = threading.Condition(self.lock)
        self.began, self.process = time.monotonic(), ObjectId()
        self.stopping, self.fsync_locks = False, 0
        self.cursors, self.next_cursor = {}, 1
        self.connections = set()
        self.key, self.with_access = options.key, options.auth or options.key is not None
        # Retryable writes that were done: session and number, then statement.
        self.done = {}
        self.replica = None
        if options.repl_set:
            names, tls = options.own_names(), options.tls.client
            self.replica = Replica(self, options.repl_set, names, options.port, options.key, tls)
            with self.lock:
                self._remember_done()
                self.replica.load()

    # Life.

    def listen(self):
        listeners = []
        for host in self.options.hosts:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            listener = socket.socket(family, socket.SOCK_STREAM)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind((host, self.options.port))
            except OSError as error:
                log("CONTROL", f"Failed to set up listener: {error}", "E")
                os._exit(48)
            listener.listen(128)
            listeners.append(listener)
        return listeners

    def start(self, listeners):
        for listener in listeners:
            threading.Thread(target=self._accept, args=[listener], name="listener", daemon=True).start()
        for work in (self._keep_journal, self._keep_checkpoints):
            threading.Thread(target=work, name=work.__name__, daemon=True).start()
        if self.replica:
            self.replica.start()
        log("NETWORK", f"Waiting for connections on port {self.options.port}")

    def stop(self):
        """Hands over, ends every connection, writes a last checkpoint. Does not return."""
        if self.replica and self.replica.state == "PRIMARY":
            try:
                self.replica.step_down(60, 2.0, True)
            except CommandError as error:
                log("REPL", f"no hand-over: {error}")
        with self.lock:
            self.stopping = True
            self.changed.notify_all()
            connections = list(self.connections)
        for connection in connections:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        # Whoever holds one of these finishes first; nobody gets them again.
        self.lock.acquire()
        self.store.stop_work()
        self.store.end_backup()
        self.store.close()
        log("CONTROL", "Now exiting: shutdown complete")
        self.options.release_lock_file()
        os._exit(0)

    def ask_to_stop(self):
        os.kill(os.getpid(), signal.SIGTERM)

    def die(self, why):
        """As mongod on a failed assertion: at once."""
        log("CONTROL", f"Fatal assertion: {why}", "F")
        os._exit(14)

    def _keep_journal(self):
        while not self.stopping:
            time.sleep(JOURNAL_INTERVAL)
            if not self.fsync_locks:
                self.store.flush()

    def _keep_checkpoints(self):
        while not self.stopping:
            time.sleep(CHECKPOINT_INTERVAL)
            if not self.fsync_locks:
                self.store.checkpoint()

    # Connections.

    def _accept(self, listener):
        number = 0
        while not self.stopping:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            number += 1
            name = f"conn{number}"
            threading.Thread(target=self._serve, args=[connection, number], name=name, daemon=True).start()

    def _serve(self, connection, number):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        session = Session(number)
        try:
            connection, session.subject = self.options.tls.accept(connection)
        except (OSError, wire.Closed) as error:
            log("NETWORK", f"connection refused: {error}")
            connection.close()
            return
        with self.lock:
            self.connections.add(connection)
        try:
            while not self.stopping:
                to, kind, flags, command = wire.receive(connection)
                answer = self.run(session, command)
                if answer is None:
                    return
                if not flags & wire.MORE_TO_COME:
                    wire.send(connection, answer, to, kind)
        except (OSError, wire.Closed):
            pass
        finally:
            with self.lock:
                self.connections.discard(connection)
            connection.close()

    def run(self, session, command):
        """The answer; `None` closes the connection without one."""
        name = next(iter(command), "")
        database = command.get("$db", "admin")
        try:
            known = commands.COMMANDS.get(name)
            if known is None:
                raise CommandError(59, f"no such command: '{name}' (this is a double of mongod)")
            if self.stopping:
                raise CommandError(91, "The server is in quiesce mode and will shut down")
            self.authorize(session, known, command, database)
            answer = known.run(self, session, command, database)
            return None if answer is None else {"ok": 1.0, **answer}
        except CommandError as error:
            answer = error.answer()
            if error.code in wire.RETRYABLE:
                answer["topologyVersion"] = self.topology_version()
                if "txnNumber" in command:
                    answer["errorLabels"] = ["RetryableWriteError"]
            return answer
        except wiredtiger.WiredTigerError as error:
            if "panic" in str(error).lower():
                self.die(error)
            log("STORAGE", f"{name}: {error}", "E")
            return {"ok": 0.0, "errmsg": f"WiredTiger: {error}", "code": 8, "codeName": "UnknownError"}
        except Exception as error:  # noqa: BLE001 - a client must learn of it
            log("COMMAND", f"{name}: {traceback.format_exc()}", "E")
            return {"ok": 0.0, "errmsg": f"the double failed: {error!r}", "code": 8, "codeName": "UnknownError"}

    def topology_version(self):
        if self.replica:
            return {"processId": self.replica.process, "counter": Int64(self.replica.topology)}
        return {"processId": self.process, "counter": Int64(0)}

    # Who may do what.

    def authorize(self, session, known, command, database):
        if not self.with_access or known.open_to_all:
            return
        needed = known.needed(command, database)
        if session.users == [] and self.users() == [] and all(action in LOCALHOST for _, action in needed):
            return
        if not session.users:
            raise CommandError(13, f"Command {next(iter(command))} requires authentication")
        if access.SYSTEM in session.users:
            return
        held = [privilege for user in session.users for privilege in self.privileges(user)]
        for resource, action in needed:
            if not any(access.covers(on, resource) and (may is None or action in may) for on, may in held):
                raise CommandError(13, f"not authorized on {database} to execute command {next(iter(command))}")

    def users(self):
        collection = self.store.collections.get("admin.system.users")
        with self.lock:
            return [user for _, user in self.store.scan(collection)] if collection else []

    def credentials(self, user):
        if user == access.SYSTEM:
            return access.derive(self.key) if self.key else None
        found = [kept for kept in self.users() if (kept["user"], kept["db"]) == user]
        return found[0]["credentials"].get("SCRAM-SHA-256") if found else None

    def privileges(self, user):
        roles = next((u["roles"] for u in self.users() if (u["user"], u["db"]) == user), [])
        collection = self.store.collections.get("admin.system.roles")
        with self.lock:
            made = [role for _, role in self.store.scan(collection)] if collection else []
        held = []
        for role in roles:
            own = [r for r in made if (r["role"], r["db"]) == (role["role"], role["db"])]
            if own:
                held += [(p["resource"], p["actions"]) for p in own[0]["privileges"]]
            else:
                held += access.built_in(role["role"], role["db"]) or []
        return held

    # Changes. All with the lock.

    def wait_for_writes(self):
        """Until no `fsyncLock` holds them."""
        while self.fsync_locks and not self.stopping:
            self.changed.wait()
        if self.stopping:
            raise CommandError(91, "The server is shutting down")

    def must_be_writable(self, namespace):
        self.wait_for_writes()
        if self.replica and self.replica.state != "PRIMARY" and not namespace.startswith("local."):
            raise CommandError(10107, "not primary")

    def must_be_readable(self, command):
        if not self.replica or self.replica.state == "PRIMARY":
            return
        if self.replica.state != "SECONDARY":
            raise CommandError(13436, f"node is not in primary or recovering state: {self.replica.state}")
        if command.get("$readPreference", {}).get("mode", "primary") == "primary":
            raise CommandError(13435, "not primary and secondaryOk=false")

    def noting(self, op, namespace, o, more=None):
        """What writes the change's entry of the oplog, within the change's transaction."""

        def note():
            if self.replica and not namespace.startswith("local."):
                self.replica.note(op, namespace, o, more)

        return note

    def change(self, op, namespace, o, apply, more=None):
        """One document's change and its entry, both or none."""
        before = self.replica and (self.replica.applied, self.replica.wall)
        try:
            with self.store.transaction():
                apply()
                self.noting(op, namespace, o, more)()
        except BaseException:
            if self.replica:
                self.replica.applied, self.replica.wall = before
            raise

    def collection(self, namespace):
        """The collection, made where it is missing."""
        found = self.store.collections.get(namespace)
        return found or self.create(namespace, {})

    def create(self, namespace, options):
        database, name = namespace.split(".", 1)
        entry = {"create": name, "options": options}
        return self.store.create(namespace, options, self.noting("c", f"{database}.$cmd", entry))

    def position(self):
        return self.replica.applied if self.replica else None

    def apply(self, entry):
        """An entry of the primary's oplog, here. Anything may have been applied before."""
        try:
            if entry["op"] == "c":
                self._apply_command(entry)
            else:
                with self.store.transaction():
                    self._apply_document(entry)
                    self.store.oplog_put(entry["n"], entry)
        except wiredtiger.WiredTigerError as error:
            self.die(f"an entry of the oplog cannot be applied: {error}")
        self._remember(entry)

    def _apply_document(self, entry):
        collection = self.store.collections.get(entry["ns"])
        if not collection:
            return
        found = self.store.by_id(collection, entry["o"]["_id"])
        if entry["op"] == "d" and found:
            self.store.delete(collection, *found)
        elif entry["op"] != "d" and found:
            self.store.replace(collection, *found, entry["o"])
        elif entry["op"] != "d":
            self.store.insert(collection, entry["o"])

    def _apply_command(self, entry):
        ((name, target), *_) = entry["o"].items()
        namespace = f"{entry['ns'].split('.', 1)[0]}.{target}"
        collection = self.store.collections.get(namespace)

        def put():
            self.store.oplog_put(entry["n"], entry)

        if name == "create" and not collection:
            self.store.create(namespace, entry["o"]["options"], put)
        elif name == "drop" and collection:
            self.store.drop(collection, put)
        elif name == "createIndexes" and collection and entry["o"]["spec"]["name"] not in collection.indexes:
            self.store.create_index(collection, entry["o"]["spec"], put)
        elif name == "dropIndexes" and collection and entry["o"]["index"] in collection.indexes:
            self.store.drop_index(collection, entry["o"]["index"], put)
        else:
            with self.store.transaction():
                put()

    def _remember_done(self):
        if self.store.oplog_last():
            for entry in self.store.oplog_after(0, sys.maxsize):
                self._remember(entry)

    def _remember(self, entry):
        if "lsid" in entry:
            self.done.setdefault((bytes(entry["lsid"]), entry["txnNumber"]), set()).add(entry["stmtId"])

    def retry_of(self, command):
        """What names a retryable write, `None` for any other."""
        if not self.replica or "txnNumber" not in command:
            return None
        return (bytes(command["lsid"]["id"]), command["txnNumber"])

    def retry_note(self, retry, statement):
        if retry is None:
            return None
        self.done.setdefault(retry, set())
        return {"lsid": Binary(retry[0]), "txnNumber": Int64(retry[1]), "stmtId": statement}
