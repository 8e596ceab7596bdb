"""Every error livep2v raises, as one tree; each leaf has its own exit code.

Livep2vError                     1   something failed that has no better name
|-- UsageError                   2   an option or a SOURCE that cannot be understood
|-- Refusal                      3   the plan says no, before anything is copied
|-- SourceError                 10   the machine being converted
|   |-- ConnectError            11   ssh did not get us there
|   |-- NotRoot                 12   neither root nor passwordless sudo
|   |-- NoPython                13   no usable Python 3.6+ on the source
|   |-- SourceLost              14   the connection ended in the middle
|   `-- AgentError              15   the agent failed in a way it did not expect
|-- SnapshotError               20   the instant could not be had
|   |-- TrackingUnavailable     21   no tracefs, or no block events in it
|   |-- FreezeError             22   a file system could not be frozen
|   |-- FreezeTimeout           23   the watchdog thawed before the copy was done
|   |-- NotConverging           24   the machine writes faster than we copy
|   |-- SnapshotIncomplete      25   a used block was not copied
|   `-- SourceReadError         26   a block of the source cannot be read
|-- TransferError               30   what travels between the two
|   |-- ProtocolError           31   a frame that is not one of ours
|   `-- DigestMismatch          32   a block arrived changed
|-- HostError                   40   the machine where the VM will live
|   |-- JobExists               41   the job folder is taken
|   |-- HostDiskFull            42   no room for the virtual disks
|   |-- ImageError              43   a virtual disk file cannot be written or read
|   |-- MissingTool             44   a program of the host is missing
|   `-- ToolFailed              45   a program of the host failed
|-- FormatError                 50   a structure on a disk that is damaged or lies
|-- VerifyError                 60   the replica is not what the source sent
|-- RepairError                 70   the copy cannot be made bootable
|-- BootCheckError              80   the VM did not come up
`-- Cancelled                  130   the user stopped it

An error carries its facts as attributes; its message names the object, the numbers and the way out. Only ``cli/`` turns
one into an exit. Errors cross the wire as ``{"type", "facts"}`` and are raised again, as the same class, on the other side.
"""
from typing import Any, Dict, List, Type


class Livep2vError(Exception):
    """Base of all errors. ``reason`` is the whole sentence where no subclass has a better one."""

    exit_code = 1
    msg = "{reason}"

    def __init__(self, **facts: Any) -> None:
        super().__init__(facts)
        self.facts = facts
        for key, value in facts.items():
            if not hasattr(type(self), key):  # facts may come from the other side: they never change an exit code or message
                setattr(self, key, value)

    def __str__(self) -> str:
        return self.msg.format(**self.facts)


class UsageError(Livep2vError):
    exit_code = 2


class Refusal(Livep2vError):
    """``reason``: every blocker, one a line, each with how to mend it."""

    exit_code = 3


class SourceError(Livep2vError):
    exit_code = 10


class ConnectError(SourceError):
    exit_code = 11
    msg = "cannot reach {target} over ssh: {reason}"


class NotRoot(SourceError):
    exit_code = 12
    msg = (
        "{target}: user {user} is not root and has no passwordless sudo ({reason}); log in as root, or give {user} the line "
        "'{user} ALL=(root) NOPASSWD: ALL' in /etc/sudoers.d/livep2v"
    )


class NoPython(SourceError):
    exit_code = 13
    msg = "{target}: no usable Python 3.6 or newer ({reason}); install the package {package} there, nothing else is needed"


class SourceLost(SourceError):
    exit_code = 14
    msg = "the connection to {target} ended while {doing}: {reason}; the source thaws itself, start the conversion again"


class AgentError(SourceError):
    exit_code = 15
    msg = "the agent on {target} failed: {reason}"


class SnapshotError(Livep2vError):
    exit_code = 20


class TrackingUnavailable(SnapshotError):
    exit_code = 21
    msg = "writes cannot be tracked: {reason}"


class FreezeError(SnapshotError):
    exit_code = 22
    msg = "{mountpoint} could not be frozen: {reason}; everything frozen before it was thawed"


class FreezeTimeout(SnapshotError):
    exit_code = 23
    msg = (
        "the file systems were frozen for more than {limit_s:g} s and the watchdog thawed them; nothing on the source was "
        "lost. Try again at a quieter time, or allow more with --max-freeze"
    )


class NotConverging(SnapshotError):
    exit_code = 24
    msg = (
        "after {passes} passes {dirty_bytes} bytes are still dirty, more than can be copied in {max_freeze_s:g} s at "
        "{rate:.0f} bytes/s; try at a quieter time, or allow more with --max-freeze"
    )


class SnapshotIncomplete(SnapshotError):
    exit_code = 25
    msg = "{disk}: {blocks} used blocks were not copied, the first at byte {offset}; the copy is not usable"


class SourceReadError(SnapshotError):
    exit_code = 26
    msg = "{disk}: {length} bytes at byte {offset} cannot be read: {reason}"


class TransferError(Livep2vError):
    exit_code = 30


class ProtocolError(TransferError):
    exit_code = 31
    msg = "not a livep2v frame: {reason}"


class DigestMismatch(TransferError):
    exit_code = 32
    msg = (
        "{disk}: the block at byte {offset} arrived changed (digest {got}, sent {expected}); nothing of it was written. "
        "The connection or a memory is damaged"
    )


class HostError(Livep2vError):
    exit_code = 40


class JobExists(HostError):
    exit_code = 41
    msg = "{path} exists already; choose another --name or another -o folder, or remove it yourself"


class HostDiskFull(HostError):
    exit_code = 42
    msg = "{path}: no room ({needed} bytes needed, {free} free); free some or choose another folder with -o"


class ImageError(HostError):
    exit_code = 43
    msg = "{path}: {reason}"


class MissingTool(HostError):
    exit_code = 44
    msg = "the program {tool} is not on this host; install the package {package}"


class ToolFailed(HostError):
    exit_code = 45
    msg = "{tool} failed with status {status}: {reason}. To replay: {replay}"


class FormatError(Livep2vError):
    """``what``: the structure ("ext4 superblock"); ``offset``: bytes from the start of what was read."""

    exit_code = 50
    msg = "{what} at byte {offset}: {reason}"


class VerifyError(Livep2vError):
    exit_code = 60
    msg = "{disk}: {blocks} blocks of the replica differ from what the source sent, the first at byte {offset}"


class RepairError(Livep2vError):
    exit_code = 70
    msg = "{what}: {reason}"


class BootCheckError(Livep2vError):
    exit_code = 80
    msg = "the VM did not come up: {reason}; see {log}"


class Cancelled(Livep2vError):
    exit_code = 130
    msg = "stopped while {doing}; the source is as it was"


def all_errors() -> "Dict[str, Type[Livep2vError]]":
    """Every class of the tree by name."""
    found: Dict[str, Type[Livep2vError]] = {}
    stack: List[Type[Livep2vError]] = [Livep2vError]
    while stack:
        cls = stack.pop()
        found[cls.__name__] = cls
        stack.extend(cls.__subclasses__())
    return found


def to_wire(error: Livep2vError) -> Dict[str, Any]:
    """The error as JSON values."""
    return {"type": type(error).__name__, "facts": error.facts}


def from_wire(data: Dict[str, Any]) -> Livep2vError:
    """The error that :func:`to_wire` wrote; a class or a message this version does not know becomes an AgentError."""
    cls = all_errors().get(str(data.get("type")))
    facts = data.get("facts")
    if cls is not None and isinstance(facts, dict):
        try:
            error = cls(**facts)
            str(error)
            return error
        except (KeyError, IndexError, ValueError, TypeError, AttributeError):
            pass
    return AgentError(target="the source", reason="{} {}".format(data.get("type"), facts))
