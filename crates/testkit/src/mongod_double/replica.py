"""A member of a replica set: who is primary, and how a secondary comes by its documents.

Simplified from mongod: members tell each other everything in heartbeats, a majority elects, a secondary fetches the
primary's oplog and nobody else's. A member whose oplog has gone another way does not roll back: it fills itself anew.
"""

import random
import threading
import time

from bson import Int64, ObjectId, Timestamp
from bson.datetime_ms import DatetimeMS

from wire import Client, Closed, CommandError, decode, encode

STATES = {"STARTUP": 0, "PRIMARY": 1, "SECONDARY": 2, "STARTUP2": 5, "ARBITER": 7, "REMOVED": 10}
HEARTBEAT = 0.3
# mongod waits 10 s for a primary that says nothing; tests should not.
PATIENCE = 2.0
CONFIG, ELECTION, MINVALID = "local.system.replset", "local.replset.election", "local.replset.minvalid"
TROUBLE = (OSError, Closed, CommandError)


class Peer:
    """Another member, as it was last heard."""

    def __init__(self, member):
        self.id, self.host, self.member = member["_id"], member["host"], member
        self.up, self.state, self.applied, self.heard, self.version = False, "STARTUP", (0, 0), 0.0, -1
        self.has_data, self.wall = False, DatetimeMS(0)


class Replica:
    def __init__(self, server, set_name, hosts, port, key, tls):
        self.server, self.set_name, self.hosts, self.port = server, set_name, hosts, port
        self.key, self.tls = key, tls
        self.lock, self.changed, self.store = server.lock, server.changed, server.store
        self.state, self.term, self.vote = "STARTUP", 0, None
        self.config, self.own, self.peers = None, None, {}
        self.primary, self.primary_heard = None, time.monotonic()
        self.frozen_until, self.patience = 0.0, PATIENCE
        self.topology, self.process = 0, ObjectId()
        self.election, self.applied, self.wall = None, (0, 0), DatetimeMS(0)
        # A step that a test holds: names as in mongod's fail points.
        self.fail_points = set()

    # Everything down to `start` is called with the lock.

    def load(self):
        last = self.store.oplog_last()
        if last:
            self.moved_to(last)
        election = self._kept(ELECTION)
        if election:
            self.term, self.vote = election["term"], election["vote"]
        self.term = max(self.term, self.applied[0])
        config = self._kept(CONFIG)
        if config:
            self._take_config(config)

    def _kept(self, namespace):
        collection = self.store.collections.get(namespace)
        found = collection and self.store.by_id(collection, "kept")
        return decode(found[1]["value"]) if found else None

    def _keep(self, namespace, value):
        collection = self.store.collections.get(namespace) or self.store.create(namespace)
        document = {"_id": "kept", "value": encode(value)}
        with self.store.transaction():
            found = self.store.by_id(collection, "kept")
            if found:
                self.store.replace(collection, *found, document)
            else:
                self.store.insert(collection, document)
        self.store.flush()

    def news(self):
        """Something that clients and members want to know at once."""
        self.topology += 1
        self.changed.notify_all()

    def become(self, state, why):
        if state == self.state:
            return
        self.server.log("REPL", f"Replica set state transition: {self.state} to {state}: {why}")
        self.state = state
        if state == "PRIMARY":
            self.primary = self.own["_id"]
            self.election = ObjectId(f"7fffffff{self.term:016x}")
        elif self.own and self.primary == self.own["_id"]:
            self.primary = None
        self.patience = PATIENCE * (1 + random.random() / 2)
        self.news()

    def is_self(self, host):
        name, _, port = host.rpartition(":")
        return port == str(self.port) and name in self.hosts

    def _take_config(self, config):
        self.config = config
        own = [member for member in config["members"] if self.is_self(member["host"])]
        self.own = own[0] if own else None
        others = {m["_id"]: m for m in config["members"] if m is not self.own}
        self.peers = {
            number: self.peers.get(number) if number in self.peers and self.peers[number].host == m["host"] else Peer(m)
            for number, m in others.items()
        }
        for number, peer in self.peers.items():
            peer.member = others[number]
        if not self.own:
            self.become("REMOVED", "the configuration does not name this member")
        elif self.own.get("arbiterOnly"):
            self.become("ARBITER", "the configuration says so")
        elif self.state in ("STARTUP", "REMOVED"):
            self.become("STARTUP2" if self.must_fill() else "SECONDARY", "it has a configuration")
        self.primary_heard = time.monotonic()
        self.news()
        for peer in self.peers.values():
            threading.Thread(target=self._talk, args=[peer, config["version"]], daemon=True).start()

    def must_fill(self):
        filling = self._kept(MINVALID)
        return self.applied == (0, 0) or bool(filling and filling["doingInitialSync"])

    def check(self, config):
        members = config.get("members") or []
        hosts = [member.get("host") for member in members]
        if config.get("_id") != self.set_name:
            raise CommandError(93, f"the set's name is {config.get('_id')}, the command line says {self.set_name}")
        if not members or len(set(hosts)) < len(hosts) or len({m.get("_id") for m in members}) < len(hosts):
            raise CommandError(93, "members must have different hosts and numbers")
        if not any(self.is_self(host) for host in hosts):
            raise CommandError(93, "No host described in the new configuration maps to this node")

    def initiate(self, config):
        config = {**config, "version": 1, "term": 1, "settings": config.get("settings", {})}
        config["settings"]["replicaSetId"] = ObjectId()
        self.note("n", "", {"msg": "initiating set"})
        self._keep(CONFIG, config)
        self._take_config(config)
        self.primary_heard = 0.0

    def reconfigure(self, config, force):
        if self.state != "PRIMARY" and not force:
            raise CommandError(10107, "New config must be installed by the primary")
        if config["version"] <= self.config["version"]:
            raise CommandError(103, "version must be higher than that of the current configuration")
        settings = {**self.config["settings"], **config.get("settings", {})}
        self._adopt({**config, "term": self.term, "settings": settings})

    def _adopt(self, config):
        self._keep(CONFIG, config)
        self._take_config(config)

    def note(self, op, namespace, o, more=None):
        """Appends to the oplog, within the caller's transaction where there is one."""
        if "local.oplog.rs" not in self.store.collections:
            self.store.create("local.oplog.rs", {"capped": True})
        number = self.applied[1] + 1
        now = time.time()
        entry = {
            "ts": Timestamp(int(now), number % 2**32),
            "t": Int64(self.term),
            "n": Int64(number),
            "wall": DatetimeMS(int(now * 1000)),
            "op": op,
            "ns": namespace,
            "o": o,
            **(more or {}),
        }
        self.store.oplog_put(number, entry)
        self.moved_to(entry)
        self.changed.notify_all()

    def moved_to(self, entry):
        self.applied, self.wall = (entry["t"], entry["n"]), entry["wall"]

    def voters(self):
        return [m for m in self.config["members"] if m.get("votes", 1)]

    def majority(self):
        return len(self.voters()) // 2 + 1

    def reached(self, position):
        """How many voting members with data have applied `position`."""
        own = 1 if self.own.get("votes", 1) and self.applied >= position else 0
        others = [p for p in self.peers.values() if p.member.get("votes", 1) and p.state != "ARBITER"]
        return own + sum(peer.applied >= position for peer in others)

    def heartbeat(self):
        return {
            "set": self.set_name,
            "from": self.own["_id"] if self.own else -1,
            "term": self.term,
            "state": self.state,
            "applied": list(self.applied),
            "wall": self.wall,
            "version": self.config["version"] if self.config else -1,
            "config": self.config,
            "hasData": self.applied != (0, 0),
        }

    def hear(self, said):
        """What another member says of itself, in a heartbeat or in its answer to one."""
        if said["set"] != self.set_name:
            raise CommandError(163, f"the set's name is {self.set_name}, not {said['set']}")
        self.see_term(said["term"])
        config = said["config"]
        if config and (not self.config or config["version"] > self.config["version"]):
            self._adopt(config)
        peer = self.peers.get(said["from"])
        if not peer:
            return
        before = (peer.up, peer.state, peer.applied)
        peer.up, peer.state, peer.heard = True, said["state"], time.monotonic()
        peer.applied, peer.version, peer.has_data = tuple(said["applied"]), said["version"], said["hasData"]
        peer.wall = said["wall"]
        if peer.state == "PRIMARY" and said["term"] == self.term:
            self.primary_heard = peer.heard
            if self.primary != peer.id:
                self.primary = peer.id
                self.news()
        elif self.primary == peer.id:
            self.primary = None
            self.news()
        # Who waits for a write to be there waits for this, too.
        if before != (peer.up, peer.state, peer.applied):
            self.changed.notify_all()

    def see_term(self, term):
        if term <= self.term:
            return
        self.term, self.vote = term, None
        if self.state == "PRIMARY":
            self.become("SECONDARY", "another member has a later term")

    def electable(self, member, state, applied):
        return state == "SECONDARY" and member.get("priority", 1) > 0 and applied >= self.applied

    def consider(self, asked):
        """Whether this member votes for the one that asks."""
        term, position = asked["term"], tuple(asked["applied"])
        hears_primary = self.state == "PRIMARY" or (
            self.primary is not None and time.monotonic() - self.primary_heard < PATIENCE
        )
        refused = (
            position < self.applied
            or not self.config
            or asked["version"] < self.config["version"]
            or self.server.fsync_locks > 0
            or (hears_primary and not asked["handoff"])
        )
        if asked["dryRun"]:
            return not refused and term > self.term
        self.see_term(term)
        if refused or term < self.term or self.vote not in (None, asked["candidate"]):
            return False
        self._vote(asked["candidate"])
        return True

    def _vote(self, candidate):
        self.vote = candidate
        self._keep(ELECTION, {"term": self.term, "vote": candidate})

    def freeze(self, seconds):
        self.frozen_until = time.monotonic() + seconds

    # What follows takes the lock itself.

    def start(self):
        for work in (self._watch, self._follow):
            threading.Thread(target=work, daemon=True).start()

    def connect(self, host, timeout=2.0):
        return Client(host, self.key, timeout, self.tls)

    def _talk(self, peer, version):
        """Heartbeats to one member, for as long as this configuration holds."""
        client = None
        while True:
            with self.lock:
                current = self.peers.get(peer.id) is peer and self.config["version"] == version
                if self.server.stopping or not current:
                    break
                said, topology = self.heartbeat(), self.topology
            try:
                client = client or self.connect(peer.host)
                answer = client.call("admin", {"replSetHeartbeat": self.set_name, "said": said})
                with self.lock:
                    self.hear(answer["said"])
            except TROUBLE:
                client = client and client.close()
                with self.lock:
                    if peer.up:
                        self.server.log("REPL", f"{peer.host} does not answer")
                        peer.up = False
                        self.primary = None if self.primary == peer.id else self.primary
                        self.news()
            with self.lock:
                self.changed.wait_for(lambda: self.topology != topology or self.server.stopping, HEARTBEAT)
        if client:
            client.close()

    def _watch(self):
        """Stands for election when there is no primary, and steps down when there is no majority."""
        while True:
            with self.lock:
                self.changed.wait(0.1)
                if self.server.stopping:
                    return
                now = time.monotonic()
                if self.state == "PRIMARY":
                    heard = sum(now - p.heard < 2 * PATIENCE for p in self.peers.values() if p.member.get("votes", 1))
                    if heard + 1 < self.majority():
                        self.become("SECONDARY", "it reaches no majority")
                    continue
                due = now - self.primary_heard > self.patience and now > self.frozen_until
                if self.state != "SECONDARY" or not due or self.server.fsync_locks:
                    continue
                if 1 + sum(p.up for p in self.peers.values() if p.member.get("votes", 1)) < self.majority():
                    continue
            self.stand(False)

    def stand(self, handoff):
        """Asks for votes, first whether it would get them. Whether it has become primary."""
        with self.lock:
            if self.state != "SECONDARY" or self.own.get("priority", 1) <= 0:
                return False
            term, others = self.term + 1, [p.host for p in self.peers.values() if p.member.get("votes", 1)]
            self.primary_heard = time.monotonic() - PATIENCE / 2
            asked = {
                "term": term,
                "candidate": self.own["_id"],
                "applied": list(self.applied),
                "version": self.config["version"],
                "handoff": handoff,
            }
        for dry_run in (True, False):
            if not dry_run:
                with self.lock:
                    if self.term >= term or self.state != "SECONDARY":
                        return False
                    self.term = term
                    self._vote(self.own["_id"])
            votes = 1 + sum(self._ask(host, {**asked, "dryRun": dry_run}) for host in others)
            if votes < self.majority():
                return False
        with self.lock:
            if self.term != term or self.state != "SECONDARY":
                return False
            self.become("PRIMARY", f"elected in term {term} with {votes} votes")
            self.note("n", "", {"msg": "new primary"})
            return True

    def _ask(self, host, asked):
        try:
            client = self.connect(host, 1.0)
            try:
                return client.call("admin", {"replSetRequestVotes": 1, "asked": asked})["granted"]
            finally:
                client.close()
        except TROUBLE:
            return False

    def step_down(self, seconds, catch_up, force):
        """Hands over to a secondary that has everything."""
        deadline = time.monotonic() + catch_up
        with self.lock:
            if self.state != "PRIMARY":
                raise CommandError(10107, "not primary so can't step down")

            def heir():
                ready = [p for p in self.peers.values() if p.up and self.electable(p.member, p.state, p.applied)]
                return max(ready, key=lambda p: p.member.get("priority", 1), default=None)

            def done():
                majority = self.reached(self.applied) >= self.majority()
                return self.state != "PRIMARY" or (heir() and majority)

            while not done() and (left := deadline - time.monotonic()) > 0:
                self.changed.wait(left)
            if self.state != "PRIMARY":
                raise CommandError(10107, "it was no primary any more")
            next_primary = heir()
            if not next_primary and not force:
                raise CommandError(262, f"No electable secondaries caught up within {catch_up} seconds")
            self.freeze(seconds)
            self.become("SECONDARY", "asked to step down")
            self.primary_heard = time.monotonic()
        if next_primary:
            try:
                client = self.connect(next_primary.host)
                client.call("admin", {"replSetStepUp": 1, "handoff": True})
                client.close()
            except TROUBLE as error:
                self.server.log("REPL", f"{next_primary.host} did not take over: {error}")

    def _follow(self):
        """Fetches from the primary, for as long as this is a secondary or wants to be one."""
        client, source = None, None
        while True:
            with self.lock:
                self.changed.wait_for(self._has_source, 0.5)
                if self.server.stopping:
                    return
                if not self._has_source():
                    continue
                host, filling = self.peers[self.primary].host, self.state == "STARTUP2"
            try:
                if client is None or host != source:
                    client, source = self.connect(host, 10.0), host
                if filling:
                    self._fill(client)
                else:
                    self._fetch(client)
            except TROUBLE as error:
                client = client and client.close()
                if not self.server.stopping:
                    self.server.log("REPL", f"fetching from {host} failed: {error!r}")
                    time.sleep(0.1)

    def _has_source(self):
        waits = self.state in ("SECONDARY", "STARTUP2")
        return self.server.stopping or (waits and self.primary in self.peers)

    def _fetch(self, client):
        with self.lock:
            asked = {"_doubleFetch": 1, "member": self.own["_id"], "after": list(self.applied), "waitMS": 300}
        answer = client.call("admin", asked)
        with self.lock:
            self.server.wait_for_writes()
            if self.state not in ("SECONDARY", "STARTUP2"):
                return
            if answer["diverged"]:
                self._keep(MINVALID, {"doingInitialSync": True})
                self.become("STARTUP2", "its oplog is not the primary's: it fills itself anew")
                return
            for entry in answer["entries"]:
                self.server.apply(entry)
                self.moved_to(entry)
            if answer["entries"]:
                self.changed.notify_all()
        if answer["entries"]:
            self.store.flush()

    def _fill(self, client):
        """Copies all documents, then what happened meanwhile."""
        with self.lock:
            self.server.log("INITSYNC", "Starting initial sync attempt")
            self._keep(MINVALID, {"doingInitialSync": True})
            for namespace, collection in list(self.store.collections.items()):
                if namespace == "local.oplog.rs" or not namespace.startswith("local."):
                    self.store.drop(collection)
            self.applied = (0, 0)
        while "initialSyncHangBeforeCopyingDatabases" in self.fail_points and not self.server.stopping:
            time.sleep(0.05)
        begun = client.call("admin", {"_doubleFetch": 1, "member": -1, "after": None, "waitMS": 0})["entries"][0]
        copied = 0
        for database in client.call("admin", {"listDatabases": 1, "nameOnly": True})["databases"]:
            name = database["name"]
            if name != "local":
                for collection in client.call(name, {"listCollections": 1})["cursor"]["firstBatch"]:
                    copied += self._copy(client, name, collection)
        with self.lock:
            self.store.create("local.oplog.rs", {"capped": True})
            with self.store.transaction():
                self.store.oplog_put(begun["n"], begun)
            self.moved_to(begun)
        end = client.call("admin", {"_doubleFetch": 1, "member": -1, "after": None, "waitMS": 0})["entries"][0]
        while self.applied[1] < end["n"]:
            if self.state != "STARTUP2":
                return
            self._fetch(client)
        with self.lock:
            self._keep(MINVALID, {"doingInitialSync": False})
            self.store.flush()
            self.server.log("INITSYNC", f"Initial sync done: {copied} documents")
            if self.state == "STARTUP2":
                self.become("SECONDARY", "its initial sync is done")

    def _copy(self, client, database, described):
        namespace, name = f"{database}.{described['name']}", described["name"]
        specs = client.call(database, {"listIndexes": name})["cursor"]["firstBatch"]
        with self.lock:
            self.server.wait_for_writes()
            collection = self.store.create(namespace, described["options"])
            for spec in specs:
                if spec["name"] != "_id_":
                    self.store.create_index(collection, spec)
        find = {"find": name, "batchSize": 500, "$readPreference": {"mode": "secondaryPreferred"}}
        cursor = client.call(database, find)["cursor"]
        batch, copied = cursor["firstBatch"], 0
        while True:
            with self.lock:
                self.server.wait_for_writes()
                with self.store.transaction():
                    for document in batch:
                        self.store.insert(collection, document)
                copied += len(batch)
            if not cursor["id"]:
                return copied
            cursor = client.call(database, {"getMore": cursor["id"], "collection": name, "batchSize": 500})["cursor"]
            batch = cursor["nextBatch"]

    # For clients.

    def status(self):
        now = DatetimeMS(int(time.time() * 1000))

        def optime(applied):
            return {"ts": Timestamp(applied[0], applied[1] % 2**32), "t": Int64(applied[0])}

        def entry(member):
            own = member is self.own
            peer = None if own else self.peers[member["_id"]]
            up = own or peer.up
            state = self.state if own else peer.state
            said = {
                "_id": member["_id"],
                "name": member["host"],
                "health": 1.0 if up else 0.0,
                "state": STATES[state] if up else 8,
                "stateStr": state if up else "(not reachable/healthy)",
                "uptime": int(time.monotonic() - self.server.began),
                "optime": optime(self.applied if own else peer.applied),
                "optimeDate": self.wall if own else peer.wall,
                "configVersion": self.config["version"] if own else peer.version,
            }
            return {**said, "self": True} if own else said

        members = [entry(member) for member in self.config["members"]]
        source = self.peers[self.primary].host if self.primary in self.peers else ""
        return {
            "set": self.set_name,
            "date": now,
            "myState": STATES[self.state],
            "term": Int64(self.term),
            "syncSourceHost": source if self.state in ("SECONDARY", "STARTUP2") else "",
            "heartbeatIntervalMillis": Int64(int(HEARTBEAT * 1000)),
            "majorityVoteCount": self.majority(),
            "members": members,
            "ok": 1.0,
        }

    def hello(self):
        said = {"topologyVersion": {"processId": self.process, "counter": Int64(self.topology)}}
        if not self.config or not self.own:
            info = "Does not have a valid replica set config"
            return {**said, "isWritablePrimary": False, "secondary": False, "info": info, "isreplicaset": True}
        hosts = [m["host"] for m in self.config["members"] if not m.get("arbiterOnly") and m.get("priority", 1) > 0]
        passives = [m["host"] for m in self.config["members"] if m.get("priority", 1) <= 0 and not m.get("arbiterOnly")]
        arbiters = [m["host"] for m in self.config["members"] if m.get("arbiterOnly")]
        said |= {
            "hosts": hosts,
            "setName": self.set_name,
            "setVersion": self.config["version"],
            "isWritablePrimary": self.state == "PRIMARY",
            "secondary": self.state == "SECONDARY",
            "me": self.own["host"],
        }
        if passives:
            said["passives"] = passives
        if arbiters:
            said["arbiters"] = arbiters
        if self.state == "ARBITER":
            said["arbiterOnly"] = True
        if self.state == "PRIMARY":
            said |= {"electionId": self.election, "primary": self.own["host"]}
        elif self.primary in self.peers:
            said["primary"] = self.peers[self.primary].host
        last = {"ts": Timestamp(self.applied[0], self.applied[1] % 2**32), "t": Int64(self.applied[0])}
        return {**said, "lastWrite": {"opTime": last, "lastWriteDate": DatetimeMS(int(time.time() * 1000))}}
