"""The command ``livep2v``: the verbs, and the one place where an error becomes a message and an exit code."""

from __future__ import annotations

import contextlib
import logging
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import Annotated

import typer

from .. import __version__
from ..errors import Cancelled, Livep2vError, UsageError
from . import convert, inspect
from .progress import JsonPrinter, emit

app = typer.Typer(
    name="livep2v",
    add_completion=False,
    no_args_is_help=False,  # main() does that
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 done, 2 usage, 3 refused, 10-15 source, 20-26 snapshot, 30-32 transfer, 40-45 host, 50 damaged "
    "structure, 60 verification, 70 repair, 80 boot check, 130 stopped.",
)
app.command("inspect")(inspect.inspect)
app.command("convert")(convert.convert)

# What typer raises for a command line that cannot be parsed. Its parser is click, in newer versions a copy of its own; the
# classes are reached by way of a public one because their module differs.
_ParseError = typer.BadParameter.__mro__[2]


def _version(value: bool) -> None:
    if value:
        typer.echo(f"livep2v {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")] = False,
) -> None:
    """Turns a running machine into a virtual machine without stopping it."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv`` (default: this process') and give back its exit code. Ctrl-C, SIGTERM and SIGHUP end it
    in the same orderly way; while it cleans up, only a third one is listened to."""
    words = list(sys.argv[1:] if argv is None else argv)
    json = "--json" in words
    logging.getLogger("livep2v").addHandler(logging.NullHandler())  # log lines go to the job folder, errors are said here
    try:
        with _signals():
            result = app(args=words or ["--help"], standalone_mode=False)
        if not words:
            return UsageError.exit_code
        return result if isinstance(result, int) else 0
    except KeyboardInterrupt:
        return _say(Cancelled(doing="starting"), json)
    except typer.Abort:
        return _say(Cancelled(doing="asking"), json)
    except typer.Exit as exit:
        return exit.exit_code
    except Livep2vError as error:
        return _say(error, json)
    except BrokenPipeError:
        return 1
    except Exception as error:
        if isinstance(error, _ParseError):
            return _say(UsageError(reason=f"{_parse_message(error)}; see livep2v --help"), json)
        traceback.print_exc()
        return _say(Livep2vError(reason=f"livep2v has a fault: {type(error).__name__}: {error}"), json)


def _parse_message(error: BaseException) -> str:
    text = str(error.format_message()) if hasattr(error, "format_message") else str(error)
    return " ".join(text.split()).rstrip(".")


def _say(error: Livep2vError, json: bool) -> int:
    """``Type: message`` on stderr, the same as an event with --json. The answer is the exit code."""
    name, message, code = type(error).__name__, str(error), error.exit_code
    if json:
        JsonPrinter(sys.stdout)("error", {"type": name, "message": message, "exit_code": code})
    emit(sys.stderr, f"{name}: {message}")
    return code


@contextlib.contextmanager
def _signals() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received = 0

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal received
        received += 1
        if received == 2:  # an interrupt inside the cleaning up would leave something behind
            emit(sys.stderr, "still cleaning up; once more to leave it at that")
        else:
            raise KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
