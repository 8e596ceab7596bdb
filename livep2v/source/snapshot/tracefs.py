"""Our own instance in tracefs: found, made, and removed again.

Where no tracefs is mounted, a child mounts it in a mount namespace of its own, hands us the open folder and ends: the
machine never sees the mount, and the kernel drops it with our last file.
"""
import os
import socket
import time
from typing import Callable, List, Optional

from ...errors import TrackingUnavailable
from .. import kernel

PLACES = ("/sys/kernel/tracing", "/sys/kernel/debug/tracing")
PREFIX = "livep2v-"
EVENT = "events/block/block_rq_complete"


def _holds_events(place: str) -> bool:
    return os.path.exists(os.path.join(place, EVENT, "format"))


def find() -> str:
    """The mounted tracefs that has block events. Raises TrackingUnavailable with the reason and the way out."""
    for place in PLACES:
        if _holds_events(place):
            return place
    try:
        with open("/proc/filesystems") as listing:
            known = "tracefs" in listing.read().split()
    except OSError:
        known = False
    if not known:
        raise TrackingUnavailable(
            reason="this kernel has no tracefs (CONFIG_FTRACE is off); shut the machine down and convert its disk as an image"
        )
    place = "/proc/self/fd/{}".format(_mounted_by_child())
    if not _holds_events(place):
        raise TrackingUnavailable(
            reason="tracefs has no {} (CONFIG_BLK_DEV_IO_TRACE is off, or kernel lockdown hides it)".format(EVENT)
        )
    return place


def _mounted_by_child() -> int:
    """A file descriptor of a tracefs root that is mounted nowhere."""
    ours, theirs = socket.socketpair()
    child = os.fork()
    if child == 0:
        try:
            kernel.own_mounts()
            kernel.mount("tracefs", "/sys/kernel")
            kernel.send_fds(theirs, b"ok", [os.open("/sys/kernel", os.O_RDONLY | os.O_DIRECTORY)])
        except OSError as error:
            theirs.send((error.strerror or "failed").encode("utf-8"))
        finally:
            os._exit(0)
    theirs.close()
    try:
        message, fds = kernel.receive_fds(ours, 1000, 1)
    finally:
        ours.close()
        os.waitpid(child, 0)
    if not fds:
        raise TrackingUnavailable(
            reason="tracefs cannot be mounted ({}); are you root, outside a container?".format(message.decode("utf-8"))
        )
    return fds[0]


class Instance:
    """``instances/livep2v-PID``: buffers that nobody else reads, gone with :meth:`close`."""

    def __init__(self, buffer_kib: int, remember: Optional[Callable[[str, int], None]] = None) -> None:
        """``buffer_kib``: ring size per CPU; ``remember(name, parent_fd)``: told before it is made, for the watchdog. Raises
        TrackingUnavailable."""
        base = find()
        self.name = "{}{}".format(PREFIX, os.getpid())
        try:
            self.parent_fd = os.open(os.path.join(base, "instances"), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise TrackingUnavailable(reason="{}/instances: {}".format(base, error.strerror))
        self.path = "/proc/self/fd/{}/{}".format(self.parent_fd, self.name)
        if remember is not None:
            remember(self.name, self.parent_fd)
        try:
            os.mkdir(self.name, dir_fd=self.parent_fd)
        except OSError as error:
            os.close(self.parent_fd)
            raise TrackingUnavailable(
                reason="{} cannot be made: {} (kernel lockdown or a container?)".format(self.path, error.strerror)
            )
        try:
            self.write("buffer_size_kb", str(buffer_kib))
            self.header_page = self.read("events/header_page", base)
            self.event_format = self.read(EVENT + "/format")
        except OSError as error:
            self.close()
            raise TrackingUnavailable(reason="{}: {}".format(self.path, error.strerror))
        except BaseException:
            self.close()
            raise

    def read(self, name: str, base: Optional[str] = None) -> str:
        with open(os.path.join(base or self.path, name)) as stream:
            return stream.read()

    def write(self, name: str, value: str) -> None:
        fd = os.open(os.path.join(self.path, name), os.O_WRONLY)
        try:
            os.write(fd, value.encode("ascii"))
        finally:
            os.close(fd)

    def cpus(self) -> List[str]:
        """Folders of the per-CPU buffers."""
        folder = os.path.join(self.path, "per_cpu")
        return [os.path.join(folder, name) for name in sorted(os.listdir(folder))]

    def close(self) -> None:
        if self.parent_fd >= 0:
            remove(self.name, self.parent_fd)
            os.close(self.parent_fd)
            self.parent_fd = -1


def remove(name: str, parent_fd: int, tries: int = 50) -> None:
    """Remove a tracing instance; EBUSY is answered by trying again for a second (readers may still be closing)."""
    for _ in range(tries):
        try:
            os.rmdir(name, dir_fd=parent_fd)
            return
        except FileNotFoundError:
            return
        except OSError:
            time.sleep(0.02)
