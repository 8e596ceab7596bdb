"""The boot check: the VM starts once, as it will later, on a throw-away overlay and cut off from every network.

Its first-boot unit reports on the second serial port (``guest_report``). The check ends when the report is complete, when
qemu ends, when the guest says that it is lost (``symptoms``), or when the time is up. The virtual disks are opened for reading
only; what the guest writes is deleted with the overlays. Left in the job folder: ``logs/serial.log``, ``logs/firmware.log``,
``logs/report.log``, ``logs/qemu.log`` and ``boot.png``.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from ...errors import ToolFailed
from ...model import BootCheck, Changes, Firmware, PlanDisk, Vm
from ...parties import Progress
from ..define.qemu import DRIVERS, FIRMWARE_CODE, FIRMWARE_VARS, MIB, Backends, DiskFile, argv, cpu_model
from ..qmp import Qmp, QmpError
from ..run import failure, run, running
from . import screen
from .guest_report import GuestReport, printable, read_report
from .symptoms import diagnose, last_line

SCREENSHOT = "boot.png"
SERIAL_LOG = "logs/serial.log"
POLL = 0.25  # s between looks at the report, at qemu and at the logs
SCREEN_POLL = 2.0  # s between looks at the text screen, which stop the guest for a moment
SETTLE = 1.0  # s from the first symptom to the verdict, so that log and picture hold the rest of the message
QMP_TIMEOUT = 30.0  # s; under emulation on a loaded host the first answer has taken 2 s
QUIT_TIMEOUT = 5.0  # s
MAX_RESTARTS = 3  # a relabelling or an update may restart a guest once or twice, a broken one does it for ever
TAIL = 64 * 1024  # bytes at the end of a log that are searched again with what is new
MIN_MEMORY = 512 * MIB

# Names that Linux gives to the disks of a controller. A root on LVM, md, btrfs or ZFS has another name and is not judged by it.
DISK_NAMES = {"virtio": r"/dev/vd[a-z]", "nvme": r"/dev/nvme\d", "sata": r"/dev/sd[a-z]", "ide": r"/dev/[sh]d[a-z]"}
BUS_NAMES = {"virtio": "virtio-blk", "nvme": "NVMe", "sata": "SATA", "ide": "IDE", "scsi": "virtio-scsi"}
_PLAIN_DISK = re.compile(r"/dev/(vd|sd|hd|xvd|nvme|mmcblk)[a-z0-9]")


def boot_check(
    job: Path,
    vm: Vm,
    disks: Sequence[tuple[PlanDisk, Path]],
    changes: Changes,
    accelerator: str,
    timeout: float,
    progress: Progress,
) -> BootCheck:
    """Boot the VM once and say how far it came. ``timeout`` in seconds from the start of qemu. A guest that does not come up is
    a verdict, not an exception; ToolFailed, MissingTool and HostError say that the check itself could not run. Whatever
    happens, qemu is reaped and the overlays are deleted."""
    logs = job / "logs"
    logs.mkdir(exist_ok=True)
    for name in ("serial", "firmware", "report", "qemu"):
        (logs / f"{name}.log").unlink(missing_ok=True)
    bus = changes.disk_bus or vm.disk_bus
    with (
        tempfile.TemporaryDirectory(prefix=".boot-check-", dir=job) as overlays,
        tempfile.TemporaryDirectory(prefix="livep2v-") as control,  # socket paths must be short (108 bytes)
    ):
        files = [_overlay(Path(overlays), disk, path) for disk, path in disks]
        command = _command(job, Path(overlays), Path(control), vm, files, bus, changes.nic_model, accelerator)
        started = time.monotonic()
        with running(command, log_file=logs / "qemu.log") as process:
            try:
                qmp = Qmp(Path(control) / "qmp", QMP_TIMEOUT, alive=lambda: process.poll() is None)
            except QmpError as error:
                raise _not_started(command, process, logs / "qemu.log") from error
            with qmp:
                watch = _Watch(job, process, qmp, Path(control), progress, started, timeout)
                verdict = watch.wait()
                seconds = time.monotonic() - started
                pictured = screen.picture(qmp, job / SCREENSHOT)
                _quit(qmp, process)
    return _judge(watch.report, verdict, seconds, bus, changes, accelerator, pictured)


def _overlay(folder: Path, disk: PlanDisk, path: Path) -> DiskFile:
    overlay = folder / f"{disk.index}.qcow2"
    base = ["-b", str(path.resolve()), "-F", DRIVERS[disk.format]]
    run(["qemu-img", "create", "-q", "-f", "qcow2", *base, str(overlay)], timeout=60)
    return DiskFile(disk, str(overlay), "qcow2", cache="unsafe")  # nothing of it is kept, so it need not reach the disk


def _command(
    job: Path, scratch: Path, control: Path, vm: Vm, files: list[DiskFile], bus: str, nic_model: str, accelerator: str
) -> list[str]:
    store = scratch / "OVMF_VARS.fd"
    if vm.firmware is Firmware.UEFI:
        shutil.copyfile(job / FIRMWARE_VARS, store)
    isolated = "user,restrict=on"  # DHCP answers, nothing gets out: the source with the same addresses is still running
    back = Backends(
        accelerator, cpu_model(accelerator), "chardev:console", isolated, isolated, str(job / FIRMWARE_CODE), str(store)
    )
    words = argv(fitting(vm, os.cpu_count() or 1, _memory_available()), files, bus, nic_model, back)
    words += ["-chardev", f"file,id=console,path={_path(job / SERIAL_LOG)}"]
    words += ["-chardev", f"file,id=report,path={_path(job / 'logs/report.log')}", "-serial", "chardev:report"]
    # SeaBIOS writes its messages to this port, not to a serial one.
    words += ["-chardev", f"file,id=firmware,path={_path(job / 'logs/firmware.log')}"]
    words += ["-device", "isa-debugcon,iobase=0x402,chardev=firmware"]
    return words + ["-qmp", f"unix:{_path(control / 'qmp')},server=on,wait=off", "-display", "none"]


def _path(path: Path) -> str:
    return str(path).replace(",", ",,")


def fitting(vm: Vm, host_cpus: int, host_memory: int) -> Vm:
    """``vm`` no larger than this host can try out: its processors, and half of its free memory (bytes)."""
    memory = min(vm.memory, max(MIN_MEMORY, host_memory // 2 // MIB * MIB))
    return vm._replace(cpus=min(vm.cpus, host_cpus), memory=memory)


def _memory_available() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return MIN_MEMORY * 2


def _not_started(command: list[str], process: subprocess.Popen[bytes], log_file: Path) -> ToolFailed:
    status = process.poll()
    return failure(command, -1 if status is None else status, log_file.read_text(errors="replace"))


def _quit(qmp: Qmp, process: subprocess.Popen[bytes]) -> None:
    try:
        qmp.execute("quit")
        process.wait(QUIT_TIMEOUT)
    except (QmpError, subprocess.TimeoutExpired):
        pass  # running() kills it


class _Log:
    """A file that grows, searched as it grows."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self.tail = ""  # the last TAIL characters

    def grown(self) -> bool:
        try:
            with self._path.open("rb") as file:
                file.seek(self._offset)
                new = file.read(16 * TAIL)
        except FileNotFoundError:
            return False
        self._offset += len(new)
        self.tail = (self.tail + new.decode(errors="replace"))[-TAIL - len(new) :] if new else self.tail
        return bool(new)


class _Watch:
    """Waits for the end of the check. ``report`` is what the guest has said of itself so far."""

    def __init__(
        self,
        job: Path,
        process: subprocess.Popen[bytes],
        qmp: Qmp,
        control: Path,
        progress: Progress,
        started: float,
        timeout: float,
    ) -> None:
        self.report: GuestReport | None = None
        self._report_path = job / "logs/report.log"
        self._console = _Log(job / SERIAL_LOG)
        self._firmware = _Log(job / "logs/firmware.log")
        self._process, self._qmp, self._progress = process, qmp, progress
        self._screen_file = control / "screen"
        self._screen = ""
        self._screen_due = 0.0
        self._started, self._timeout = started, timeout
        self._told = 0.0

    def wait(self) -> str:
        """Empty when the report is complete, else the sentence that says why it never will be."""
        lost_at: float | None = None
        while True:
            self.report = read_report(self._report_path)
            if self.report is not None and self.report.complete:
                return ""
            verdict = self._ended() or self._restarts()
            if verdict:
                return verdict
            verdict = self._lost()
            now = time.monotonic()
            if verdict:
                lost_at = lost_at or now
                if now - lost_at >= SETTLE:
                    return verdict
            elif now - self._started > self._timeout:
                return self._late()
            self._tell(now)
            time.sleep(POLL)

    def _ended(self) -> str:
        self._qmp.poll()
        status = self._process.poll()
        if status is None:
            return self._stopped()
        if any(event["event"] == "SHUTDOWN" for event in self._qmp.events):
            return "the guest switched itself off before it had reported"
        return f"qemu ended with status {status}, see logs/qemu.log"

    def _stopped(self) -> str:
        """qemu stops a guest whose write finds no room on the host (werror=enospc, its default)."""
        errors = [event.get("data", {}) for event in self._qmp.events if event["event"] == "BLOCK_IO_ERROR"]
        stopped = next((data for data in errors if data.get("action") == "stop"), None)
        return f"this host cannot hold what the guest writes: {stopped.get('reason')}" if stopped is not None else ""

    def _restarts(self) -> str:
        count = sum(event["event"] == "RESET" and bool(event.get("data", {}).get("guest")) for event in self._qmp.events)
        return f"the guest restarted {count} times without a report" if count >= MAX_RESTARTS else ""

    def _lost(self) -> str:
        self._console.grown()
        self._firmware.grown()
        now = time.monotonic()
        if now >= self._screen_due:
            self._screen = screen.text(self._qmp, self._screen_file)
            self._screen_due = now + SCREEN_POLL
        return diagnose(self._console.tail) or diagnose(self._firmware.tail) or diagnose(self._screen)

    def _late(self) -> str:
        begun = "its report began but did not end" if self.report is not None else "no report came"
        console, shown = last_line(self._console.tail), last_line(self._screen)
        if console:
            said = f"the last line on its console is: {console}"
        elif shown:
            said = f"nothing on its serial console, the last line on its screen is: {shown}"
        else:
            said = "nothing on its serial console and no text on its screen"
        return f"{begun} within {self._timeout:g} s; {said}"

    def _tell(self, now: float) -> None:
        if now - self._told >= 1.0:
            self._told = now
            line = last_line(self._console.tail) or last_line(self._screen)
            self._progress("boot", {"elapsed": round(now - self._started, 1), "timeout": self._timeout, "line": line})


def on_expected_bus(root: str, bus: str) -> bool:
    """Whether ``root``, the source of / in the guest's mount table, is where the VM's disks are. Names that say nothing of the
    controller (LVM, md, ZFS, /dev/root) pass."""
    if not _PLAIN_DISK.match(root):
        return bool(root)
    return re.match(DISK_NAMES.get(bus, r"/dev/sd[a-z]"), root) is not None


def _judge(
    report: GuestReport | None, problem: str, seconds: float, bus: str, changes: Changes, accelerator: str, pictured: bool
) -> BootCheck:
    report = report or GuestReport(complete=False)
    on_bus = on_expected_bus(report.root, bus)
    ok = not problem and on_bus
    if problem:
        verdict = f"did not come up in {seconds:.0f} s: {problem}"
    elif not on_bus:
        verdict = (
            f"came up in {seconds:.0f} s, but / is on {report.root or 'no device it names'}, not on {BUS_NAMES.get(bus, bus)}"
        )
    else:
        verdict = f"came up in {seconds:.0f} s on {BUS_NAMES.get(bus, bus)}: / on {report.root}, {_facts(report)}"
        if changes.kernel and report.kernel != changes.kernel:
            verdict += f"; kernel {report.kernel} booted where {changes.kernel} was expected"
    return BootCheck(
        ok=ok,
        verdict=printable(verdict, 1000),
        seconds=round(seconds, 1),
        accelerator=accelerator,
        hostname=report.hostname,
        kernel=report.kernel,
        root=report.root,
        mounts=report.mounts,
        failed_units=report.failed_units,
        addresses=report.addresses,
        system_state=report.state,
        serial_log=SERIAL_LOG,
        screenshot=SCREENSHOT if pictured else "",
    )


def _facts(report: GuestReport) -> str:
    systems = f"{len(report.mounts)} file system{'' if len(report.mounts) == 1 else 's'} mounted"
    if not report.failed_units:
        return f"{systems}, no failed unit"
    return f"{systems}, {len(report.failed_units)} failed: {', '.join(report.failed_units[:5])}"
