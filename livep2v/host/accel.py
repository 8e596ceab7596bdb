"""Which accelerator qemu can really use on this host.

That ``/dev/kvm`` opens, and even that ``KVM_CREATE_VM`` succeeds, proves nothing: in nested or containerised hosts guests then
hang or qemu aborts (seen: ``failed to set MSR 0x10a``, qemu dumps core). So a guest is run for a moment: a boot sector that
enters long mode, leaves the guest 2000 times, adds up a million numbers and only then writes its code to qemu's debug port.
"""

from __future__ import annotations

import functools
import os
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from ..errors import ToolFailed
from .run import run

KVM_DEVICE = Path("/dev/kvm")
TRIAL_TIMEOUT = 5.0  # s; under TCG, far slower than KVM, the trial takes 0.3 s
QEMU = "qemu-system-x86_64"

# GNU as, loaded at 0x7c00. Long mode because that is what the guests will use; cpuid and out because they leave the guest.
_CODE = bytes.fromhex(
    "fa 31c0 8ed8 8ec0 8ed0 bc007c fc"  # cli; ds = es = ss = 0; sp = 0x7c00; cld
    "bf0010 b90018 f3ab"  # zero 0x1000..0x4000: three page tables
    "c70600100320 c70600200330 c70600308300"  # PML4[0] -> 0x2000, PDPT[0] -> 0x3000, PD[0] = the first 2 MiB
    "66b820000000 0f22e0 66b800100000 0f22d8"  # cr4 = PAE; cr3 = 0x1000
    "66b9800000c0 0f32 660d00010000 0f30"  # EFER.LME
    "0f20c0 660d01000080 0f22c0"  # cr0: protected mode and paging
    "0f0116a07c ea5f7c0800"  # lgdt [0x7ca0]; jump to 64-bit code at 0x7c5f
    "bee8030000 31c0 0fa2 e680 ffce 75f6"  # 1000 times: cpuid leaf 0; out 0x80
    "b940420f00 31c0 01c8 ffc9 75fa"  # eax = 1000000 + 999999 + ... + 1
    "3d20295a6a 7504 b015 e6f4 f4 ebfd"  # == 0x6a5a2920? out 0xf4, 0x15; hlt for ever
    "0f1f800000000000 0000000000"  # padding up to the table
    "000000000000 009a2000 0f00 907c0000"  # GDT: null, 64-bit code; GDTR at 0x7ca0
)
BOOT_SECTOR = _CODE.ljust(510, b"\0") + b"\x55\xaa"
_EXIT_STATUS = 0x15 << 1 | 1  # isa-debug-exit: (value << 1) | 1


class Accelerator(NamedTuple):
    name: str  # "kvm" or "tcg"
    reason: str  # one line: what was tried and what came of it


def trial(accelerator: str, timeout: float = TRIAL_TIMEOUT) -> str:
    """Run the boot sector under ``accelerator``; the answer is empty if it got through, else one line saying how it failed.
    Raises MissingTool without qemu."""
    cpu = "host" if accelerator == "kvm" else "max"
    with tempfile.NamedTemporaryFile(prefix="livep2v-trial-") as image:
        image.write(BOOT_SECTOR)
        image.flush()
        argv = [QEMU, "-accel", accelerator, "-cpu", cpu, "-m", "16", "-nodefaults", "-display", "none", "-no-reboot"]
        argv += ["-device", "isa-debug-exit,iobase=0xf4,iosize=4"]
        argv += ["-drive", f"if=ide,driver=raw,file.driver=file,file.filename={image.name},read-only=off"]
        started = time.monotonic()
        try:
            done = run(argv, timeout=timeout, check=False)
        except ToolFailed:
            return f"a trial guest hung, it did not finish within {timeout:g} s"
    if done.status == _EXIT_STATUS:
        return ""
    said = [line for line in done.stderr.splitlines() if line.strip()]
    how = f"was killed by signal {-done.status}" if done.status < 0 else f"ended with status {done.status}"
    return f"qemu {how} after {time.monotonic() - started:.1f} s in a trial guest: {said[0] if said else 'it said nothing'}"


@functools.cache
def accelerator() -> Accelerator:
    """KVM where a trial guest really ran, else TCG with the reason. Tried once per process."""
    if not KVM_DEVICE.exists():
        return Accelerator("tcg", f"no {KVM_DEVICE} on this host")
    if not os.access(KVM_DEVICE, os.R_OK | os.W_OK):
        return Accelerator("tcg", f"no permission on {KVM_DEVICE}; add this user to the group that owns it")
    problem = trial("kvm")
    if problem:
        return Accelerator("tcg", f"KVM is not usable here: {problem}")
    return Accelerator("kvm", "a trial guest ran under KVM")
