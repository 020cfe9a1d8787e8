"""A double of mongod, for keyward's tests. It is not MongoDB and not for anybody's data.

It opens a real WiredTiger, so that `WIREDTIGER_CONFIG` loads a real encryptor into it, and speaks as much of mongod's
command line, protocol and replication as keyward meets.
"""

import fcntl
import json
import os
import signal
import socket
import sys

import server as process
import wiredtiger
from storage import Store
from tls import Tls

# Options of mongod 7.0 that the double knows, and whether they take a value.
OPTIONS = {
    "dbpath": True, "port": True, "bind_ip": True, "replSet": True, "logpath": True, "config": True, "keyFile": True,
    "pidfilepath": True, "setParameter": True, "slowms": True, "slowOpSampleRate": True, "oplogSize": True,
    "wiredTigerCacheSizeGB": True, "wiredTigerEngineConfigString": True, "storageEngine": True,
    "tlsMode": True, "tlsCertificateKeyFile": True, "tlsCAFile": True, "tlsAllowConnectionsWithoutCertificates": False,
    "unixSocketPrefix": True, "maxConns": True, "directoryperdb": False, "auth": False, "fork": False,
    "logappend": False, "nounixsocket": False, "bind_ip_all": False, "quiet": False, "ipv6": False, "version": False,
}  # fmt: skip
# Their names in a configuration file.
IN_FILE = {
    "storage.dbPath": "dbpath", "storage.directoryPerDB": "directoryperdb", "net.port": "port",
    "net.bindIp": "bind_ip", "net.bindIpAll": "bind_ip_all", "replication.replSetName": "replSet",
    "systemLog.path": "logpath", "systemLog.logAppend": "logappend", "security.keyFile": "keyFile",
    "security.authorization": "auth", "processManagement.fork": "fork",
    "processManagement.pidFilePath": "pidfilepath", "storage.engine": "storageEngine",
    "storage.wiredTiger.engineConfig.configString": "wiredTigerEngineConfigString",
    "net.tls.mode": "tlsMode", "net.tls.certificateKeyFile": "tlsCertificateKeyFile", "net.tls.CAFile": "tlsCAFile",
    "net.tls.allowConnectionsWithoutCertificates": "tlsAllowConnectionsWithoutCertificates",
    "storage.wiredTiger.engineConfig.cacheSizeGB": "wiredTigerCacheSizeGB", "systemLog.destination": None,
}  # fmt: skip
PARAMETERS = {"createRollbackDataFiles", "diagnosticDataCollectionEnabled", "enableTestCommands"}


class Refused(Exception):
    """What is wrong with the command line."""


def read_file(path):
    """The options of a configuration file: YAML as far as nested names and plain values go."""
    names, found = [], {}
    with open(path, encoding="utf-8") as file:
        for line in file:
            text = line.split("#", 1)[0].rstrip()
            if not text.strip():
                continue
            depth = len(text) - len(text.lstrip())
            names = [(at, name) for at, name in names if at < depth]
            name, _, value = text.strip().partition(":")
            names.append((depth, name))
            if value.strip():
                found[".".join(name for _, name in names)] = value.strip().strip("\"'")
    chosen, parameters = {}, {}
    for name, value in found.items():
        if name.startswith("setParameter."):
            parameters[name.removeprefix("setParameter.")] = value
        elif name not in IN_FILE:
            raise Refused(f"Unrecognized option: {name}")
        elif IN_FILE[name]:
            chosen[IN_FILE[name]] = {"true": True, "enabled": True, "false": False, "disabled": False}.get(value, value)
    return chosen, parameters


class Options:
    def __init__(self, argv):
        self.argv, self.parameters, self._lock_file = ["mongod", *argv], {}, None
        given, rest = {}, list(argv)
        while rest:
            word = rest.pop(0)
            word = "--config" if word == "-f" else word
            name, has_value, value = word.removeprefix("--").partition("=")
            if not word.startswith("--") or name not in OPTIONS:
                raise Refused(f"unrecognised option '{word}'")
            if OPTIONS[name] and not has_value:
                if not rest:
                    raise Refused(f"the required argument for option '--{name}' is missing")
                value = rest.pop(0)
            if name == "setParameter":
                parameter, _, value = value.partition("=")
                self.parameters[parameter] = value
            elif name in given:
                raise Refused(f"option '--{name}' cannot be specified more than once")
            else:
                given[name] = value if OPTIONS[name] else True
        if "config" in given:
            from_file, parameters = read_file(given["config"])
            given, self.parameters = {**from_file, **given}, {**parameters, **self.parameters}
        for parameter in self.parameters:
            if parameter not in PARAMETERS:
                raise Refused(f"Unknown --setParameter '{parameter}'")
        if given.get("storageEngine", "wiredTiger") != "wiredTiger":
            raise Refused("the double has only wiredTiger")
        self.version = "version" in given
        self.dbpath = given.get("dbpath", "/data/db")
        self.port = int(given.get("port", 27017))
        bound = "0.0.0.0" if given.get("bind_ip_all") else given.get("bind_ip", "127.0.0.1")
        hosts = [host.strip() for host in bound.split(",") if "/" not in host]
        self.hosts = ["127.0.0.1" if host == "localhost" else host for host in hosts]
        self.repl_set = given.get("replSet", "").split("/")[0] or None
        self.directory_per_db = bool(given.get("directoryperdb"))
        self.auth = bool(given.get("auth"))
        self.fork, self.log_path = bool(given.get("fork")), given.get("logpath")
        self.log_append, self.pid_file = bool(given.get("logappend")), given.get("pidfilepath")
        self.engine_config = given.get("wiredTigerEngineConfigString", "")
        self.cache = max(64, int(float(given.get("wiredTigerCacheSizeGB", 0)) * 1024))
        if self.fork and not self.log_path:
            raise Refused("--fork has to be used with --logpath or --syslog")
        self.key = self._read_key(given["keyFile"]) if "keyFile" in given else None
        weak = bool(given.get("tlsAllowConnectionsWithoutCertificates"))
        files = given.get("tlsCertificateKeyFile"), given.get("tlsCAFile")
        self.tls = Tls(given.get("tlsMode", "disabled"), *files, weak)

    @staticmethod
    def _read_key(path):
        with open(path, encoding="ascii") as file:
            if os.fstat(file.fileno()).st_mode & 0o077:
                raise Refused(f"permissions on {path} are too open")
            key = "".join(file.read().split())
        if not 6 <= len(key) <= 1024:
            raise Refused(f"the security key in {path} must be of 6 to 1024 characters")
        return key

    def own_names(self):
        return {*self.hosts, "localhost", "127.0.0.1", "::1", socket.gethostname()}

    def take_lock_file(self):
        """As mongod: the process that holds the lock writes its number into the file; an empty one says a clean end."""
        path = os.path.join(self.dbpath, "mongod.lock")
        self._lock_file = open(path, "a+", encoding="ascii")
        try:
            fcntl.lockf(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise SystemExit(f"Unable to lock the lock file: {path}. Another mongod instance is already running") from None
        self._lock_file.seek(0)
        if self._lock_file.read(1):
            process.log("STORAGE", "Detected unclean shutdown - mongod.lock is not empty", "W")
        self._lock_file.truncate(0)
        self._lock_file.write(f"{os.getpid()}\n")
        self._lock_file.flush()

    def release_lock_file(self):
        self._lock_file.truncate(0)


def tell_version():
    info = {
        "version": process.VERSION,
        "gitVersion": "0" * 40,
        "modules": [],
        "allocator": "system",
        "environment": {"distmod": "double for keyward's tests, not MongoDB", "distarch": "x86_64"},
    }
    print(f"db version v{process.VERSION}\nBuild Info: {json.dumps(info, indent=4)}")


def redirect(options):
    flags = os.O_WRONLY | os.O_CREAT | (os.O_APPEND if options.log_append else os.O_TRUNC)
    descriptor = os.open(options.log_path, flags, 0o600)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)


def fork(told):
    """The parent waits until the child serves, as mongod's does."""
    if os.fork():
        os.close(told[1])
        os._exit(0 if os.read(told[0], 1) == b"1" else 1)
    os.close(told[0])
    os.setsid()


def main():
    try:
        options = Options(sys.argv[1:])
    except (Refused, OSError, ValueError) as error:
        print(f"Error parsing command line: {error}\ntry 'mongod --help' for more information", file=sys.stderr)
        return 2
    if options.version:
        tell_version()
        return 0
    told = os.pipe()
    if options.fork:
        fork(told)
    if options.log_path:
        redirect(options)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGINT])
    process.log("CONTROL", "This is a double of mongod for keyward's tests, not MongoDB")
    if not os.path.isdir(options.dbpath):
        process.log("CONTROL", f"NonExistentPath: Data directory {options.dbpath} not found", "E")
        return 100
    try:
        options.take_lock_file()
        store = Store(options.dbpath, options.directory_per_db, options.engine_config, options.cache)
    except (wiredtiger.WiredTigerError, SystemExit, OSError) as error:
        process.log("STORAGE", f"Failed to start up WiredTiger: {error}", "E")
        return 100
    running = process.Server(options, store)
    listeners = running.listen()
    if options.pid_file:
        with open(options.pid_file, "w", encoding="ascii") as file:
            file.write(f"{os.getpid()}\n")
    running.start(listeners)
    os.write(told[1], b"1")
    number = signal.sigwait([signal.SIGTERM, signal.SIGINT])
    process.log("CONTROL", f"Received signal {signal.Signals(number).name}; will terminate")
    running.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
