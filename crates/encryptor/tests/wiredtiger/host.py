"""A database process in little, on the WiredTiger module of SecantusDB: the same commands as host.c."""

import os
import signal
import struct
import sys
import threading

import wiredtiger

# WiredTiger's own messages go to standard error, all of them.
ANSWERS = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)

MASK = (1 << 64) - 1
WORDS = 32


class State:
    connection = None
    session = None
    home = ""


def value_of(seed, key):
    state = (seed * 0x9E3779B97F4A7C15 + key * 0xD1B54A32D192ED03) & MASK
    words = []
    for _ in range(WORDS):
        state = (state + 0x9E3779B97F4A7C15) & MASK
        z = state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        words.append(z ^ (z >> 31))
    return struct.pack("<%dQ" % WORDS, *words)


class Failed(Exception):
    def __init__(self, code, text):
        super().__init__(text)
        self.code = code


def create(session, uri, config):
    directory, slash, _ = uri.partition(":")[2].partition("/")
    if slash:
        os.makedirs(os.path.join(State.home, directory), mode=0o700, exist_ok=True)
    session.create(uri, config)


def put(session, uri, first, count, seed):
    cursor = session.open_cursor(uri, None, None)
    for key in range(first, first + count):
        cursor.set_key(key)
        cursor.set_value(value_of(seed, key))
        cursor.insert()
    cursor.close()


def check(session, uri, first, count, seed):
    cursor = session.open_cursor(uri, None, None)
    try:
        for key in range(first, first + count):
            cursor.set_key(key)
            code = cursor.search()
            if code != 0:
                raise Failed(code, "row %d is missing" % key)
            if bytes(cursor.get_value()) != value_of(seed, key):
                raise Failed(1000, "row %d differs" % key)
    finally:
        cursor.close()


def prefix(session, uri, first, count, seed):
    cursor = session.open_cursor(uri, None, None)
    found = 0
    try:
        for key in range(first, first + count):
            cursor.set_key(key)
            if cursor.search() != 0:
                continue
            if bytes(cursor.get_value()) != value_of(seed, key) or key != first + found:
                raise Failed(1000, "row %d differs" % key)
            found += 1
    finally:
        cursor.close()
    print("m", found, file=ANSWERS)


def history(uri, count, old, new):
    reader = State.connection.open_session()
    reader.begin_transaction("isolation=snapshot")
    check(reader, uri, 1, 1, old)
    put(State.session, uri, 1, count, new)
    State.session.checkpoint()
    check(State.session, uri, 1, count, new)
    check(reader, uri, 1, count, old)


def metadata(session):
    cursor = session.open_cursor("metadata:", None, None)
    while cursor.next() == 0:
        print("m", cursor.get_key(), cursor.get_value(), file=ANSWERS)
    cursor.close()


def work(number, tables, databases, rows):
    session = State.connection.open_session()
    for table in range(tables):
        uri = "table:d%d/t-%d-%d" % ((number + table) % databases, number, table)
        create(session, uri, "key_format=Q,value_format=u")
        put(session, uri, 1, rows, number * 1000 + table)
        check(session, uri, 1, rows, number * 1000 + table)
        if table % 3 == 2:
            session.checkpoint()
    session.close()


def run_threads(number, body):
    failures = []

    def guarded(index):
        try:
            body(index)
        except Exception as error:
            failures.append(error)

    workers = [threading.Thread(target=guarded, args=(index,)) for index in range(number)]
    for worker in workers:
        worker.start()
    return workers, failures


def threads(number, tables, databases, rows):
    workers, failures = run_threads(number, lambda index: work(index, tables, databases, rows))
    for worker in workers:
        worker.join()
    if failures:
        raise failures[0]


def outlive(number):
    used, closed = threading.Barrier(number + 1), threading.Barrier(number + 1)

    def body(index):
        try:
            work(index, 3, 2, 50)
        finally:
            used.wait()
            closed.wait()

    workers, failures = run_threads(number, body)
    used.wait()
    close()
    closed.wait()
    for worker in workers:
        worker.join()
    if failures:
        raise failures[0]


def fork_child():
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        os._exit(7)
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 7:
        raise Failed(1001, "the child ended otherwise")


def fork_writer(uri):
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        try:
            session = State.connection.open_session()
        except Exception:
            os._exit(8)
        try:
            put(session, uri, 900000, 10, 9)
        except Exception:
            os._exit(0)
        os._exit(9)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code != 0:
        raise Failed(code, "the child ended with this")


def open_database(home, config):
    State.home = home
    State.connection = wiredtiger.wiredtiger_open(home, config)
    State.session = State.connection.open_session()


def close():
    connection, State.connection, State.session = State.connection, None, None
    if connection is not None:
        connection.close()


def second(home, config, uri):
    connection = wiredtiger.wiredtiger_open(home, config)
    session = connection.open_session()
    session.create(uri, "key_format=Q,value_format=u")
    put(session, uri, 1, 500, 77)
    session.checkpoint()
    check(session, uri, 1, 500, 77)
    metadata(session)
    connection.close()


def run(line):
    command, _, rest = line.partition(" ")
    words = rest.split(" ")
    first, _, other = rest.partition(" ")
    session = State.session
    if command == "open":
        open_database(first, other)
    elif command == "close":
        close()
    elif command == "create":
        create(session, first, other)
    elif command == "put":
        put(session, first, *map(int, words[1:]))
    elif command == "check":
        check(session, first, *map(int, words[1:]))
    elif command == "prefix":
        prefix(session, first, *map(int, words[1:]))
    elif command == "say":
        os.write(2, first.encode() + b"\n")
    elif command == "checkpoint":
        session.checkpoint()
    elif command == "flush":
        session.log_flush("sync=on")
    elif command == "drop":
        session.drop(first, None)
    elif command == "verify":
        session.verify(first, None)
    elif command == "salvage":
        session.salvage(first, None)
    elif command == "alter":
        session.alter(first, other)
    elif command == "history":
        history(first, *map(int, words[1:]))
    elif command == "metadata":
        metadata(session)
    elif command == "threads":
        threads(*map(int, words))
    elif command == "outlive":
        outlive(int(first))
    elif command == "fork":
        fork_child()
    elif command == "fork-writer":
        fork_writer(first)
    elif command == "second":
        second(*words)
    elif command == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    else:
        raise Failed(22, "no such command")


def main():
    for line in sys.stdin:
        try:
            run(line.rstrip("\n"))
            print("ok", file=ANSWERS)
        except Failed as error:
            print("err", error.code, error, file=ANSWERS)
        except Exception as error:
            text = " ".join(str(error).split())
            print("err", getattr(error, "errno", None) or code_of(text), text, file=ANSWERS)
        ANSWERS.flush()
    close()


def code_of(text):
    """The module raises a text only: find whose it is."""
    for code in range(1, 133):
        if os.strerror(code) in text:
            return code
    return 1


main()
