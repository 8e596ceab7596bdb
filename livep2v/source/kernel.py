"""The few kernel calls that Python's library has no name for, by ctypes and fcntl. Nothing here allocates after import."""
import array
import ctypes
import fcntl
import os
import socket
from typing import List, Tuple

FIFREEZE = 0xC0045877  # _IOWR('X', 119, int), linux/fs.h; read and write together are 3 << 30 or 6 << 29: one value everywhere
FITHAW = 0xC0045878

MCL_CURRENT, MCL_ONFAULT = 1, 4
CLONE_NEWNS = 0x00020000
MS_REC, MS_SLAVE = 0x4000, 0x80000

_IOPRIO_SET = {"x86_64": 251, "i686": 289, "aarch64": 30, "ppc64le": 273, "s390x": 282}  # asm/unistd.h; libc has no name

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syncfs.argtypes = [ctypes.c_int]
_libc.mlockall.argtypes = [ctypes.c_int]
_libc.mount.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p]
_libc.unshare.argtypes = [ctypes.c_int]


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, "{}: {}".format(what, os.strerror(number)))


def freeze(fd: int) -> None:
    """FIFREEZE: flush the file system and block every writer until :func:`thaw`. Raises OSError."""
    fcntl.ioctl(fd, FIFREEZE, 0)


def thaw(fd: int) -> None:
    """FITHAW once; a file system frozen twice needs it twice. Raises OSError (EINVAL) where nothing is frozen."""
    fcntl.ioctl(fd, FITHAW, 0)


def syncfs(fd: int) -> None:
    _check(_libc.syncfs(fd), "syncfs")


def lock_memory() -> None:
    """Keep what is in RAM now in RAM: nothing of ours is swapped out while the disk under the swap is being copied.

    Only pages that are in use (MCL_ONFAULT, Linux 4.4); all that is mapped where the kernel is older. Raises OSError."""
    if _libc.mlockall(MCL_CURRENT | MCL_ONFAULT) != 0:
        _check(_libc.mlockall(MCL_CURRENT), "mlockall")


def unlock_memory() -> None:
    _libc.munlockall()


def priority(nice: int, io_level: int) -> None:
    """Processor and disk priority of the calling thread and of threads that it makes from now on.

    ``nice``: -20 .. 19; ``io_level``: 0 (first) .. 7 of the best-effort class (ioprio_set(2); not every I/O scheduler heeds
    it). What the system refuses is left as it is."""
    try:
        os.setpriority(os.PRIO_PROCESS, 0, nice)
    except OSError:
        pass
    number = _IOPRIO_SET.get(os.uname().machine)
    if number is not None:
        _libc.syscall(number, 1, 0, (2 << 13) | io_level)  # IOPRIO_WHO_PROCESS, this thread, IOPRIO_CLASS_BE


def own_mounts() -> None:
    """Leave the machine's mount namespace: what is mounted after this is seen by this process and its children only."""
    _check(_libc.unshare(CLONE_NEWNS), "unshare")
    _check(_libc.mount(b"none", b"/", None, MS_REC | MS_SLAVE, None), "mount --make-rslave /")


def mount(kind: str, target: str) -> None:
    _check(_libc.mount(b"none", os.fsencode(target), kind.encode("ascii"), 0, None), "mount {} on {}".format(kind, target))


def send_fds(sock: socket.socket, message: bytes, fds: List[int]) -> None:
    """Send ``message`` with open files over a Unix socket (SCM_RIGHTS)."""
    sock.sendmsg([message], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else [])


def receive_fds(sock: socket.socket, size: int, most: int) -> Tuple[bytes, List[int]]:
    """A message of at most ``size`` bytes and the (at most ``most``) files that came with it; empty at the end."""
    fds = array.array("i")
    message, ancillary, _flags, _address = sock.recvmsg(size, socket.CMSG_LEN(most * fds.itemsize))
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[:len(data) - len(data) % fds.itemsize])
    return message, list(fds)
