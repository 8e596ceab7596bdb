"""The one door through which the host runs other programs.

No shell, the C locale, a time limit always. A program that fails is logged once, as a line that can be pasted into a shell,
and raises :class:`~livep2v.errors.ToolFailed` with the same line. Every program leads its own process group: the whole group
is killed when the time is up or the user interrupts, so that no child of a child is left behind.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shlex
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, NamedTuple

from ..errors import MissingTool, ToolFailed

log = logging.getLogger(__name__)

Arg = str | Path

PACKAGES = {  # program -> Debian package, for the way out in MissingTool
    "qemu-system-x86_64": "qemu-system-x86",
    "qemu-img": "qemu-utils",
    "qemu-nbd": "qemu-utils",
    "qemu-io": "qemu-utils",
    "ssh": "openssh-client",
    "scp": "openssh-client",
    "e2fsck": "e2fsprogs",
    "cpio": "cpio",
    "depmod": "kmod",
    "setpriv": "util-linux",
}
REASON_LINES = 5  # last lines of stderr that an error message quotes
KILL_GRACE = 2.0  # s between SIGTERM and SIGKILL
DRAIN_GRACE = 1.0  # s for the pipes to close after the program ended; a daemon it left behind may hold them open


class Completed(NamedTuple):
    """What a program said. Output that is not UTF-8 survives as surrogate escapes."""

    stdout: str
    stderr: str
    status: int


def _environment(extra: Mapping[str, str] | None) -> dict[str, str]:
    # e2fsck and its like are in sbin, which an ordinary user's PATH lacks.
    path = os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin"
    return {**os.environ, "PATH": path, "LC_ALL": "C", **(extra or {})}


def _replay(argv: Sequence[str], extra: Mapping[str, str] | None) -> str:
    return shlex.join([*(f"{key}={value}" for key, value in (extra or {}).items()), *argv])


def _popen(
    argv: Sequence[str], env: Mapping[str, str] | None, stdin: int, stdout: int | IO[bytes], stderr: int | IO[bytes]
) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(argv, stdin=stdin, stdout=stdout, stderr=stderr, env=_environment(env), start_new_session=True)
    except (FileNotFoundError, NotADirectoryError) as error:
        name = Path(argv[0]).name
        raise MissingTool(tool=name, package=PACKAGES.get(name, name)) from error
    except OSError as error:
        raise ToolFailed(tool=argv[0], status=-1, reason=str(error), replay=_replay(argv, env)) from error


def _signal_group(process: subprocess.Popen[bytes], number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)  # start_new_session: the group's id is the leader's pid


def kill(process: subprocess.Popen[bytes], grace: float = KILL_GRACE) -> None:
    """End the whole group of ``process``, gently for ``grace`` seconds, and reap it."""
    if process.poll() is None and grace > 0:
        _signal_group(process, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(grace)
    _signal_group(process, signal.SIGKILL)
    process.wait()


def failure(argv: Sequence[Arg], status: int, stderr: str, env: Mapping[str, str] | None = None) -> ToolFailed:
    """The error for a program that failed, logged as its replayable line."""
    words = [str(arg) for arg in argv]
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    reason = " / ".join(lines[-REASON_LINES:]) or "it said nothing"
    replay = _replay(words, env)
    log.error("failed with status %d: %s", status, replay)
    return ToolFailed(tool=Path(words[0]).name, status=status, reason=reason, replay=replay)


def run(
    argv: Sequence[Arg],
    *,
    timeout: float,
    input: bytes | str | None = None,
    env: Mapping[str, str] | None = None,
    check: bool = True,
    on_line: Callable[[str], None] | None = None,
) -> Completed:
    """Run a program to its end.

    ``timeout`` in seconds; ``input`` goes to its stdin (else /dev/null); ``env`` is added to ours; ``on_line`` gets each line
    of stdout as it comes, from another thread. Raises MissingTool, and ToolFailed when the time is up or, unless ``check``
    is False, when the status is not 0. The status is negative for a signal.
    """
    words = [str(arg) for arg in argv]
    started = time.monotonic()
    pipe = subprocess.PIPE
    process = _popen(words, env, subprocess.DEVNULL if input is None else pipe, pipe, pipe)
    out: list[bytes] = []
    err: list[bytes] = []
    threads = [
        threading.Thread(target=_drain, args=(process.stdout, out, on_line), daemon=True),
        threading.Thread(target=_drain, args=(process.stderr, err, None), daemon=True),
    ]
    if input is not None:
        data = input.encode() if isinstance(input, str) else input
        threads.append(threading.Thread(target=_feed, args=(process.stdin, data), daemon=True))
    try:
        for thread in threads:
            thread.start()
        timed_out = False
        try:
            status = process.wait(timeout)
        except subprocess.TimeoutExpired:
            timed_out = True
            kill(process)
            status = process.returncode
    except BaseException:  # KeyboardInterrupt too: nothing of ours outlives us
        kill(process, grace=0)
        raise
    for thread in threads:
        thread.join(DRAIN_GRACE)
    completed = Completed(_text(out), _text(err), status)
    log.debug("%.2f s, status %d: %s", time.monotonic() - started, status, shlex.join(words))
    if timed_out:
        raise failure(words, status, f"{completed.stderr}\nno answer within {timeout:g} s, killed", env)
    if check and status != 0:
        raise failure(words, status, completed.stderr or completed.stdout, env)
    return completed


def _drain(stream: IO[bytes] | None, into: list[bytes], on_line: Callable[[str], None] | None) -> None:
    assert stream is not None
    with stream:
        for line in stream:
            into.append(line)
            if on_line is not None:
                on_line(line.decode(errors="surrogateescape").rstrip("\r\n"))


def _feed(stream: IO[bytes] | None, data: bytes) -> None:
    assert stream is not None
    with contextlib.suppress(BrokenPipeError), stream:  # a program may end before it has read all; its status counts
        stream.write(data)


def _text(parts: list[bytes]) -> str:
    return b"".join(parts).decode(errors="surrogateescape")


@contextlib.contextmanager
def running(argv: Sequence[Arg], *, log_file: Path, env: Mapping[str, str] | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """A program that runs while the block runs, its output in ``log_file``; killed and reaped at the end, however that comes.

    util-linux's ``setpriv --pdeathsig`` has the kernel kill it when the calling thread dies without a chance to do so.
    """
    program = str(argv[0])
    if shutil.which(program, path=_environment(env)["PATH"]) is None:
        raise MissingTool(tool=Path(program).name, package=PACKAGES.get(Path(program).name, program))
    words = ["setpriv", "--pdeathsig", "KILL", *(str(arg) for arg in argv)]
    with log_file.open("ab") as sink:
        process = _popen(words, env, subprocess.DEVNULL, sink, subprocess.STDOUT)
    try:
        yield process
    finally:
        kill(process)
