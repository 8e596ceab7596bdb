"""``python -m lab build|run|clean``: the lab machine for people."""

from __future__ import annotations

import argparse
import shlex
import sys

from livep2v.errors import Livep2vError

from .build import build, clean
from .machine import Machine
from .recipe import RECIPES


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m lab", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb, what in (("build", "make the machine's disk, once"), ("run", "run it until Ctrl-C; its changes are dropped")):
        sub = verbs.add_parser(verb, help=what)
        sub.add_argument("name", nargs="?", default="oldbox", choices=sorted(RECIPES))
    verbs.add_parser("clean", help="drop every cached machine")
    arguments = parser.parse_args()
    if arguments.verb == "clean":
        for path in clean():
            print(f"removed {path}")
        return 0
    built = build(RECIPES[arguments.name])
    print(f"disk {built.disk}\nkey  {built.key}")
    if arguments.verb == "run":
        print("starting (about 45 s) ...", flush=True)
        with Machine(built) as machine:
            print(f"ssh        ssh -F {shlex.quote(str(machine.ssh_config))} {built.recipe.name}")
            print(f"postgresql port {machine.pg_port}, user and database ledger")
            print(f"serial log {machine.serial_log}")
            print("Ctrl-C ends it", flush=True)
            try:
                machine.wait()
            except KeyboardInterrupt:
                print("stopping")
                machine.stop()
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Livep2vError as error:
        sys.exit(f"{type(error).__name__}: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
