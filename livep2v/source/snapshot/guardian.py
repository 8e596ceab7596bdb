"""The watchdog: a process of its own that thaws after the hard limit, whatever has become of the agent.

A freeze outlives the process that made it, so the one that freezes cannot be the one that guarantees the thaw. The guardian
is forked while the agent is still small, holds its own copies of the open mount points (SCM_RIGHTS), has its memory locked,
and waits on one socket:

    agent -> guardian   "A<limit>" + fds   arm: thaw these, in this order, ``limit`` seconds from now
                        "D"                disarm; the answer says whether it had already thawed
                        "I<name>" + fd     remember a tracing instance (name, open parent folder)
    end of the socket                      the agent is gone: thaw at once, remove the instance, end

It ignores every polite signal: only kill -9 ends it, and then the agent sees the socket end and thaws by itself.
"""
import os
import select
import signal
import socket
import time
from typing import List, Sequence, Tuple

from ...errors import FreezeError, FreezeTimeout
from .. import kernel
from .tracefs import remove

MAX_FDS = 250  # SCM_MAX_FD is 253
REPLY_TIMEOUT = 5.0


REPEAT = 1.0  # s between two thaws after the limit, until the agent disarms: a slow freeze may succeed after the first


def thaw_all(fds: Sequence[int]) -> int:
    """FITHAW each until it errors (a file system frozen twice needs two). Returns how many were thawed."""
    thawed = 0
    for fd in fds:
        for _ in range(10):
            try:
                kernel.thaw(fd)
                thawed += 1
            except OSError:
                break
    return thawed


def _thaw_apart(fds: Sequence[int]) -> None:
    """Thaw each in a process of its own: FITHAW waits, uninterruptibly, while its file system is still being frozen, and that
    freeze may itself wait for one of the others."""
    for fd in fds:
        try:
            child = os.fork()
        except OSError:
            thaw_all([fd])
            continue
        if child == 0:
            thaw_all([fd])
            os._exit(0)


class Guardian:
    """The agent's handle on the watchdog process. Make it before any thread exists."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.pid = os.fork()
        if self.pid == 0:
            try:
                self._socket.close()
                _guard(theirs)
            finally:
                os._exit(0)
        theirs.close()
        self._socket.settimeout(REPLY_TIMEOUT)
        self._limit = 0.0
        if self._socket.recv(100) != b"R":
            raise FreezeError(mountpoint="the watchdog", reason="did not start")

    def arm(self, fds: Sequence[int], limit: float) -> None:
        """From now on these file systems are thawed, in this order, after ``limit`` seconds or when this process ends."""
        self._limit = limit
        if len(fds) > MAX_FDS:
            raise FreezeError(mountpoint="{} file systems".format(len(fds)), reason="more than {}".format(MAX_FDS))
        self._ask("A{:.3f}".format(limit).encode("ascii"), list(fds))

    def disarm(self) -> None:
        """Raises FreezeTimeout where the watchdog has already thawed: what was read since then is not one instant."""
        if self._ask(b"D", []) != b"D":
            raise FreezeTimeout(limit_s=self._limit)

    def remember(self, name: str, parent_fd: int) -> None:
        """Remove this tracing instance, which may not exist yet, if the agent ends without doing so."""
        self._ask(b"I" + name.encode("ascii"), [parent_fd])

    def _ask(self, message: bytes, fds: List[int]) -> bytes:
        try:
            kernel.send_fds(self._socket, message, fds) if fds else self._socket.send(message)
            answer = self._socket.recv(100)
        except OSError as error:
            raise FreezeError(mountpoint="the watchdog", reason="does not answer: {}".format(error))
        if not answer:
            raise FreezeError(mountpoint="the watchdog", reason="was killed")
        return answer

    def close(self) -> None:
        """End the watchdog and wait for it."""
        if self.pid:
            self._socket.close()
            try:
                os.waitpid(self.pid, 0)
            except ChildProcessError:
                pass
            self.pid = 0


def _prepare() -> None:
    """Own session, deaf to signals, last in the queue of the OOM killer, in RAM, and with no file of the agent's."""
    os.setsid()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # thawing children need no waiting for
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGPIPE, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    try:
        with open("/proc/self/oom_score_adj", "w") as stream:
            stream.write("-1000")
    except OSError:
        pass
    try:
        kernel.lock_memory()
    except OSError:
        pass


def _close_others(keep: int) -> None:
    for name in os.listdir("/proc/self/fd"):
        number = int(name)
        if number != keep and number > 2:
            try:
                os.close(number)
            except OSError:
                pass
    null = os.open("/dev/null", os.O_RDWR)
    for number in (0, 1, 2):  # a pipe held here would keep ssh waiting for its end
        os.dup2(null, number)


def _guard(sock: socket.socket) -> None:
    """Body of the watchdog process."""
    _prepare()
    _close_others(sock.fileno())
    sock.send(b"R")
    frozen: List[int] = []
    instances: List[Tuple[str, int]] = []
    deadline, fired = 0.0, False
    while True:
        wait = max(0.0, deadline - time.monotonic()) if deadline else None
        ready, _, _ = select.select([sock], [], [], wait)
        if not ready:
            _thaw_apart(frozen)
            deadline, fired = time.monotonic() + REPEAT, True
            continue
        try:
            message, fds = kernel.receive_fds(sock, 200, MAX_FDS)
        except OSError:
            message, fds = b"", []
        if not message:
            break
        answer = message[:1]
        if answer == b"A":
            for fd in frozen:
                os.close(fd)
            frozen, fired = fds, False
            deadline = time.monotonic() + float(message[1:])
        elif answer == b"D":
            for fd in frozen:
                os.close(fd)
            answer = b"T" if fired else b"D"
            frozen, deadline, fired = [], 0.0, False
        elif answer == b"I":
            instances.append((message[1:].decode("ascii"), fds[0]))
        try:
            sock.send(answer)
        except OSError:
            pass  # the agent has died: the next receive says so
    _thaw_apart(frozen)
    for name, parent in instances:
        remove(name, parent)
