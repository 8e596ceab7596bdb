"""The source as an object in this process: what the agent serves over the wire, and the simplest Source there is."""

from typing import Any, Callable, List, Optional, Tuple

from ..errors import UsageError
from ..model import Instant, Machine, Mount, SnapshotSpec
from .inspection import inspect_image, inspect_live
from .inspection.mounts import mounts as all_mounts
from .inspection.tree import Tree
from .snapshot import offline, tracked
from .snapshot.copier import Progress
from .snapshot.guardian import Guardian


class LocalSource:
    """A Source (parties.Source). ``image``: path of a disk image or of an unmounted block device; None: this machine.

    Make it before any thread exists where the machine is live: it forks the watchdog."""

    def __init__(self, image: Optional[str] = None, cancelled: Optional[Callable[[], bool]] = None) -> None:
        self._image = image
        self._cancelled = cancelled or _never
        self._guardian = None if image else Guardian()

    def inspect(self) -> Machine:
        return inspect_image(self._image) if self._image else inspect_live()

    def copy(self, spec: SnapshotSpec, host: Any, progress: Progress) -> Instant:
        """Take the snapshot and send it to ``host``; the provider decides in which order it reads."""
        if spec.provider == "offline":
            return offline.copy(spec, host, progress, self._cancelled)
        if spec.provider != "tracked" or self._guardian is None:
            raise UsageError(reason="{}: no such snapshot provider for this source".format(spec.provider))
        return tracked.copy(spec, lambda: mounts_of(spec), host, progress, self._cancelled, self._guardian)

    def close(self) -> None:
        if self._guardian is not None:
            self._guardian.close()


def mounts_of(spec: SnapshotSpec) -> Tuple[Mount, ...]:
    """The mounts that lie on the chosen disks, as they are now (not as they were at the inspection)."""
    names = {disk.name for disk in spec.disks}
    devices = {disk.devno for disk in spec.disks}
    chosen: List[Mount] = []
    for mount in all_mounts(Tree("/")):
        if names.intersection(mount.disks) or mount.devno in devices:
            chosen.append(mount)
    return tuple(chosen)


def _never() -> bool:
    return False
