"""``livep2v inspect``: what a machine is, and what its conversion would do. Changes nothing anywhere."""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from rich.console import Console

from ..errors import Refusal
from ..model import Options, to_json
from .progress import printer

PAGE_WIDTH = 120  # columns, where the output is no terminal


def inspect(
    source: Annotated[str, typer.Argument(help="root@host, ssh://root@host:2222, local, or a disk image", metavar="SOURCE")],
    json: Annotated[bool, typer.Option("--json", help="One JSON event a line instead of text.")] = False,
    ssh_option: Annotated[
        list[str] | None, typer.Option("--ssh-option", help="For ssh's -o, may be repeated: Port=2222", metavar="KEY=VALUE")
    ] = None,
) -> None:
    """Show what a machine is, what converting it would do, and what stands against it."""
    from ..convert import inspect as look  # late: --help need not load the rest
    from .show_machine import show

    options = Options(source=source, ssh_options=tuple(ssh_option or ()))
    with printer(json) as progress:
        machine, values, outcome = look(options, progress)
        if json:
            facts: dict[str, object] = {"machine": to_json(machine), "host": to_json(values), "plan": None, "refusal": ""}
            if isinstance(outcome, Refusal):
                facts["refusal"] = str(outcome)
            else:
                facts["plan"] = to_json(outcome)
            progress("inspection", facts)
    if not json:
        width = None if sys.stdout.isatty() else PAGE_WIDTH
        show(machine, outcome, Console(highlight=False, width=width))
