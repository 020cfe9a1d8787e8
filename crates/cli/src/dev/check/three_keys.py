"""Drives WiredTiger as mongod does with --directoryperdb, and reports which key each table has.

Arguments: the data path, the file to report to, and one marker per database.
The first run makes the tables and fills them; later ones read them back. Ends cleanly at SIGTERM.
"""

import json
import os
import signal
import sys

import wiredtiger

DATABASES = ["alpha", "beta", "gamma"]
ROWS = 200
TABLES = {
    "alpha": "table:alpha/collection-1",
    "beta": "table:beta/collection-2",
    "gamma": "table:gamma/collection-3",
    "index": "table:alpha/index-4",
    "catalog": "table:_mdb_catalog",
    "temporary": "table:internal-9",
}


def main():
    home, report, markers = sys.argv[1], sys.argv[2], sys.argv[3:]
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGINT])
    for folder in ["journal", *DATABASES]:
        os.makedirs(os.path.join(home, folder), exist_ok=True)
    first = not os.path.exists(os.path.join(home, "WiredTiger.wt"))
    connection = wiredtiger.wiredtiger_open(
        home,
        "create,cache_size=64M,session_max=1000,config_base=false,statistics=(fast),"
        "log=(enabled=true,remove=true,path=journal)",
    )
    session = connection.open_session()
    if first:
        for uri in TABLES.values():
            session.create(uri, "type=file,key_format=q,value_format=u,checksum=on,log=(enabled=true)")
        for database, marker in zip(DATABASES, markers):
            fill(session, TABLES[database], marker)
        fill(session, TABLES["index"], markers[0])
        fill(session, TABLES["catalog"], "catalog")
        session.checkpoint()
    found = {name: count(session, uri) for name, uri in TABLES.items()}
    wrong = sum(
        value != text(marker, key)
        for database, marker in zip(DATABASES, markers)
        for key, value in rows(session, TABLES[database])
    )
    metadata = session.open_cursor("metadata:")
    keys = {name: clause(metadata, uri) for name, uri in TABLES.items()}
    metadata.close()
    write(report, {"first": first, "rows": found, "wrong": wrong, "keys": keys})
    signal.sigwait([signal.SIGTERM, signal.SIGINT])
    connection.close()


def text(marker, key):
    return f"{marker} {key:08d} ".encode() * 4


def fill(session, uri, marker):
    cursor = session.open_cursor(uri)
    for key in range(ROWS):
        cursor[key] = text(marker, key)
    cursor.close()


def rows(session, uri):
    cursor = session.open_cursor(uri)
    for key, value in cursor:
        yield key, bytes(value)
    cursor.close()


def count(session, uri):
    return sum(1 for _ in rows(session, uri))


def clause(metadata, uri):
    """The `encryption=(…)` clause of a table's file."""
    config = metadata["file:" + uri.removeprefix("table:") + ".wt"]
    start = config.index("encryption=(") + len("encryption=(")
    return config[start : config.index(")", start)]


def write(path, value):
    with open(path + ".new", "w", encoding="utf-8") as file:
        json.dump(value, file)
    os.replace(path + ".new", path)


main()
