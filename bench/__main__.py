"""``python -m bench [NAME ...]``: measure now, print tables ready for docs/measurements.md. Without a name: everything.

    freeze      how long a tracked snapshot freezes a busy file system, and whether the copy is right
    image       local image to dynamic VHD against qemu-img convert
    conversion  the main job on the lab machine (boots guests; about 15 minutes under emulation)
    repair      the repair of the lab machine's replica, against virt-v2v if that is installed
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time

from livep2v.errors import Livep2vError

from . import conversion, freeze, image, repair

MEASURES = {"freeze": freeze, "image": image, "conversion": conversion, "repair": repair}


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="what to measure (default: all)")
    parser.add_argument("--runs", type=int, default=0, help="runs or pairs of each (default: its own number)")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(MEASURES):
        parser.error(f"{', '.join(unknown)}: choose among {', '.join(MEASURES)}")
    if os.geteuid() != 0:
        parser.error("loop devices, freezing and the lab machine need root")
    print(f"{time.strftime('%Y-%m-%d')}, {os.cpu_count()} CPUs, {platform.machine()}, Linux {platform.release()}")
    good = True
    for name in arguments.names or MEASURES:
        table = MEASURES[name].measure(arguments.runs or MEASURES[name].RUNS)
        print(f"\n{table}", flush=True)
        good = good and table.ok
    return 0 if good else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Livep2vError as error:
        sys.exit(f"{type(error).__name__}: {error}")
