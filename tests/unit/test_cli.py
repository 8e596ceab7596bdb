"""The command line: what it asks of the library, how it shows events, how it ends."""

from __future__ import annotations

import io
import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

import livep2v.convert
from livep2v import errors
from livep2v.cli.app import app, main
from livep2v.cli.progress import JsonPrinter, PlainPrinter, Rate
from livep2v.cli.units import clock, rate, seconds
from livep2v.errors import UsageError
from livep2v.model import Options, Report

LIVEP2V = (sys.executable, "-c", "import sys; from livep2v.cli import main; sys.exit(main())")


def _livep2v(*words: str | Path, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*LIVEP2V, *words], capture_output=True, text=True, timeout=60, **options)  # type: ignore[call-overload,no-any-return]


# ---------------------------------------------------------------- units


@pytest.mark.parametrize(
    ("text", "value"),
    [("1s", 1.0), ("500ms", 0.5), ("1.5", 1.5), (" 2 m ", 120.0), ("1h", 3600.0), (".5S", 0.5), ("3min", 180.0)],
)
def test_seconds(text: str, value: float) -> None:
    assert seconds(text, "--max-freeze") == pytest.approx(value)


@pytest.mark.parametrize("text", ["", "0", "0s", "-1s", "1x", "s", "1s 2s", "1e3", "nan"])
def test_no_seconds(text: str) -> None:
    with pytest.raises(UsageError, match="--max-freeze"):
        seconds(text, "--max-freeze")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("50M", 50 * 1024**2),
        ("800k", 800 * 1024),
        ("1.5G", 3 * 1024**3 // 2),
        ("50MB", 50_000_000),
        ("50MiB/s", 50 * 1024**2),
        ("4096", 4096),
        ("7B", 7),
        ("1T", 1024**4),
    ],
)
def test_rate(text: str, value: int) -> None:
    assert rate(text, "--limit-rate") == value


@pytest.mark.parametrize("text", ["", "0", "0M", "M", "-5M", "5X", "0.1", "5M5", "fast"])
def test_no_rate(text: str) -> None:
    with pytest.raises(UsageError, match="--limit-rate"):
        rate(text, "--limit-rate")


def test_clock() -> None:
    assert [clock(value) for value in (0.4, 8, 59.6, 125, 3840)] == ["0 s", "8 s", "1 min 0 s", "2 min 5 s", "1 h 4 min"]


# ---------------------------------------------------------------- options


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Options]:
    """The options with which the library is called; it answers with an empty report."""
    seen: list[Options] = []

    def convert(options: Options, progress: Callable[[str, dict[str, object]], None]) -> Report:
        seen.append(options)
        progress("phase", {"name": "Copying", "number": 1, "of": 1})
        return Report("done", "0", options.source, "job")

    monkeypatch.setattr(livep2v.convert, "convert", convert)
    return seen


def test_defaults_are_those_of_the_record(asked: list[Options]) -> None:
    assert main(["convert", "root@oldbox"]) == 0
    assert asked == [Options(source="root@oldbox")]


def test_every_option(asked: list[Options], tmp_path: Path) -> None:
    words = ["convert", "ssh://root@old:2222", "-o", str(tmp_path), "--name", "n", "--format", "vhd", "--subformat", "fixed"]
    words += ["--disk", "sda", "--disk", "sdb", "--max-freeze", "500ms", "--limit-rate", "50M", "--compress", "zlib"]
    words += ["--no-boot-check", "--ssh-option", "Port=1", "--ssh-option", "User=u", "--json"]
    assert main(words) == 0
    assert asked == [
        Options(
            source="ssh://root@old:2222",
            output=str(tmp_path),
            name="n",
            format="vhd",
            subformat="fixed",
            disks=("sda", "sdb"),
            max_freeze=0.5,
            limit_rate=50 * 1024**2,
            compress="zlib",
            boot_check=False,
            ssh_options=("Port=1", "User=u"),
        )
    ]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["convert"], "Missing argument 'SOURCE'"),
        (["convert", "x", "y"], "unexpected extra argument"),
        (["convert", "x", "--nope"], "No such option: --nope"),
        (["convert", "x", "--format", "qcow2"], "'qcow2' is not one of"),
        (["convert", "x", "--compress", "lzma"], "'lzma' is not one of"),
        (["convert", "x", "--max-freeze", "soon"], "--max-freeze 'soon' is no time"),
        (["convert", "x", "--limit-rate", "0"], "--limit-rate '0' is no rate"),
        (["convert", "x", "--format", "raw", "--subformat", "fixed"], "a raw file is always sparse"),
        (["inspect"], "Missing argument 'SOURCE'"),
        (["frobnicate"], "No such command 'frobnicate'"),
        (["--nope"], "No such option: --nope"),
    ],
)
def test_bad_usage(asked: list[Options], words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("UsageError: ") and said in err and err.count("\n") == 1
    assert main([*words, "--json"]) == 2
    out, err = capsys.readouterr()
    event = json.loads(out)
    assert (event["event"], event["type"], event["exit_code"]) == ("error", "UsageError", 2) and event["message"] in err
    assert asked == []


def test_no_words_show_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "convert" in capsys.readouterr().out


def test_help_names_every_option() -> None:
    text = CliRunner().invoke(app, ["convert", "--help"], env={"COLUMNS": "200"}).output
    for option in ("--output", "--name", "--format", "--subformat", "--disk", "--max-freeze", "--limit-rate", "--compress"):
        assert option in text
    assert "--no-boot-check" in text and "--ssh-option" in text and "--json" in text


def test_version_in_a_process() -> None:
    done = _livep2v("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"livep2v {livep2v.__version__}\n", "")


# ---------------------------------------------------------------- errors


@pytest.mark.parametrize("name", sorted(errors.all_errors()))
def test_exit_code_of_every_error(name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    cls = errors.all_errors()[name]
    facts = dict.fromkeys(_fields(cls.msg), 7)

    def convert(options: Options, progress: object) -> Report:
        raise cls(**facts)

    monkeypatch.setattr(livep2v.convert, "convert", convert)
    assert main(["convert", "x"]) == cls.exit_code
    assert capsys.readouterr().err == f"{name}: {cls(**facts)}\n"


def _fields(message: str) -> list[str]:
    import string

    return [field for _, field, _, _ in string.Formatter().parse(message) if field]


def test_fault_of_ours(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def convert(options: Options, progress: object) -> Report:
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr(livep2v.convert, "convert", convert)
    assert main(["convert", "x", "--json"]) == 1
    out, err = capsys.readouterr()
    assert "ZeroDivisionError: by zero" in json.loads(out.splitlines()[-1])["message"] and "Traceback" in err


def test_missing_image_in_a_process(tmp_path: Path) -> None:
    done = _livep2v("convert", tmp_path / "none.raw", "--json")
    assert done.returncode == 2
    assert json.loads(done.stdout.splitlines()[-1])["type"] == "UsageError" and done.stderr.startswith("UsageError: ")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_stopped_while_the_source_does_not_answer(number: signal.Signals, tmp_path: Path) -> None:
    """A signal in the middle: exit code 130, one sentence, and the ssh that we started is gone."""
    tools = tmp_path / "tools"
    tools.mkdir()
    ssh = tools / "ssh"
    ssh.write_text(f"#!/bin/sh\necho $$ >{tmp_path}/pid.new; mv {tmp_path}/pid.new {tmp_path}/pid; exec cat >/dev/null\n")
    ssh.chmod(0o755)
    env = {**os.environ, "PATH": f"{tools}:{os.environ['PATH']}"}
    with subprocess.Popen(
        [*LIVEP2V, "convert", "root@oldbox", "-o", tmp_path / "out"],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        deadline = time.monotonic() + 30
        while not (tmp_path / "pid").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(number)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 130, err
    assert err.startswith("Cancelled: stopped while connecting to the source") and "Traceback" not in err
    deadline = time.monotonic() + 10
    pid = Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}")
    while pid.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not pid.exists()


# ---------------------------------------------------------------- how events are shown

EVENTS: list[tuple[str, dict[str, object]]] = [
    ("phase", {"name": "Copying the disks", "number": 1, "of": 2}),
    ("bytes", {"phase": "used blocks", "done": 1 << 20, "total": 4 << 20, "sent": 1000}),
    ("pass", {"number": 0, "blocks": 64, "seconds": 1.5, "dirty_after": 3}),
    ("frozen", {"at": 1.0, "mountpoints": ["/", "/boot"]}),
    ("thawed", {"at": 2.0, "ms": 190.4}),
    ("warning", {"text": "[bold]odd[/] disk"}),
    ("phase", {"name": "Booting", "number": 2, "of": 2}),
    ("boot", {"elapsed": 3.0, "timeout": 60.0, "line": "Linux [version]"}),
    ("something new", {"x": 1}),
    ("done", {"job": "/jobs/x"}),
]


def test_json_lines() -> None:
    out = io.StringIO()
    printer = JsonPrinter(out)
    before = time.time()
    for name, facts in EVENTS:
        printer(name, facts)
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [(line.pop("event"), abs(line.pop("time") - before) < 5, line) for line in lines] == [
        (n, True, f) for n, f in EVENTS
    ]
    assert printer.doing == "Booting"


def test_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("livep2v.cli.progress.PLAIN_INTERVAL", 0.0)
    out = io.StringIO()
    printer = PlainPrinter(out)
    for name, facts in EVENTS:
        printer(name, facts)
    lines = [line.split("s] ", 1)[1].strip() for line in out.getvalue().splitlines()]
    assert lines == [
        "1/2 Copying the disks",
        "used blocks: 1.0 MiB of 4.0 MiB",
        "pass 0: 4.0 MiB in 1.5 s, then 3 blocks dirty",
        "frozen: / /boot",
        "thawed after 190 ms",
        "warning: [bold]odd[/] disk",
        "2/2 Booting",
        "3 s of at most 1 min 0 s: Linux [version]",
        "done: /jobs/x",
    ]


def test_rate_and_time_left() -> None:
    moving = Rate()
    assert moving.left(100) is None and moving.value == 0
    for second in range(30):
        moving.add(float(second), second * 50)
    assert moving.value == pytest.approx(50) and moving.left(29 * 50 + 500) == pytest.approx(10)
    moving.add(30.0, 0)  # the next pass begins
    assert moving.value == 0 and moving.left(10) is None


def _show(stdout: int, words: str = "") -> subprocess.CompletedProcess[str]:
    code = (
        "import json, sys; from livep2v.cli.progress import printer\n"
        f"with printer({'True' if words else 'False'}) as show:\n"
        "    for name, facts in json.loads(sys.argv[1]) * 50: show(name, facts)\n"
        "print('reached the end', file=sys.stderr)\n"
    )
    env = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    return subprocess.run(
        [sys.executable, "-c", code, json.dumps(EVENTS)], stdout=stdout, stderr=subprocess.PIPE, text=True, env=env, timeout=60
    )


def test_live_on_a_real_terminal() -> None:
    parent, child = pty.openpty()
    pid = os.fork()
    if pid == 0:  # reads the terminal until its other end is closed
        os.close(child)
        data = b""
        try:
            while piece := os.read(parent, 65536):
                data += piece
        except OSError:
            pass
        text = data.decode(errors="replace")
        good = all(
            s in text for s in ("1/2 Copying the disks", "thawed after 190 ms", "[bold]odd[/] disk", "✓", "done: /jobs/x")
        )
        os._exit(0 if good else 1)
    os.close(parent)
    done = _show(child)
    os.close(child)
    assert done.returncode == 0 and done.stderr == "reached the end\n"
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


@pytest.mark.parametrize("words", ["", "--json"])
def test_nobody_reads_any_more(words: str) -> None:
    """A conversion goes on when the pipe that it reports to is closed."""
    reader, writer = os.pipe()
    os.close(reader)
    done = _show(writer, words)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "reached the end\n")
