"""Somebody dies: the agent while everything is frozen, the host, the network between them. The source always goes on."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from livep2v.model import to_json
from tests.support.faults import ROOT, alive, assert_nothing_left, family, is_frozen, wait_until
from tests.support.loopdisk import loop_disk, sqlite_writer

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="freezing needs root")

# The whole path of a copy; only at the instant it says that all is frozen, and stays there.
FROZEN = textwrap.dedent("""
    import sys, time
    from pathlib import Path
    from livep2v.model import SnapshotSpec, from_json
    from livep2v.source.local import LocalSource
    from livep2v.source.snapshot.tracked import TrackedSnapshot
    from tests.support.faults import receiving
    import json
    def stay(self, deadline):
        print("frozen", flush=True)
        time.sleep(120)
    TrackedSnapshot._copy_frozen = stay
    spec = from_json(SnapshotSpec, json.loads(sys.argv[1]))
    source = LocalSource()
    with receiving(Path(sys.argv[2]), spec.disks[0].size) as (receiver, held, path):
        source.copy(spec, receiver, lambda name, facts: None)
""")


def commits(writer: subprocess.Popen[str]) -> int:
    """How many commits the writer has told of since the last call."""
    assert writer.stdout is not None
    os.set_blocking(writer.stdout.fileno(), False)
    told = 0
    while True:
        try:
            data = os.read(writer.stdout.fileno(), 65536)
        except BlockingIOError:
            return told
        if not data:
            return told
        told += data.count(b"\n")


def assert_goes_on(writer: subprocess.Popen[str]) -> None:
    """20 more commits within 10 s (100 a second are normal)."""
    commits(writer)  # those of before do not count
    seen = 0

    def enough() -> bool:
        nonlocal seen
        seen += commits(writer)
        return seen >= 20

    wait_until(enough, 10, "the database does not go on")
    assert writer.poll() is None


def test_agent_killed_while_frozen(tmp_path: Path) -> None:
    with loop_disk(tmp_path, 256 << 20, 60 << 20) as disk, sqlite_writer(disk.mountpoint) as writer:
        limit = 30.0
        argv = [sys.executable, "-c", FROZEN, json.dumps(to_json(disk.spec(hard_limit=limit))), str(tmp_path)]
        with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, cwd=ROOT) as agent:
            assert agent.stdout is not None
            assert agent.stdout.readline() == "frozen\n"
            pids = family(agent.pid)
            assert len(pids) == 2, "the agent and its watchdog"
            assert is_frozen(disk.mountpoint)
            time.sleep(0.3)
            commits(writer)
            time.sleep(0.5)
            assert commits(writer) == 0, "the database waits while frozen"
            os.kill(agent.pid, signal.SIGKILL)
            thawed = wait_until(lambda: not is_frozen(disk.mountpoint), limit, "still frozen after the hard limit")
            assert thawed < 2, "at once, not only at the hard limit"
            assert_goes_on(writer)
        assert_nothing_left(pids)
        writer.terminate()
        writer.wait(10)
        base = sqlite3.connect(disk.mountpoint / "ledger.db")
        assert base.execute("pragma integrity_check").fetchone() == ("ok",)
        count, last = base.execute("select count(*), max(n) from ledger").fetchone()
        base.close()
        assert count == last > 0
        assert sorted(path.name for path in disk.mountpoint.iterdir() if not path.name.startswith("data")) == [
            "churn", "ledger.db", "lost+found"
        ]


HOST = textwrap.dedent("""
    import json, sys, time
    from pathlib import Path
    from livep2v.host import bootstrap
    from livep2v.host.remote import RemoteSource
    from livep2v.host.target import Target
    from livep2v.model import SnapshotSpec, from_json
    from livep2v.source import agent
    from tests.support.faults import receiving
    real = Path(agent.__file__).read_bytes()
    silence = float(sys.argv[3])
    changed = real.replace(b"SILENCE = 60.0", b"SILENCE = %.1f" % silence)
    assert changed != real or silence == 60.0
    read_bytes = Path.read_bytes
    Path.read_bytes = lambda self: changed if self.name == "agent.py" else read_bytes(self)
    spec = from_json(SnapshotSpec, json.loads(sys.argv[1]))
    source = RemoteSource(Target("local", "this machine"))
    def progress(name, facts):
        if name == "bytes" and facts["phase"] == "copying used blocks" and facts["sent"]:
            print("copying", source._process.pid, flush=True)
            if sys.argv[4] == "stop":
                time.sleep(300)  # takes no more from the agent: its pipe fills up, its writes block
    with receiving(Path(sys.argv[2]), spec.disks[0].size) as (receiver, held, path):
        source.copy(spec, receiver, progress)
""")


@pytest.mark.parametrize("way", ["the host is killed", "the host falls silent"])
def test_host_gone(way: str, tmp_path: Path) -> None:
    """A killed host closes its pipes: the agent ends at once. One that is stopped closes nothing and reads nothing, like a
    network that is gone: the agent, stuck in a write, ends by itself after the time that it allows for silence."""
    silent = way == "the host falls silent"
    with loop_disk(tmp_path, 256 << 20, 120 << 20) as disk, sqlite_writer(disk.mountpoint) as writer:
        spec = disk.spec(limit_rate=20 << 20, compress="none")
        argv = [sys.executable, "-c", HOST, json.dumps(to_json(spec)), str(tmp_path), "3.0" if silent else "60.0",
                "stop" if silent else "go"]
        with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, cwd=ROOT) as host:
            assert host.stdout is not None
            agent = int(host.stdout.readline().split()[1])
            pids = family(agent)
            assert len(pids) == 2 and all(map(alive, pids))
            os.kill(host.pid, signal.SIGSTOP if silent else signal.SIGKILL)
            try:
                assert_nothing_left(pids, 25 if silent else 5)
                assert not is_frozen(disk.mountpoint)
                assert_goes_on(writer)
            finally:
                host.kill()
