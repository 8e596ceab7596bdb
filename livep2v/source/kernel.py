"""The few kernel calls that Python's library has no name for, by ctypes and fcntl. Nothing here allocates after import."""
import array
import ctypes
import fcntl
import os
import socket
from typing import List, Tuple

FIFREEZE = 0xC0045877  # _IOWR('X', 119, int), linux/fs.h; read and write together are 3 << 30 or 6 << 29: one value everywhere
FITHAW = 0xC0045878

MCL_CURRENT = 1
CLONE_NEWNS = 0x00020000
MS_REC, MS_SLAVE = 0x4000, 0x80000

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syncfs.argtypes = [ctypes.c_int]
_libc.mlockall.argtypes = [ctypes.c_int]
_libc.mount.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p]
_libc.unshare.argtypes = [ctypes.c_int]


def _check(result, what):
    # type: (int, str) -> None
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, "{}: {}".format(what, os.strerror(number)))


def freeze(fd):
    # type: (int) -> None
    """FIFREEZE: flush the file system and block every writer until :func:`thaw`. Raises OSError."""
    fcntl.ioctl(fd, FIFREEZE, 0)


def thaw(fd):
    # type: (int) -> None
    """FITHAW once; a file system frozen twice needs it twice. Raises OSError (EINVAL) where nothing is frozen."""
    fcntl.ioctl(fd, FITHAW, 0)


def syncfs(fd):
    # type: (int) -> None
    _check(_libc.syncfs(fd), "syncfs")


def lock_memory():
    # type: () -> None
    """Keep what is mapped now in RAM, so that no page has to be read from a frozen disk. Raises OSError."""
    _check(_libc.mlockall(MCL_CURRENT), "mlockall")


def unlock_memory():
    # type: () -> None
    _libc.munlockall()


def own_mounts():
    # type: () -> None
    """Leave the machine's mount namespace: what is mounted after this is seen by this process and its children only."""
    _check(_libc.unshare(CLONE_NEWNS), "unshare")
    _check(_libc.mount(b"none", b"/", None, MS_REC | MS_SLAVE, None), "mount --make-rslave /")


def mount(kind, target):
    # type: (str, str) -> None
    _check(_libc.mount(b"none", os.fsencode(target), kind.encode("ascii"), 0, None), "mount {} on {}".format(kind, target))


def send_fds(sock, message, fds):
    # type: (socket.socket, bytes, List[int]) -> None
    """Send ``message`` with open files over a Unix socket (SCM_RIGHTS)."""
    sock.sendmsg([message], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else [])


def receive_fds(sock, size, most):
    # type: (socket.socket, int, int) -> Tuple[bytes, List[int]]
    """A message of at most ``size`` bytes and the (at most ``most``) files that came with it; empty at the end."""
    fds = array.array("i")
    message, ancillary, _flags, _address = sock.recvmsg(size, socket.CMSG_LEN(most * fds.itemsize))
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[:len(data) - len(data) % fds.itemsize])
    return message, list(fds)
