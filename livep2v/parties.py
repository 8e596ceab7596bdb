"""The two parties of a conversion, as Protocols: ``convert.py`` talks to these and to nothing else.

``Source`` is the machine being converted, ``Host`` the machine where the VM will live. Each call is a row of the table in
``docs/flow.md``. A Source is implemented by ``source.agent.LocalSource`` (in this process) and ``host.remote.RemoteSource``
(the same calls over the wire, by ssh or a local subprocess); one contract suite, ``tests/contract``, runs over both.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from .model import BootCheck, Changes, HostValues, Instant, Machine, Plan, PlanDisk, SnapshotSpec, Verification

if TYPE_CHECKING:
    from .host.job import Job

Progress = Callable[[str, dict[str, object]], None]  # (event name, facts); names are listed in docs/events.md


class Sink(Protocol):
    """Takes the blocks of a snapshot, in the order in which they are read. A block that comes again replaces the older."""

    def data(self, disk: int, offset: int, data: bytes, deadline: float | None = None) -> bool:
        """``data``: whole blocks, at most one chunk. False: no room came before ``deadline`` (monotonic), nothing taken."""

    def flush(self) -> None:
        """Return when everything given so far has left this process."""


class Source(Protocol):
    def inspect(self) -> Machine: ...

    def copy(self, spec: SnapshotSpec, host: Receiver, progress: Progress) -> Instant:
        """Take the snapshot and send it to ``host``. The one door of every provider (design section 2)."""

    def close(self) -> None:
        """Leave the source as it was found: no process, no file, no tracing instance, nothing frozen."""


class Receiver(Protocol):
    """Where blocks arrive: checks each against its digest, then writes it."""

    def data(self, disk: int, offset: int, length: int, codec: int, digests: bytes, payload: bytes) -> None: ...

    def zero(self, disk: int, offset: int, length: int) -> None: ...

    def digests(self, disk: int, offset: int, length: int) -> bytes:
        """Digests of what the host holds there, 16 bytes a block: answers the re-scan after a ring overrun."""

    def flush(self) -> None: ...


class Host(Protocol):
    def describe(self) -> HostValues: ...

    def create_job(self, plan: Plan) -> Job: ...

    def create_disk(self, disk: PlanDisk) -> str:
        """Create the virtual disk file; the answer is its disk id."""

    def attach(self, disk_id: str) -> str:
        """Open it for writing; the answer is the device identifier under which the receiver knows it."""

    def receiver(self) -> Receiver: ...

    def verify(self, progress: Progress) -> Verification: ...

    def detach(self) -> None: ...

    def virtualize(self, machine: Machine, plan: Plan, progress: Progress) -> Changes: ...

    def define(self, plan: Plan, changes: Changes) -> Plan:
        """Write the VM's definition; the answer is the plan with what the repair has decided (buses, models)."""

    def boot_check(self, plan: Plan, changes: Changes, progress: Progress) -> BootCheck: ...
