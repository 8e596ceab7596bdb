"""Faults in the middle of a conversion of a running machine over ssh. After each the machine is as it was, and works."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lab.machine import Machine
from livep2v.host.qmp import Qmp
from tests.support.faults import CLI, ROOT, alive, family, wait_until

pytestmark = pytest.mark.machine

MIB = 1 << 20
BEGUN = 3 * MIB  # sent over the wire: in the middle of the bulk pass
SETTLED = 30.0  # s that the agent is given to end after its connection has; its watchdog and its sudo with it
SILENCE = 60.0  # s; source/agent.py, and what it takes to end in order

# Processes of ours: the agent and its watchdog have the archive open as a memfd, what starts them has the bootstrap line as
# its command line (one process a question: under emulation each costs 50 ms). Files: anything with our name that is younger
# than the mark. Frozen: a write would never return.
STATE = r"""
find /proc/[0-9]*/fd -lname '*memfd:livep2v*' 2>/dev/null | sed 's/^/process /'
grep -la 'livep2v-[b]ootstrap' /proc/[0-9]*/cmdline 2>/dev/null | sed 's/^/shell /'
ls /sys/kernel/tracing/instances | sed 's/^/instance /'
find / /boot /run /tmp /dev/shm -xdev \( -path /usr/share -o -path /usr/lib/modules -o -path /usr/lib/x86_64-linux-gnu \) \
    -prune -o \( -name '*livep2v*' -o -name '*.pyc' \) -newer /run/mark -print 2>/dev/null | sed 's/^/file /'
for f in /var/tmp/probe /boot/probe; do
    timeout 20 dd if=/dev/zero of=$f bs=4k count=1 conv=fsync status=none && rm $f || echo "frozen ${f%/*}"
done
true
"""
# What inspection must not change: names, sizes, modes and times of everything that is configuration, mounts (but those that a
# login makes), modules, tracing, listeners.
CONFIGURATION = r"""
find /etc /boot /root /home /usr/local /var/tmp /tmp /opt -xdev -printf '%p %s %m %T@ %C@\n' | sort | sha256sum
grep -v ' /run/user/' /proc/mounts | sort; swapon --show=NAME --noheadings; cut -d' ' -f1 /proc/modules | sort
find /sys/kernel/tracing -maxdepth 1 | sort | sha256sum; ls /sys/kernel/tracing/instances
cat /sys/kernel/tracing/tracing_on /sys/kernel/tracing/buffer_size_kb /sys/kernel/tracing/set_event
ss -ltnH | awk '{print $4}' | sort; ls /sys/block; ls -A /dev/shm
"""


@pytest.fixture(scope="module")
def machine(oldbox: Machine) -> Machine:
    oldbox.run("mountpoint -q /sys/kernel/tracing || mount -t tracefs none /sys/kernel/tracing; touch /run/mark; sleep 1.1")
    return oldbox


def convert(machine: Machine, output: Path, *options: str) -> list[str]:
    source = f"root@{machine.built.recipe.name}"
    argv = [*CLI, "convert", source, "-o", str(output), "--name", "box", "--json", "--ssh-option", f"-F{machine.ssh_config}"]
    return [*argv, "--limit-rate", "2M", "--compress", "none", *options]


@contextlib.contextmanager
def converting(machine: Machine, output: Path, look: bool = True) -> Iterator[subprocess.Popen[str]]:
    """A conversion in the middle of its bulk pass, as its own process. ``look``: prove first that what is searched for
    afterwards would be found."""
    process = subprocess.Popen(
        convert(machine, output), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT, start_new_session=True
    )
    try:
        assert process.stdout is not None
        for line in process.stdout:
            event = json.loads(line)
            if event["event"] == "bytes" and event["sent"] > BEGUN:
                break
        else:
            raise AssertionError(f"it ended before it began: {process.communicate()}")
        assert not look or ours(machine), "the agent is there now: the search below finds it"
        yield process
    finally:
        process.kill()
        process.communicate()


def ours(machine: Machine) -> list[str]:
    """Everything of ours that is on the machine; and every file system that takes no writes."""
    return machine.run(STATE, timeout=180).splitlines()


def assert_untouched(machine: Machine, limit: float = SETTLED) -> None:
    """Nothing of ours, nothing frozen, the database takes commits; at the latest after ``limit`` seconds."""
    deadline = time.monotonic() + limit
    while (left := ours(machine)) and time.monotonic() < deadline:
        time.sleep(1)
    assert left == []
    sql = "create table fault(n int); drop table fault; select 42"
    assert machine.run(f"su postgres -c \"psql -tAc '{sql}'\"").split()[-1] == "42"


def assert_failed(output: Path, code: int, words: str) -> None:
    job = output / "box"
    assert words in (job / "FAILED.txt").read_text()
    assert not (job / "RUNNING").exists() and not (job / "start.sh").exists()
    report = json.loads((job / "report.json").read_text())
    assert (report["state"], report["exit_code"]) == ("failed", code)
    assert words in report["error"]


def ended(process: subprocess.Popen[str], limit: float) -> tuple[dict[str, Any], str]:
    """The last event and stderr of a conversion that ends by itself."""
    out, err = process.communicate(timeout=limit)
    assert "Traceback" not in err, err
    return json.loads(out.splitlines()[-1]), err


def test_ssh_is_cut(machine: Machine, tmp_path: Path) -> None:
    with converting(machine, tmp_path) as process:
        (ssh,) = [pid for pid in family(process.pid) if Path(f"/proc/{pid}/comm").read_text() == "ssh\n"]
        os.kill(ssh, signal.SIGKILL)
        last, err = ended(process, 60)
    assert process.returncode == 14, err
    assert (last["event"], last["type"], last["exit_code"]) == ("error", "SourceLost", 14)
    assert "copying its disks" in err and "thaws itself" in err
    assert_failed(tmp_path, 14, "SourceLost")
    assert_untouched(machine)


def test_the_user_presses_ctrl_c(machine: Machine, tmp_path: Path) -> None:
    with converting(machine, tmp_path) as process:
        everybody = family(process.pid)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to ssh as well
        last, err = ended(process, 60)
    assert process.returncode == 130, err
    assert (last["type"], last["exit_code"]) == ("Cancelled", 130)
    assert_failed(tmp_path, 130, "Cancelled")
    wait_until(lambda: not any(map(alive, everybody)), 5, "ssh is still there")
    assert_untouched(machine, 5)  # the host has waited for it


def test_the_network_goes_away(machine: Machine, tmp_path: Path) -> None:
    """No end of file and no reset, on either side: only silence. ssh gives up after 30 s, the agent after 60 s."""
    nic = "net0"
    with converting(machine, tmp_path, look=False) as process:
        qmp = machine._qmp
        assert isinstance(qmp, Qmp)
        qmp.execute("set_link", name=nic, up=False)
        cut = time.monotonic()
        try:
            last, err = ended(process, 120)
            assert process.returncode == 14, err
            assert last["type"] == "SourceLost"
            time.sleep(max(0.0, SILENCE + 17 - (time.monotonic() - cut)))
        finally:
            qmp.execute("set_link", name=nic, up=True)
    assert_failed(tmp_path, 14, "SourceLost")
    wait_until(machine.door.opens, 60, "the network does not come back")
    assert_untouched(machine)


def inspect(machine: Machine, user: str) -> subprocess.CompletedProcess[str]:
    source = f"{user}@{machine.built.recipe.name}"
    argv = [*CLI, "inspect", source, "--json", "--ssh-option", f"-F{machine.ssh_config}"]
    return subprocess.run(argv, capture_output=True, text=True, check=False, cwd=ROOT, timeout=120)


def test_inspection_leaves_nothing_and_changes_nothing(machine: Machine) -> None:
    machine.run(CONFIGURATION)  # looking loads modules too (ss: tcp_diag): once before it counts
    before = machine.run(CONFIGURATION).splitlines()
    done = inspect(machine, "root")
    assert done.returncode == 0, done.stderr
    after = machine.run(CONFIGURATION).splitlines()
    differing = set(after) ^ set(before)
    assert not differing
    assert after == before
    assert_untouched(machine, 5)


def test_a_user_with_sudo_will_do(machine: Machine) -> None:
    done = inspect(machine, "admin")
    assert done.returncode == 0, done.stderr
    (found,) = [event for event in map(json.loads, done.stdout.splitlines()) if event["event"] == "inspection"]
    assert found["machine"]["hostname"] == machine.run("hostname").strip()
    assert found["machine"]["abilities"]["is_root"] and found["plan"] is not None
    assert_untouched(machine, 5)


def test_a_user_without_sudo_is_told(machine: Machine, tmp_path: Path) -> None:
    for verb in (inspect(machine, "nobodyelse"), None):
        if verb is None:
            argv = [word.replace("root@", "nobodyelse@") for word in convert(machine, tmp_path)]
            verb = subprocess.run(argv, capture_output=True, text=True, check=False, cwd=ROOT, timeout=120)
        assert verb.returncode == 12, verb.stderr
        assert "user nobodyelse is not root" in verb.stderr
        assert "nobodyelse ALL=(root) NOPASSWD: ALL" in verb.stderr
        assert json.loads(verb.stdout.splitlines()[-1])["exit_code"] == 12
    assert not list(tmp_path.iterdir())
    assert_untouched(machine, 5)
