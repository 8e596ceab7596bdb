"""What a fix is, and what it gets to see."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from ...formats.initramfs import Image
from ...model import Initramfs, Machine, Plan
from .devices import Devices
from .entries import BootEntry
from .guest import Tree
from .recorder import Recorder


@dataclass
class Context:
    """One repair. Fixes read all of it and write through ``guest`` (the recorder) alone; the fields from ``entries`` on are
    what earlier fixes have found out."""

    machine: Machine
    plan: Plan
    tree: Tree
    guest: Recorder
    devices: Devices
    scratch: Path  # folder of the host for copies of large files
    entries: tuple[BootEntry, ...] = ()  # the default entry first
    init: str = "systemd"
    disk_bus: str = ""
    nic_model: str = ""
    kernel: str = ""  # release that will boot
    initramfs: list[Initramfs] = field(default_factory=list)
    images: dict[str, Image] = field(default_factory=dict)  # the same by path, as they are in the guest after the repair
    added_modules: list[str] = field(default_factory=list)  # that no initramfs had
    warnings: list[str] = field(default_factory=list)

    def warn(self, text: str) -> None:
        if text not in self.warnings:
            self.warnings.append(text)


class Fix(Protocol):
    """One change of the guest: a module with these four names."""

    @property
    def NAME(self) -> str: ...

    @property
    def CRITICAL(self) -> bool:
        """Without it the VM does not boot: its failure ends the repair. Any other failure is a warning."""

    def needed(self, ctx: Context) -> str:
        """Why this guest needs it, or ""."""

    def apply(self, ctx: Context) -> None: ...
