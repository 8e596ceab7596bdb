"""Processors and memory, from /proc and /sys."""
import os
from typing import Dict, List, Set, Tuple

from ...model import Cpu
from .tree import Tree


def cpu(tree: Tree) -> Cpu:
    """``sockets * cores * threads == count`` always: where the machine is not that regular (a processor offline, cores of
    two kinds), each logical processor counts as a core of one socket."""
    processors: List[Dict[str, str]] = []
    for line in tree.lines("/proc/cpuinfo"):
        key, sign, value = line.partition(":")
        if key.strip() == "processor":
            processors.append({})
        if sign and processors:
            processors[-1][key.strip()] = value.strip()
    first = processors[0] if processors else {}
    count = len(processors) or 1
    packages: Set[int] = set()
    cores: Set[Tuple[int, int]] = set()
    for index, processor in enumerate(processors):
        number = processor.get("processor", str(index))
        base = "/sys/devices/system/cpu/cpu{}/topology/".format(number)
        package = tree.number(base + "physical_package_id", _int(processor.get("physical id"), 0))
        core = tree.number(base + "core_id", _int(processor.get("core id"), index))
        packages.add(package)
        cores.add((package, core))
    sockets = max(len(packages), 1)
    per_socket, core_rest = divmod(len(cores), sockets)
    threads, thread_rest = divmod(count, max(len(cores), 1))
    if core_rest or thread_rest or sockets * per_socket * threads != count:
        sockets, per_socket, threads = 1, count, 1
    flags = tuple(first.get("flags", first.get("Features", "")).split())
    if tree.live:
        arch = os.uname().machine
    else:
        arch = "x86_64" if "lm" in flags else tree.text("/proc/sys/kernel/arch")
    return Cpu(
        arch=arch,
        vendor=first.get("vendor_id", ""),
        model=" ".join(first.get("model name", "").split()),
        count=count,
        sockets=sockets,
        cores=per_socket,
        threads=threads,
        flags=flags,
    )


def memory(tree: Tree) -> int:
    """Bytes of RAM. The memory blocks that are online, because MemTotal lacks what the kernel keeps for itself (4 % of a
    1 GiB machine, and all of crashkernel=); MemTotal where the kernel has no memory blocks."""
    total = 0
    for line in tree.lines("/proc/meminfo"):
        if line.startswith("MemTotal:"):
            total = _int(line.split()[1], 0) * 1024
    base = "/sys/devices/system/memory/"
    try:
        size = int(tree.text(base + "block_size_bytes", "0"), 16)
    except ValueError:
        size = 0
    online = sum(
        1 for name in tree.names(base) if name.startswith("memory") and tree.text(base + name + "/state") == "online"
    )
    return max(total, size * online)


def _int(text: "object", default: int) -> int:
    try:
        return int(str(text))
    except ValueError:
        return default
