"""The door for subprocesses, with real programs."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from livep2v.errors import MissingTool, ToolFailed
from livep2v.host.run import run, running


def _gone(pid: int) -> bool:
    """A process that has ended, or that only waits to be reaped by whoever adopted it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] in ("Z", "X")
    except (FileNotFoundError, ProcessLookupError):
        return True


def _wait_gone(pid: int) -> bool:
    deadline = time.monotonic() + 3
    while not _gone(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    return _gone(pid)


def test_output_input_and_locale() -> None:
    done = run(["sh", "-c", "cat; echo $LC_ALL; echo oops >&2"], timeout=10, input="in\n")
    assert done == ("in\nC\n", "oops\n", 0)


def test_bytes_that_are_no_text_survive() -> None:
    done = run(["cat"], timeout=10, input=bytes(range(256)))
    assert done.stdout.encode(errors="surrogateescape") == bytes(range(256))


def test_input_larger_than_a_pipe_to_a_program_that_does_not_read() -> None:
    assert run(["true"], timeout=10, input=bytes(1 << 20)).status == 0


def test_large_output_on_both_streams() -> None:
    done = run(["sh", "-c", "head -c 3000000 /dev/zero; head -c 3000000 /dev/zero >&2"], timeout=20)
    assert (len(done.stdout), len(done.stderr)) == (3000000, 3000000)


def test_failure_has_reason_and_a_line_that_replays(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    marker = tmp_path / "a b'c"
    argv = ["sh", "-c", 'echo first >&2; echo "$X reason" >&2; : >"$1"; exit 7', "sh", marker]
    with caplog.at_level(logging.ERROR), pytest.raises(ToolFailed) as caught:
        run(argv, timeout=10, env={"X": "the y"})
    assert caught.value.facts["status"] == 7 and "the y reason" in str(caught.value)
    assert len(caplog.records) == 1
    marker.unlink()
    replay = caught.value.facts["replay"]
    assert replay in caplog.text
    again = subprocess.run(["sh", "-c", f"env {replay}"], capture_output=True, text=True)
    assert (again.returncode, again.stderr) == (7, "first\nthe y reason\n") and marker.exists()


def test_status_without_check() -> None:
    assert run(["sh", "-c", "exit 3"], timeout=10, check=False).status == 3
    assert run(["sh", "-c", "kill -9 $$"], timeout=10, check=False).status == -9


def test_missing_program_names_its_package() -> None:
    with pytest.raises(MissingTool, match="no-such-program-here"):
        run(["no-such-program-here"], timeout=10)
    with pytest.raises(MissingTool, match="qemu-utils"):
        run(["/nowhere/qemu-img"], timeout=10)


def test_timeout_kills_the_whole_group(tmp_path: Path) -> None:
    child = tmp_path / "child"
    started = time.monotonic()
    with pytest.raises(ToolFailed, match=r"no answer within 0\.5 s"):
        run(["sh", "-c", f"sleep 60 & echo $! >{child}; wait"], timeout=0.5)
    assert time.monotonic() - started < 5
    assert _wait_gone(int(child.read_text()))


def test_timeout_of_a_program_that_ignores_sigterm(tmp_path: Path) -> None:
    child = tmp_path / "child"
    with pytest.raises(ToolFailed):
        run(["sh", "-c", f"trap '' TERM; echo $$ >{child}; while :; do sleep 0.1; done"], timeout=0.5)
    assert _wait_gone(int(child.read_text()))


def test_daemon_that_keeps_the_pipe_does_not_hold_us(tmp_path: Path) -> None:
    child = tmp_path / "child"
    started = time.monotonic()
    done = run(["sh", "-c", f"echo hi; setsid sleep 30 & echo $! >{child}"], timeout=20)
    assert done.stdout == "hi\n" and time.monotonic() - started < 10
    os.kill(int(child.read_text()), 9)


def test_lines_as_they_come() -> None:
    first = threading.Event()

    def line(text: str) -> None:
        seen.append(text)
        first.set()

    seen: list[str] = []
    worker = threading.Thread(target=lambda: run(["sh", "-c", "echo one; sleep 1; echo two"], timeout=20, on_line=line))
    worker.start()
    assert first.wait(10) and seen == ["one"]
    worker.join(20)
    assert seen == ["one", "two"]


def test_running_ends_with_its_block(tmp_path: Path) -> None:
    log_file = tmp_path / "log"
    with pytest.raises(KeyboardInterrupt), running(["sh", "-c", "echo hello; sleep 60"], log_file=log_file) as process:
        deadline = time.monotonic() + 10
        while "hello" not in log_file.read_text() and time.monotonic() < deadline:
            time.sleep(0.02)
        raise KeyboardInterrupt
    assert process.returncode is not None and _wait_gone(process.pid)
    assert log_file.read_text() == "hello\n"


def test_running_dies_with_us(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib, time; from livep2v.host.run import running\n"
        "with running(['sleep', '60'], log_file=pathlib.Path(sys.argv[1])) as process:\n"
        "    print(process.pid, flush=True); time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, tmp_path / "log"], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        time.sleep(0.3)  # setpriv sets the death signal, then becomes the program
        assert not _gone(pid)
        parent.kill()
    assert _wait_gone(pid)


def test_running_names_a_missing_program(tmp_path: Path) -> None:
    with pytest.raises(MissingTool, match="no-such-program-here"), running(["no-such-program-here"], log_file=tmp_path / "log"):
        pass
