"""The guest's files through libguestfs: its file systems are read by the kernel of a throw-away appliance, never by the host's.

API: https://libguestfs.org/guestfs.3.html. Each call crosses a virtio serial port: about 2 ms under KVM, 10 ms under
emulation, so fixes read whole files and work on them here.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from ...errors import MissingTool, RepairError
from .guest import check_size, kind_of, parent

APPLIANCE_MEMORY = 768  # MiB; mounting a large file system needs more than the default on small machines
TRACE_WIDTH = 400  # characters of one traced call; files are written in one


def open_guest(overlays: Sequence[Path], accelerator: str, log: IO[str]) -> Any:
    """A started appliance with ``overlays`` (qcow2) as /dev/sda, /dev/sdb ...; ``accelerator``: "kvm" or "tcg"; ``log`` gets
    the trace of all calls, until the handle is closed. Raises MissingTool and RepairError.

    No event callback is set: an interrupt that arrives while Python runs inside one is printed and dropped by the binding, and
    a conversion that the user had stopped went on to its end."""
    try:
        import guestfs
    except ImportError as error:
        raise MissingTool(tool="libguestfs (Python)", package="python3-guestfs") from error
    g = guestfs.GuestFS(python_return_dict=True)
    try:
        g.set_backend("direct")
        if accelerator != "kvm":
            g.set_backend_setting("force_tcg", "1")
        g.set_memsize(APPLIANCE_MEMORY)
        for overlay in overlays:
            # The overlay is written back to the replica only after the appliance is gone: no cache has to be flushed before.
            g.add_drive_opts(str(overlay), format="qcow2", cachemode="unsafe")
        print("launch", file=log, flush=True)
        g.launch()
    except RuntimeError as error:
        g.close()
        raise RepairError(what="libguestfs", reason=f"its appliance did not start: {error}") from error
    except BaseException:
        g.close()
        raise
    return _Traced(g, log)


class _Traced:
    """A libguestfs handle that writes each call to a log before it is made."""

    def __init__(self, g: Any, log: IO[str]) -> None:
        self._g, self._log = g, log

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._g, name)

        def traced(*args: Any, **options: Any) -> Any:
            words = [repr(value) for value in args] + [f"{key}={value!r}" for key, value in options.items()]
            print(f"{name} {' '.join(words)}"[:TRACE_WIDTH], file=self._log, flush=True)
            return call(*args, **options)

        return traced


class GuestfsTree:
    """A Tree over a started libguestfs handle with the guest's file systems mounted."""

    def __init__(self, g: Any) -> None:
        self.g = g
        self.labels = False  # set when the guest uses SELinux

    def _kind(self, path: str, follow: bool) -> str:
        try:
            status = self.g.statns(path) if follow else self.g.lstatns(path)
        except RuntimeError:
            return ""
        return kind_of(status["st_mode"])

    def kind(self, path: str) -> str:
        return self._kind(path, follow=False)

    def exists(self, path: str) -> bool:
        return bool(self._kind(path, follow=True))

    def _need(self, path: str) -> int:
        try:
            return int(self.g.statns(path)["st_size"])
        except RuntimeError as error:
            raise FileNotFoundError(path) from error

    def read(self, path: str) -> bytes:
        check_size(path, self._need(path))
        return bytes(self.g.read_file(path))

    def readlink(self, path: str) -> str:
        return str(self.g.readlink(path))

    def listdir(self, path: str) -> list[str]:
        if self._kind(path, follow=True) != "dir":
            return []
        return sorted(self.g.ls(path))

    def size(self, path: str) -> int:
        return self._need(path)

    def digest(self, path: str) -> str:
        return str(self.g.checksum("sha256", path))

    def fetch(self, path: str, to: Path) -> None:
        self._need(path)
        self.g.download(path, str(to))

    def write(self, path: str, data: bytes, mode: int | None = None, like: str = "") -> None:
        new = not self.exists(path)
        self.g.write(path, data)
        if mode is not None:  # a new file has 0644 by the daemon's umask; FAT refuses any chmod
            self.g.chmod(mode, path)
        if new:
            self._label(path, like or parent(path))

    def splice(self, path: str, offset: int, data: bytes) -> None:
        if self._need(path) != offset:
            self.g.truncate_size(path, offset)
        self.g.write_append(path, data)

    def symlink(self, target: str, path: str) -> None:
        self.g.ln_s(target, path)
        self._label(path, parent(path))

    def mkdir_p(self, path: str) -> None:
        missing = []
        here = path
        while here != "/" and not self.exists(here):
            missing.append(here)
            here = parent(here)
        for item in reversed(missing):
            self.g.mkdir(item)
            self._label(item, parent(item))

    def remove(self, path: str) -> None:
        self.g.rm(path)

    def _label(self, new: str, like: str) -> None:
        """Give ``new`` the SELinux label of ``like``. Only files that we touch: relabelling a whole guest is slow, and breaks
        rootless containers (RHEL-176189)."""
        if not self.labels:
            return
        with contextlib.suppress(RuntimeError):  # FAT has no labels
            for item in self.g.lgetxattrs(like):
                if item["attrname"] == "security.selinux":
                    # The binding takes no NUL at the end; the kernel does not need it (security/selinux/ss/services.c)
                    value = bytes(item["attrval"]).rstrip(b"\0").decode("ascii")
                    self.g.lsetxattr("security.selinux", value, len(value), new)
