"""What the machine is: read from /proc, /sys, /etc and the disks themselves. Nothing is needed on it, nothing is changed.

Every topic stands alone: one that fails becomes a warning and a default, since a server of twenty years has odd files.
"""
import os
from typing import Any, Callable, List, Optional

from ...model import Abilities, BootLoader, Cpu, Firmware, Kernel, Machine, Os, Smbios
from . import abilities, boot, cpu, disks, firmware, kernel, mounts, network, services, system, volumes
from .image import inspect_image
from .tree import Tree

__all__ = ["inspect_image", "inspect_live"]


def inspect_live(root: str = "/") -> Machine:
    """The machine that this process runs on, or one whose /proc, /sys, /etc, /boot and /dev are recorded under ``root``."""
    tree = Tree(root)
    warnings: List[str] = []

    def topic(name: str, default: Any, question: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return question(*arguments)
        except Exception as error:  # whatever it is: the rest can still be told, and the plan decides whether that is enough
            warnings.append("{} could not be told: {}: {}".format(name, type(error).__name__, error))
            return default

    identity = topic("the operating system", Os("", "", ""), system.system, tree)
    in_use = topic("the mounts", (), mounts.mounts, tree)
    warnings.extend(topic("mounts of containers", [], mounts.hidden, tree))

    def free(path: str) -> Optional[int]:
        for mount in in_use:
            if tree.live and mount.device == path:
                try:
                    facts = os.statvfs(tree.path(mount.mountpoint))
                except OSError:
                    return None
                return facts.f_bfree * facts.f_frsize
        return None

    return Machine(
        hostname=topic("the host name", "unnamed", system.hostname, tree),
        live=True,
        firmware=topic("the firmware", Firmware.BIOS, firmware.firmware, tree),
        cpu=topic("the processors", Cpu("x86_64", "", "", 1), cpu.cpu, tree),
        memory=topic("the memory", 0, cpu.memory, tree),
        disks=topic("the disks", (), disks.disks, tree, warnings.append, free),
        smbios=topic("SMBIOS", Smbios(), firmware.smbios, tree),
        secure_boot=topic("Secure Boot", False, firmware.secure_boot, tree),
        clock_utc=topic("the hardware clock", True, firmware.clock_utc, tree),
        mounts=in_use,
        swaps=topic("the swap areas", (), mounts.swaps, tree),
        holders=topic("LVM, RAID and encryption", (), volumes.holders, tree),
        nics=topic("the network interfaces", (), network.nics, tree),
        os=identity,
        kernel=topic("the kernel", Kernel("", ""), kernel.kernel, tree, identity.machine_id, warnings.append),
        boot=topic("the boot loader", BootLoader("unknown"), boot.boot_loader, tree),
        services=topic("the services", (), services.services, tree, identity.init),
        writers=topic("the databases", (), services.writers, tree),
        abilities=topic("its abilities", Abilities(is_root=False), abilities.abilities, tree),
        warnings=tuple(warnings),
    )
