"""Freezing every file system of the chosen disks, and thawing it, in the right order.

Freeze in reverse mount order, those on loop devices first (freezing a loop file system after the one its file lives in hangs
for ever, open-vm-tools issue 6), thaw in mount order and repeat FITHAW until it errors: the rule of qemu's guest agent
(qga/commands-linux.c). What knows no FIFREEZE (vfat) is synced instead.
"""
import errno
import os
import time
from typing import Dict, List, NamedTuple, Sequence, Tuple

from ...errors import FreezeError
from ...model import Mount
from .. import kernel
from .guardian import Guardian, thaw_all

NO_FREEZE = (errno.EOPNOTSUPP, errno.ENOTTY, errno.EINVAL)


class _Target(NamedTuple):
    mountpoint: str
    fd: int


class Freezer:
    """Opens the mount points at once: while frozen, no path is looked up."""

    def __init__(self, mounts: Sequence[Mount], guardian: Guardian) -> None:
        """``mounts``: those on the chosen disks. Each file system is taken once, at its first mount point."""
        self._guardian = guardian
        first: Dict[str, Mount] = {}
        for mount in sorted(mounts, key=lambda item: item.order):
            first.setdefault(mount.devno, mount)
        self._targets: List[_Target] = []
        loops = [item for item in first.values() if item.device.startswith("/dev/loop")]
        others = [item for item in first.values() if not item.device.startswith("/dev/loop")]
        for mount in sorted(loops, key=_newest) + sorted(others, key=_newest):
            try:
                fd = os.open(mount.mountpoint, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY)
            except NotADirectoryError:
                fd = os.open(mount.mountpoint, os.O_RDONLY | os.O_CLOEXEC)  # a bind-mounted file
            except OSError as error:
                self.close()
                raise FreezeError(mountpoint=mount.mountpoint, reason=error.strerror)
            self._targets.append(_Target(mount.mountpoint, fd))
        self.not_frozen: Tuple[str, ...] = ()
        self._frozen: List[_Target] = []
        self._armed = False
        self._began = 0.0
        self.pauses_ms: List[float] = []  # how long each freeze kept writers waiting

    @property
    def mountpoints(self) -> Tuple[str, ...]:
        """Frozen last time, in the order of freezing."""
        return tuple(target.mountpoint for target in self._targets if target.mountpoint not in self.not_frozen)

    def sync(self) -> None:
        """Write back everything dirty, so that the freeze after it has little left to write while it blocks writers."""
        for target in self._targets:
            kernel.syncfs(target.fd)

    def freeze(self, limit: float) -> None:
        """Freeze all; the watchdog thaws ``limit`` seconds from now. Raises FreezeError with nothing left frozen."""
        self._guardian.arm([target.fd for target in reversed(self._targets)], limit)
        self._armed = True
        self._began = time.monotonic()
        not_frozen = []
        try:
            for target in self._targets:
                try:
                    kernel.freeze(target.fd)
                    self._frozen.append(target)
                except OSError as error:
                    if error.errno == errno.EBUSY:  # somebody else froze it: it is still, but its thaw is not ours
                        raise FreezeError(mountpoint=target.mountpoint, reason="it is frozen already, by somebody else")
                    if error.errno not in NO_FREEZE:
                        raise FreezeError(mountpoint=target.mountpoint, reason=error.strerror)
                    kernel.syncfs(target.fd)
                    not_frozen.append(target.mountpoint)
        except BaseException:
            self.thaw(quiet=True)
            raise
        self.not_frozen = tuple(not_frozen)

    def thaw(self, quiet: bool = False) -> None:
        """Thaw what :meth:`freeze` froze. Raises FreezeTimeout where the watchdog was faster (not if ``quiet``)."""
        thaw_all([target.fd for target in reversed(self._frozen)])
        self._frozen = []
        if self._armed:
            self._armed = False
            self.pauses_ms.append((time.monotonic() - self._began) * 1000)
            try:
                self._guardian.disarm()
            except Exception:
                if not quiet:
                    raise

    def settle(self, limit: float) -> float:
        """Freeze and thaw once: journals reach their final place, allocation maps on disk become exact. Returns seconds."""
        self.sync()
        start = time.monotonic()
        self.freeze(limit)
        self.thaw()
        return time.monotonic() - start

    def close(self) -> None:
        self.thaw(quiet=True)
        for target in self._targets:
            os.close(target.fd)
        self._targets = []


def _newest(mount: Mount) -> int:
    return -mount.order
