"""Runs a lab machine: its own qemu process, an AHCI disk, an e1000, SSH and PostgreSQL on ports of the loopback interface.

The disk is an overlay that ends with the machine; the cached one is never written. Emulated throughout (TCG), so that it runs
on any host. To the guest it is physical hardware: no hypervisor bit in CPUID and a maker's name in SMBIOS.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from livep2v.errors import HostError
from livep2v.host.qmp import Qmp
from livep2v.host.run import run, running

from . import smbios
from .build import Built
from .ssh import SshDoor, tail

BOOT_TIMEOUT = 600.0  # s; 50 s on two idle cores under emulation, 300 s were seen with three other guests on them
MONITOR_TIMEOUT = 30.0  # s; qemu opens it within 0.2 s
STOP_TIMEOUT = 120.0  # s for a clean power-off


@dataclass(frozen=True)
class DirectBoot:
    """Boot without the disk's boot loader."""

    kernel: Path
    initrd: Path
    cmdline: str


class Machine:
    """A running lab machine; a context manager that starts it and ends it.

    ``run_folder`` holds its overlay, logs and ssh configuration; a temporary one by default. ``write_through`` writes the disk
    of ``built`` itself and is for the build alone.
    """

    def __init__(
        self,
        built: Built,
        *,
        run_folder: Path | None = None,
        direct_boot: DirectBoot | None = None,
        write_through: bool = False,
        extra: tuple[str, ...] = (),
    ) -> None:
        self.built = built
        self.hardware = built.recipe.hardware
        self._own_folder = run_folder is None
        self.folder = run_folder.resolve() if run_folder else Path(tempfile.mkdtemp(prefix="livep2v-lab-"))
        self.folder.mkdir(parents=True, exist_ok=True)
        self.serial_log = self.folder / "serial.log"
        self.qemu_log = self.folder / "qemu.log"
        self.qmp_path: Path  # from start() on
        self.ssh_config = self.folder / "ssh_config"
        self.disk = built.disk if write_through else self.folder / "disk.qcow2"
        self.pg_port = 0  # of this host
        self.door: SshDoor  # from start() on
        self._direct_boot = direct_boot
        self._write_through = write_through
        self._extra = extra
        self._stack = contextlib.ExitStack()
        self._process: subprocess.Popen[bytes] | None = None
        self._qmp: Qmp | None = None

    # ------------------------------------------------------------ life

    def start(self, timeout: float = BOOT_TIMEOUT) -> Machine:
        """Power on and wait until root can log in over ssh. Raises HostError with the end of the serial log if that fails."""
        if not self._write_through:
            self.disk.unlink(missing_ok=True)
            run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", self.built.disk, "-F", "raw", self.disk], timeout=60)
        try:
            # Not in our folder: the path of a socket may have no more than 107 bytes
            sockets = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="livep2v-qmp-"))
            self.qmp_path = Path(sockets) / "qmp.sock"
            self._process = self._stack.enter_context(running(self.argv(), log_file=self.qemu_log))
            self._qmp = self._stack.enter_context(Qmp(self.qmp_path, MONITOR_TIMEOUT, alive=self._alive))
            self.pg_port = self._forwarded(5432)
            self.door = SshDoor(self.built, self._forwarded(22), self.ssh_config)
            self._wait_for_ssh(time.monotonic() + timeout)
        except BaseException:
            self.kill()
            raise
        return self

    def stop(self) -> None:
        """Power off cleanly; after two minutes without a clean end the process is killed."""
        if self._process is None:
            return
        if self._process.poll() is None:
            self.run("systemctl poweroff", timeout=60, check=False)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_TIMEOUT)
        self.kill()

    def wait(self) -> None:
        """Return when the machine has powered itself off."""
        if self._process is not None:
            self._process.wait()

    def kill(self) -> None:
        """Pull the plug."""
        self._stack.close()
        self._process = self._qmp = None

    def __enter__(self) -> Machine:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.kill()
        if self._own_folder and kind is None:
            shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def pid(self) -> int:
        if self._process is None:
            raise HostError(reason=f"the lab machine {self.built.recipe.name} is not running")
        return self._process.pid

    # ------------------------------------------------------------ use

    @property
    def ssh_target(self) -> str:
        return "root@127.0.0.1"

    @property
    def ssh_options(self) -> tuple[str, ...]:
        """Options with which ``ssh OPTIONS root@127.0.0.1`` gets in; ``ssh -F ssh_config oldbox`` does too."""
        return self.door.options

    @property
    def ssh_port(self) -> int:
        return self.door.port

    def run(self, command: str, *, user: str = "root", timeout: float = 300, check: bool = True) -> str:
        """Run a shell command on the machine; the answer is its stdout. Raises ToolFailed unless ``check`` is False."""
        return self.door.run(command, user=user, timeout=timeout, check=check)

    def pause(self) -> None:
        """Stop its CPUs: to the outside the machine hangs."""
        self._command("stop")

    def resume(self) -> None:
        self._command("cont")

    # ------------------------------------------------------------ inside

    def argv(self) -> list[str]:
        """The qemu command line."""
        hw = self.hardware
        drive = "raw,discard=ignore" if self._write_through else "qcow2"
        argv = [
            "qemu-system-x86_64", "-name", self.built.recipe.name, "-nodefaults", "-no-user-config",
            "-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", "Nehalem,-hypervisor",
            "-smp", str(hw.cpus), "-m", f"{hw.memory // 2**20}M", "-rtc", "base=utc",
            "-uuid", hw.uuid,
            *smbios.options(hw, self.folder / "bios.smbios"),
            # The machine outlives no crash of this host, so its flushes need not reach the host's disk: cache=unsafe
            "-drive", f"if=none,id=sata0,file={self.disk},format={drive},cache=unsafe",
            "-device", f"ide-hd,bus=ide.0,drive=sata0,bootindex=1,model={hw.disk_model},serial={hw.disk_serial},"
                       f"wwn=0x{hw.disk_wwn:016x},rotation_rate=7200,discard_granularity=0",  # 0: a disk without TRIM
            "-device", f"e1000,netdev=net0,mac={hw.mac},addr=0x2,romfile=",
            "-netdev", "user,id=net0,hostfwd=tcp:127.0.0.1:0-:22,hostfwd=tcp:127.0.0.1:0-:5432",
            "-device", "VGA,addr=0x1", "-display", "none",
            "-serial", f"file:{self.serial_log}",
            "-qmp", f"unix:{self.qmp_path},server=on,wait=off",
        ]  # fmt: skip
        if self._direct_boot is not None:
            boot = self._direct_boot
            argv += ["-kernel", str(boot.kernel), "-initrd", str(boot.initrd), "-append", boot.cmdline]
        return [*argv, *self._extra]

    def _command(self, name: str, **arguments: object) -> object:
        if self._qmp is None:
            raise HostError(reason=f"the lab machine {self.built.recipe.name} is not running")
        return self._qmp.execute(name, **arguments)

    def _alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def _forwarded(self, guest_port: int) -> int:
        """The port of this host that qemu chose for a port of the guest (a hostfwd of port 0 takes a free one)."""
        table = str(self._command("human-monitor-command", **{"command-line": "info usernet"}))
        match = re.search(rf"TCP\[HOST_FORWARD\]\s+\d+\s+127\.0\.0\.1\s+(\d+)\s+\S+\s+{guest_port}\s", table)
        if match is None:
            raise HostError(reason=f"qemu forwards no port to port {guest_port} of the guest:\n{table}")
        return int(match[1])

    def _wait_for_ssh(self, deadline: float) -> None:
        assert self._process is not None
        while not self.door.opens():
            if self._process.poll() is not None:
                raise HostError(reason=f"the lab machine ended with status {self._process.returncode}: {tail(self.qemu_log)}")
            if time.monotonic() > deadline:
                raise HostError(reason=f"the lab machine let nobody in by ssh; its serial log ends: {tail(self.serial_log)}")
            time.sleep(1)
