"""Tries from within a unit what its hardening forbids, and writes down what came of it: usage: probe.py RESULT.

Each line of the result is `NAME: OUTCOME`: the outcome is `done`, the name of an error, or the signal that ended the
attempt.
"""

import ctypes
import errno
import mmap
import os
import resource
import signal
import socket
import sys

LIBC = ctypes.CDLL(None, use_errno=True)


def call(function, *arguments):
    """A function of the C library that answers -1 when it fails."""
    if getattr(LIBC, function)(*arguments) == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def write(path):
    """Makes a file, and takes it away again."""
    with open(path, "w"):
        pass
    os.remove(path)


def make_control_group():
    path = "/sys/fs/cgroup/keyward-probe"
    os.mkdir(path)
    os.rmdir(path)


def make_setuid():
    path = os.path.join(os.path.dirname(sys.argv[1]), "setuid")
    with open(path, "w"):
        pass
    try:
        os.chmod(path, 0o4700)
    finally:
        os.remove(path)


def writable_code():
    mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)


def code(instructions):
    """Runs machine code from memory that was never writable and executable at once."""
    path = os.path.join(os.path.dirname(sys.argv[1]), "code")
    with open(path, "wb") as file:
        file.write(instructions)
    with open(path, "rb") as file:
        os.remove(path)
        LIBC.mmap.restype = ctypes.c_void_p
        at = LIBC.mmap(None, ctypes.c_size_t(4096), mmap.PROT_READ | mmap.PROT_EXEC, mmap.MAP_PRIVATE, file.fileno(), 0)
    if at in (None, ctypes.c_void_p(-1).value):
        raise OSError(ctypes.get_errno(), "mmap")
    return ctypes.CFUNCTYPE(ctypes.c_int)(at)()


def foreign_architecture():
    # mov eax, 20 (getpid of 32-bit Linux); int 0x80; ret
    code(b"\xb8\x14\x00\x00\x00\xcd\x80\xc3")


def raise_core_limit():
    try:
        resource.setrlimit(resource.RLIMIT_CORE, (1 << 20, 1 << 20))
    except ValueError:
        raise OSError(errno.EPERM, "above the hard limit")


def mount():
    call("mount", b"tmpfs", b"/mnt", b"tmpfs", 0, None)
    call("umount", b"/mnt")


def kernel_symbols():
    """They are there for everybody, and empty where they are hidden from root."""
    with open("/proc/kallsyms") as symbols:
        if not symbols.read(1):
            raise OSError(errno.ENODATA, "hidden")


ATTEMPTS = {
    "write /etc": lambda: write("/etc/keyward-probe"),
    "write /boot": lambda: write("/boot/keyward-probe"),
    "write /var": lambda: write("/var/lib/keyward-probe"),
    "write own folder": lambda: write(sys.argv[1] + ".try"),
    "make a control group": make_control_group,
    "read kernel symbols": kernel_symbols,
    "list /home": lambda: os.listdir("/home"),
    "find in /tmp": lambda: os.stat("/tmp/of-the-host"),
    "see process 1": lambda: os.stat("/proc/1/status"),
    "find a device": lambda: os.stat("/dev/of-the-host"),
    "packet socket": lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW),
    "netlink socket": lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW),
    "internet socket": lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM),
    "user namespace": lambda: call("unshare", 0x10000000),
    "real-time": lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1)),
    "setuid file": make_setuid,
    "personality": lambda: call("personality", ctypes.c_ulong(0x0040000)),
    "writable code": writable_code,
    "foreign architecture": foreign_architecture,
    "core limit": raise_core_limit,
    "mount": mount,
    "chown": lambda: os.chown(sys.argv[1], 1, 1),
}


def outcome(attempt):
    """What comes of it, in a process of its own: it may be killed for trying."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            attempt()
            said = "done"
        except OSError as error:
            said = errno.errorcode.get(error.errno, str(error.errno))
        except Exception as error:
            said = repr(error)
        os.write(writer, said.encode())
        os._exit(0)
    os.close(writer)
    said = os.read(reader, 4096).decode()
    status = os.waitpid(child, 0)[1]
    os.close(reader)
    return signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else said


with open(sys.argv[1], "w") as result:
    for name, attempt in ATTEMPTS.items():
        print(f"{name}: {outcome(attempt)}", file=result, flush=True)
