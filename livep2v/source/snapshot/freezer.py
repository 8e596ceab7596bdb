"""Freezing every file system of the chosen disks, and thawing it, in the right order.

Freeze in reverse mount order, those on loop devices first (freezing a loop file system after the one its file lives in hangs
for ever, open-vm-tools issue 6), thaw in mount order and repeat FITHAW until it errors: the rule of qemu's guest agent
(qga/commands-linux.c). What knows no FIFREEZE (vfat) is synced instead.

Mount points are held open only around a freeze: an administrator may mount and unmount during a copy of hours, and what is
mounted at the instant is what has to be frozen.
"""
import errno
import os
import time
from typing import Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

from ...errors import FreezeError
from ...model import Mount
from .. import kernel
from .guardian import Guardian, thaw_all

NO_FREEZE = (errno.EOPNOTSUPP, errno.ENOTTY, errno.EINVAL)


class _Target(NamedTuple):
    mountpoint: str
    fd: int


class Freezer:
    """Use: :meth:`open`, :meth:`sync`, :meth:`freeze`, :meth:`thaw`, :meth:`release`. While frozen, no path is looked up."""

    def __init__(self, mounts: Callable[[], Sequence[Mount]], guardian: Guardian) -> None:
        """``mounts``: tells what is mounted on the chosen disks now."""
        self._mounts = mounts
        self._guardian = guardian
        self._targets: List[_Target] = []
        self._frozen: List[_Target] = []
        self._armed = False
        self._began = 0.0
        self.mountpoints: Tuple[str, ...] = ()  # frozen last time, in the order of freezing
        self.not_frozen: Tuple[str, ...] = ()
        self.pauses_ms: List[float] = []  # how long each freeze kept writers waiting

    def open(self) -> None:
        """Open the mount point of each file system, in the order of freezing. Raises FreezeError where one is out of reach."""
        self.release()
        by_device: Dict[str, List[Mount]] = {}
        for mount in sorted(self._mounts(), key=lambda item: item.order):
            by_device.setdefault(mount.devno, []).append(mount)
        loops = [places for places in by_device.values() if places[0].device.startswith("/dev/loop")]
        others = [places for places in by_device.values() if not places[0].device.startswith("/dev/loop")]
        try:
            for places in sorted(loops, key=_newest) + sorted(others, key=_newest):
                self._targets.append(_open(places))
        except BaseException:
            self.release()
            raise

    def release(self) -> None:
        """Let go of the mount points, so that they can be unmounted."""
        while self._targets:
            os.close(self._targets.pop().fd)

    def sync(self) -> None:
        """Write back everything dirty, so that the freeze after it has little left to write while it blocks writers."""
        for target in self._targets:
            kernel.syncfs(target.fd)

    def freeze(self, limit: float) -> None:
        """Freeze all that is open; the watchdog thaws ``limit`` seconds from now. Raises FreezeError, with nothing left
        frozen."""
        self._guardian.arm([target.fd for target in reversed(self._targets)], limit)
        self._armed = True
        self._began = time.monotonic()
        frozen, not_frozen = [], []
        try:
            for target in self._targets:
                if time.monotonic() - self._began > limit:
                    raise FreezeError(mountpoint=target.mountpoint, reason="the others took {:g} s already".format(limit))
                try:
                    kernel.freeze(target.fd)
                    self._frozen.append(target)
                    frozen.append(target.mountpoint)
                except OSError as error:
                    if error.errno == errno.EBUSY:  # it is still, but its thaw is not ours
                        raise FreezeError(mountpoint=target.mountpoint, reason="it is frozen already, by somebody else")
                    if error.errno not in NO_FREEZE:
                        raise FreezeError(mountpoint=target.mountpoint, reason=error.strerror)
                    kernel.syncfs(target.fd)
                    not_frozen.append(target.mountpoint)
        except BaseException:
            self.thaw(quiet=True)
            raise
        self.mountpoints, self.not_frozen = tuple(frozen), tuple(not_frozen)

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

    def settle(self, limit: float, meanwhile: Optional[Callable[[], None]] = None) -> float:
        """Freeze and thaw once: journals reach their final place, allocation maps on disk become exact. ``meanwhile`` is
        called in between. Returns seconds."""
        self.open()
        try:
            self.sync()
            self.freeze(limit)
            try:
                if meanwhile is not None:
                    meanwhile()
            finally:
                self.thaw()
        finally:
            self.release()
        return self.pauses_ms[-1] / 1000

    def flush(self) -> None:
        """:meth:`sync`, without keeping anything open."""
        self.open()
        try:
            self.sync()
        finally:
            self.release()

    def close(self) -> None:
        self.thaw(quiet=True)
        self.release()


def _open(places: Sequence[Mount]) -> _Target:
    """The first mount point of a file system that really leads to it: another may be mounted over it."""
    reason = "it is hidden under another mount"
    for mount in places:
        try:
            # O_NONBLOCK: a file or FIFO may be bind-mounted there
            fd = os.open(mount.mountpoint, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            reason = str(error.strerror)
            continue
        major, minor = mount.devno.split(":")
        # btrfs has a device number of its own for each subvolume; there the path is believed
        if mount.fstype == "btrfs" or os.fstat(fd).st_dev == os.makedev(int(major), int(minor)):
            return _Target(mount.mountpoint, fd)
        os.close(fd)
    raise FreezeError(mountpoint=places[0].mountpoint, reason=reason)


def _newest(places: Sequence[Mount]) -> int:
    return -places[0].order
