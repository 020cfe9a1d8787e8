"""MongoDB's wire protocol as far as the double speaks it: OP_MSG, and OP_QUERY for a driver's first hello."""

import itertools
import socket
import struct

import bson
from bson.codec_options import CodecOptions, DatetimeConversion

import access

OP_REPLY, OP_QUERY, OP_MSG = 1, 2004, 2013
CHECKSUM_PRESENT, MORE_TO_COME = 1, 2
MAX_MESSAGE = 48_000_000
# Dates as numbers: every document comes back byte for byte as it came.
CODEC = CodecOptions(datetime_conversion=DatetimeConversion.DATETIME_MS)

NAMES = {
    2: "BadValue",
    9: "FailedToParse",
    13: "Unauthorized",
    18: "AuthenticationFailed",
    20: "IllegalOperation",
    23: "AlreadyInitialized",
    26: "NamespaceNotFound",
    43: "CursorNotFound",
    48: "NamespaceExists",
    59: "CommandNotFound",
    64: "WriteConcernFailed",
    74: "NodeNotFound",
    76: "NoReplicationEnabled",
    91: "ShutdownInProgress",
    93: "InvalidReplicaSetConfig",
    94: "NotYetInitialized",
    100: "UnsatisfiableWriteConcern",
    103: "NewReplicaSetConfigurationIncompatible",
    110: "CannotInitializeNodeWithData",
    125: "CommandFailed",
    163: "InconsistentReplicaSetNames",
    262: "ExceededTimeLimit",
    10107: "NotWritablePrimary",
    11000: "DuplicateKey",
    11602: "InterruptedDueToReplStateChange",
    13435: "NotPrimaryNoSecondaryOk",
    13436: "NotPrimaryOrSecondary",
}
# What a driver may do again with another primary.
RETRYABLE = {91, 10107, 11602, 13435, 13436}


class CommandError(Exception):
    """A command's refusal, with MongoDB's number for it."""

    def __init__(self, code, message):
        super().__init__(message)
        self.code = code

    def answer(self):
        name = NAMES.get(self.code, f"Location{self.code}")
        return {"ok": 0.0, "errmsg": str(self), "code": self.code, "codeName": name}


class Closed(Exception):
    """The other side is gone, or speaks something else."""


def encode(document):
    return bson.encode(document, codec_options=CODEC)


def decode(data):
    return bson.decode(data, codec_options=CODEC)


def _exactly(connection, size):
    parts = []
    while size:
        part = connection.recv(min(size, 1 << 20))
        if not part:
            raise Closed
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def receive(connection):
    """The next message: its number, its kind, its flags and its command."""
    length, number, _, kind = struct.unpack("<iiii", _exactly(connection, 16))
    if not 16 <= length <= MAX_MESSAGE + 16:
        raise Closed
    body = _exactly(connection, length - 16)
    if kind == OP_QUERY:
        at = body.index(0, 4) + 1 + 8
        command = decode(body[at:])
        command.setdefault("$db", body[4 : body.index(0, 4)].decode().split(".")[0])
        return number, kind, 0, command
    if kind != OP_MSG:
        raise Closed
    (flags,) = struct.unpack_from("<I", body)
    at, end = 4, len(body) - (4 if flags & CHECKSUM_PRESENT else 0)
    command, sequences = {}, {}
    while at < end:
        section, at = body[at], at + 1
        (size,) = struct.unpack_from("<i", body, at)
        if section == 0:
            command = decode(body[at : at + size])
        elif section == 1:
            zero = body.index(0, at + 4)
            documents = bson.decode_all(body[zero + 1 : at + size], codec_options=CODEC)
            sequences[body[at + 4 : zero].decode()] = documents
        else:
            raise Closed
        at += size
    command.update(sequences)
    return number, kind, flags, command


_numbers = itertools.count(1)


def send(connection, document, to=0, kind=OP_MSG):
    body = encode(document)
    # OP_REPLY: flags, cursor, start, one document. OP_MSG: flags, one section.
    head = struct.pack("<iqii", 8, 0, 0, 1) if kind == OP_QUERY else struct.pack("<IB", 0, 0)
    kind = OP_REPLY if kind == OP_QUERY else OP_MSG
    length = 16 + len(head) + len(body)
    connection.sendall(struct.pack("<iiii", length, next(_numbers), to, kind) + head + body)


class Client:
    """A member's connection to another."""

    def __init__(self, host, key, timeout, tls=None):
        name, _, port = host.rpartition(":")
        self.connection = socket.create_connection((name, int(port)), timeout=timeout)
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tls:
            self.connection = tls.wrap_socket(self.connection, server_hostname=name)
        if key:
            access.log_in(self, key)

    def call(self, database, command):
        """The answer; a refusal is a `CommandError`."""
        send(self.connection, {**command, "$db": database})
        *_, answer = receive(self.connection)
        if answer.get("ok") != 1:
            raise CommandError(answer.get("code", 0), answer.get("errmsg", ""))
        return answer

    def close(self):
        self.connection.close()
