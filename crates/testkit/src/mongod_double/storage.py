"""Documents in WiredTiger, in tables named as mongod names them.

A collection is `table:DB/collection-N-M`, an index `table:DB/index-N-M`, and `table:_mdb_catalog` says which is
which. One session does everything; whoever uses it holds the server's lock.
"""

import os
import random
import struct
import threading
import time
from contextlib import contextmanager

import wiredtiger
from bson import Int64

import query
from wire import CommandError, decode, encode

# As mongod 7.0 opens WiredTiger, but for a small cache, small log files (tests copy them), and no compressors, which
# this build has not got.
OPEN = (
    "create,cache_size={cache}M,session_max=33000,eviction=(threads_min=4,threads_max=4),config_base=false,"
    "statistics=(fast),log=(enabled=true,remove=true,path=journal,file_max=8MB),builtin_extension_config=(),"
    "file_manager=(close_idle_time=600,close_scan_interval=10,close_handle_minimum=2000),"
    "statistics_log=(wait=0),json_output=(error,message)"
)
COLLECTION = (
    "type=file,memory_page_max=10m,split_pct=90,leaf_value_max=64MB,checksum=on,key_format=q,value_format=u,"
    "app_metadata=(formatVersion=1),log=(enabled=true)"
)
INDEX = (
    "type=file,internal_page_max=16k,leaf_page_max=16k,checksum=on,key_format=u,value_format=u,"
    "app_metadata=(formatVersion=12),log=(enabled=true)"
)
CATALOG = "table:_mdb_catalog"
SIZES = "table:sizeStorer"
OPLOG = "local.oplog.rs"


class Index:
    def __init__(self, spec, ident):
        self.spec, self.ident = spec, ident
        self.unique = bool(spec.get("unique")) or spec["name"] == "_id_"

    def key(self, document, record):
        values = [query.field(document, path) for path in self.spec["key"]]
        values = [None if value is query._MISSING else query.normal(value) for value in values]
        key = encode({str(n): value for n, value in enumerate(values)})
        return key if self.unique else key + struct.pack(">q", record)


class Collection:
    def __init__(self, namespace, ident, options, catalog_id):
        self.namespace, self.ident, self.options, self.catalog_id = namespace, ident, options, catalog_id
        self.indexes = {}
        self.next_record = 1

    @property
    def database(self):
        return self.namespace.split(".", 1)[0]

    @property
    def name(self):
        return self.namespace.split(".", 1)[1]


class Store:
    def __init__(self, path, directory_per_db, more="", cache=64):
        self.path, self.directory_per_db = path, directory_per_db
        self._keep_option()
        os.makedirs(os.path.join(path, "journal"), exist_ok=True)
        config = OPEN.format(cache=cache) + ("," + more if more else "")
        self.connection = wiredtiger.wiredtiger_open(path, config)
        self.session = self.connection.open_session("isolation=snapshot")
        self._flusher, self._flushing = self.connection.open_session(), threading.Lock()
        self._checkpointer, self._checkpointing = self.connection.open_session(), threading.Lock()
        self._backup = None
        self._cursors = {}
        self._unique = random.SystemRandom().getrandbits(63)
        self._next_ident = 0
        self.collections = {}
        for uri in (CATALOG, SIZES):
            self.session.create(uri, COLLECTION if uri == CATALOG else INDEX)
        self._read_catalog()

    def _keep_option(self):
        """As mongod: data made with one layout of folders is refused with the other."""
        file = os.path.join(self.path, "storage.bson")
        if os.path.exists(file):
            with open(file, "rb") as kept:
                options = decode(kept.read())["storage"]["options"]
            if options["directoryPerDB"] != self.directory_per_db:
                raise SystemExit("Requested option conflicts with current storage engine option for directoryPerDB")
            return
        options = {"directoryPerDB": self.directory_per_db, "directoryForIndexes": False, "groupCollections": False}
        with open(file, "wb") as kept:
            kept.write(encode({"storage": {"engine": "wiredTiger", "options": options}}))
            os.fsync(kept.fileno())

    # Tables.

    def cursor(self, uri):
        if uri not in self._cursors:
            self._cursors[uri] = self.session.open_cursor(uri)
        return self._cursors[uri]

    def get(self, uri, key):
        cursor = self.cursor(uri)
        cursor.set_key(key)
        value = bytes(cursor.get_value()) if cursor.search() == 0 else None
        cursor.reset()
        return value

    def put(self, uri, key, value):
        self.cursor(uri)[key] = value
        self.cursor(uri).reset()

    def remove(self, uri, key):
        cursor = self.cursor(uri)
        cursor.set_key(key)
        cursor.remove()
        cursor.reset()

    def rows(self, uri, start=None):
        """Keys and values in order, from `start` on, as they are when they are read."""
        cursor = self.session.open_cursor(uri)
        try:
            found = 0
            if start is not None:
                cursor.set_key(start)
                near = cursor.search_near()
                if near == wiredtiger.WT_NOTFOUND:
                    return
                if near < 0:
                    found = cursor.next()
            else:
                found = cursor.next()
            while found == 0:
                key = cursor.get_key()
                yield (bytes(key) if isinstance(key, (bytes, bytearray)) else key), bytes(cursor.get_value())
                found = cursor.next()
        finally:
            cursor.close()

    @contextmanager
    def transaction(self):
        self.session.begin_transaction()
        try:
            yield
        except BaseException:
            self.session.rollback_transaction()
            raise
        self.session.commit_transaction()

    # The catalog.

    def _ident(self, kind, database):
        self._next_ident += 1
        ident = f"{kind}-{self._next_ident}-{self._unique}"
        if not self.directory_per_db:
            return ident
        folder = os.path.join(self.path, database)
        if not os.path.isdir(folder):
            os.mkdir(folder)
            self._sync_folder(self.path)
        return f"{database}/{ident}"

    def _sync_folder(self, folder):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _read_catalog(self):
        known = set()
        for catalog_id, value in list(self.rows(CATALOG)):
            entry = decode(value)
            collection = Collection(entry["ns"], entry["ident"], entry["md"]["options"], catalog_id)
            for index in entry["md"]["indexes"]:
                spec = index["spec"]
                collection.indexes[spec["name"]] = Index(spec, entry["idxIdent"][spec["name"]])
            known.update([collection.ident, *(index.ident for index in collection.indexes.values())])
            last = self.session.open_cursor("table:" + collection.ident)
            collection.next_record = last.get_key() + 1 if last.prev() == 0 else 1
            last.close()
            self.collections[collection.namespace] = collection
        self._next_catalog_id = 1 + max((c.catalog_id for c in self.collections.values()), default=0)
        metadata = self.session.open_cursor("metadata:")
        found = [key.removeprefix("table:") for key, _ in metadata if key.startswith("table:")]
        metadata.close()
        # Left by an end between the making of a table and its entry, or between the entry's end and the table's.
        for ident in found:
            if ident not in known and "table:" + ident not in (CATALOG, SIZES):
                self._drop_table(ident)

    def _write_entry(self, collection):
        indexes = collection.indexes.values()
        entry = {
            "md": {
                "ns": collection.namespace,
                "options": collection.options,
                "indexes": [{"spec": index.spec, "ready": True} for index in indexes],
            },
            "idxIdent": {index.spec["name"]: index.ident for index in indexes},
            "ns": collection.namespace,
            "ident": collection.ident,
        }
        self.put(CATALOG, collection.catalog_id, encode(entry))

    def create(self, namespace, options=None, log=lambda: None):
        """Makes a collection; `log` writes its entry of the oplog with it."""
        database = namespace.split(".", 1)[0]
        collection = Collection(namespace, self._ident("collection", database), options or {}, self._next_catalog_id)
        self._next_catalog_id += 1
        self.session.create("table:" + collection.ident, COLLECTION)
        if namespace != OPLOG:
            spec = {"v": 2, "key": {"_id": 1}, "name": "_id_"}
            collection.indexes["_id_"] = Index(spec, self._ident("index", database))
            self.session.create("table:" + collection.indexes["_id_"].ident, INDEX)
        with self.transaction():
            self._write_entry(collection)
            log()
        self.collections[namespace] = collection
        return collection

    def create_index(self, collection, spec, log=lambda: None):
        index = Index(spec, self._ident("index", collection.database))
        self.session.create("table:" + index.ident, INDEX)
        try:
            with self.transaction():
                for record, document in self.scan(collection):
                    self._put_in_index(collection, index, record, document)
                collection.indexes[spec["name"]] = index
                self._write_entry(collection)
                log()
        except CommandError:
            collection.indexes.pop(spec["name"], None)
            self._drop_table(index.ident)
            raise

    def drop_index(self, collection, name, log=lambda: None):
        index = collection.indexes.pop(name)
        with self.transaction():
            self._write_entry(collection)
            log()
        self._drop_table(index.ident)

    def drop(self, collection, log=lambda: None):
        with self.transaction():
            self.remove(CATALOG, collection.catalog_id)
            log()
        del self.collections[collection.namespace]
        for ident in [collection.ident, *(index.ident for index in collection.indexes.values())]:
            self._drop_table(ident)

    def _drop_table(self, ident):
        uri = "table:" + ident
        if uri in self._cursors:
            self._cursors.pop(uri).close()
        for _ in range(50):
            try:
                self.session.drop(uri)
                return
            except wiredtiger.WiredTigerError as error:
                # A checkpoint is at it. What stays is dropped at the next start.
                if "busy" not in str(error).lower():
                    raise
                time.sleep(0.02)

    def creation_string(self, collection):
        cursor = self.session.open_cursor("metadata:create")
        try:
            return cursor["table:" + collection.ident]
        finally:
            cursor.close()

    def size(self, collection):
        return os.path.getsize(os.path.join(self.path, collection.ident + ".wt"))

    # Documents.

    def scan(self, collection):
        for record, value in self.rows("table:" + collection.ident):
            yield record, decode(value)

    def by_id(self, collection, value):
        """The record and the document of an `_id`, or `None`."""
        index = collection.indexes["_id_"]
        record = self.get("table:" + index.ident, index.key({"_id": value}, 0))
        if record is None:
            return None
        (record,) = struct.unpack(">q", record)
        return record, decode(self.get("table:" + collection.ident, record))

    def insert(self, collection, document):
        record = collection.next_record
        for index in collection.indexes.values():
            self._put_in_index(collection, index, record, document)
        self.put("table:" + collection.ident, record, encode(document))
        collection.next_record += 1

    def replace(self, collection, record, old, new):
        for index in collection.indexes.values():
            before, after = index.key(old, record), index.key(new, record)
            if before != after:
                self._put_in_index(collection, index, record, new)
                self.remove("table:" + index.ident, before)
        self.put("table:" + collection.ident, record, encode(new))

    def delete(self, collection, record, document):
        for index in collection.indexes.values():
            self.remove("table:" + index.ident, index.key(document, record))
        self.remove("table:" + collection.ident, record)

    def _put_in_index(self, collection, index, record, document):
        key, uri = index.key(document, record), "table:" + index.ident
        if index.unique and self.get(uri, key) is not None:
            shown = {path: query.field(document, path) for path in index.spec["key"]}
            raise CommandError(
                11000,
                f"E11000 duplicate key error collection: {collection.namespace} index: {index.spec['name']} "
                f"dup key: {shown}",
            )
        self.put(uri, key, struct.pack(">q", record))

    # The oplog: a table whose record ids are the entries' numbers.

    def oplog_put(self, number, entry):
        self.put("table:" + self.collections[OPLOG].ident, Int64(number), encode(entry))

    def oplog_get(self, number):
        value = self.get("table:" + self.collections[OPLOG].ident, number)
        return value and decode(value)

    def oplog_after(self, number, limit):
        entries = []
        for _, value in self.rows("table:" + self.collections[OPLOG].ident, number + 1):
            entries.append(decode(value))
            if len(entries) == limit:
                break
        return entries

    def oplog_last(self):
        if OPLOG not in self.collections:
            return None
        cursor = self.session.open_cursor("table:" + self.collections[OPLOG].ident)
        try:
            return decode(bytes(cursor.get_value())) if cursor.prev() == 0 else None
        finally:
            cursor.close()

    # Disk. These have sessions of their own and need no lock.

    def flush(self):
        """Everything committed so far is in the journal, on disk."""
        with self._flushing:
            self._flusher.log_flush("sync=on")

    def checkpoint(self):
        with self._checkpointing:
            self._checkpointer.checkpoint()

    def begin_backup(self):
        """Until it ends, WiredTiger keeps every file that belongs to the last checkpoint."""
        session = self.connection.open_session()
        self._backup = (session, session.open_cursor("backup:"))

    def end_backup(self):
        if self._backup:
            session, _ = self._backup
            session.close()
            self._backup = None

    def stop_work(self):
        """Nothing goes on any more, nor begins again."""
        self._flushing.acquire()
        self._checkpointing.acquire()

    def close(self):
        self.connection.close()
