"""A Source at the other end of the wire: our agent, started over the user's ssh or as a local process."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import threading
import time
from typing import IO, Any, cast

from ..errors import AgentError, Cancelled, ConnectError, Livep2vError, MissingTool, ProtocolError, SourceLost
from ..model import BLOCK, Instant, Machine, SnapshotSpec, from_json, to_json
from ..parties import Progress, Receiver
from ..wire import frames
from ..wire.rpc import Channel, parse, remote_error
from . import bootstrap
from .target import Target, ssh_argv

PING_EVERY = 5.0  # s; the agent ends after 60 s of silence
GOODBYE = 15.0  # s for the agent to thaw, clean up and end after its input has ended
CLOCK_ROUNDS = 5


class RemoteSource:
    """parties.Source over a wire. ``target``: where; ``options``: extra options for ssh."""

    def __init__(self, target: Target, options: tuple[str, ...] = ()) -> None:
        self._target = target
        if target.kind == "ssh":
            argv = ssh_argv(target, options, bootstrap.remote_command())
        else:
            argv = bootstrap.command(target.path or None)
        if shutil.which(argv[0]) is None:
            raise MissingTool(tool=argv[0], package="openssh-client")
        # In our session, so that ssh can ask for a password on the terminal; deaf to its Ctrl-C, which is ours to handle: ssh
        # must live to carry the goodbye (it honours an inherited SIG_IGN, clientloop.c).
        self._process = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            preexec_fn=_ignore_interrupts,
        )
        self._stderr: list[str] = []
        self._stderr_reader = threading.Thread(target=self._read_stderr, daemon=True)
        self._stderr_reader.start()
        reader = os.fdopen(os.dup(cast(IO[bytes], self._process.stdout).fileno()), "rb", buffering=1 << 20)
        self.channel = Channel(reader, cast(Any, _Writer(cast(IO[bytes], self._process.stdin))))
        self._stop_pings = threading.Event()
        self._doing = "connecting"
        self.clock_offset = 0.0  # source's clock minus ours, s
        self.clock_error = 0.0
        try:
            self._start()
        except BaseException:
            self.close()
            raise
        threading.Thread(target=self._ping, daemon=True).start()

    def _start(self) -> None:
        with contextlib.suppress(OSError):  # it ended already: the read below finds out why
            _Writer(cast(IO[bytes], self._process.stdin)).write(bootstrap.preamble())
        hello = self._call("hello", {})
        if not isinstance(hello, dict) or hello.get("protocol") != 1:
            raise ProtocolError(reason=f"{hello!r} instead of protocol 1")
        best = float("inf")
        for _ in range(CLOCK_ROUNDS):  # as NTP does: the shortest round trip knows best
            before = time.time()
            there = float(self._call("clock", {})["time"])
            after = time.time()
            if after - before < best:
                best = after - before
                self.clock_offset, self.clock_error = there - (before + after) / 2, best / 2

    def inspect(self) -> Machine:
        self._doing = "inspecting it"
        return cast(Machine, _record(Machine, self._call("inspect", {})))

    def copy(self, spec: SnapshotSpec, host: Receiver, progress: Progress) -> Instant:
        self._doing = "copying its disks"
        return cast(Instant, _record(Instant, self._call("copy", {"spec": to_json(spec)}, host, progress)))

    def _call(self, method: str, params: dict[str, Any], host: Receiver | None = None, progress: Progress | None = None) -> Any:
        """Send a call and handle what comes until its result. Raises what the agent raised, or SourceLost."""
        try:
            self.channel.call(method, params)
            while True:
                frame = self.channel.receive()
                if frame is None:
                    raise self._ended("it closed the connection")
                if frame.kind == frames.RESULT:
                    if host is not None:
                        host.flush()
                    return parse(frame).get("value")
                if frame.kind == frames.ERROR:
                    raise self._named(remote_error(frame))
                self._handle(frame, host, progress)
        except OSError as error:
            raise self._ended(str(error)) from error
        except ProtocolError as error:
            if self._process.poll() is not None or "the stream ends" in str(error):
                raise self._ended(str(error)) from error
            raise

    def _handle(self, frame: frames.Frame, host: Receiver | None, progress: Progress | None) -> None:
        if frame.kind == frames.EVENT and progress is not None:
            event = parse(frame)
            progress(str(event.get("name")), dict(event.get("facts") or {}))
        elif host is None:
            raise ProtocolError(reason=f"a frame of kind {frame.kind} that nobody asked for")
        elif frame.kind == frames.DATA:
            digests, body = frames.split_data(frame, BLOCK)
            host.data(frame.disk, frame.offset, frame.length, frame.codec, digests, body)
        elif frame.kind == frames.ZERO:
            host.zero(frame.disk, frame.offset, frame.length)
        elif frame.kind == frames.DIGESTS_WANTED:
            held = host.digests(frame.disk, frame.offset, frame.length)
            self.channel.send(frames.Frame(frames.DIGESTS, 0, frame.disk, frame.offset, frame.length, held))

    def close(self) -> None:
        """Tell the agent to stop, and wait until it has thawed and cleaned up; only then end ssh."""
        self._stop_pings.set()
        # In threads: ssh may not take another byte (its network is gone), and the agent may be blocked in a write to us.
        for body in (self._say_goodbye, self._drain):
            threading.Thread(target=body, daemon=True).start()
        patience = 2.0 if self._doing == "connecting" else GOODBYE
        for end in (self._process.terminate, self._process.kill):
            try:
                self._process.wait(patience)
                return
            except subprocess.TimeoutExpired:
                patience = 5.0
                with contextlib.suppress(OSError):  # it has just ended, or is a sudo that is not ours to kill
                    end()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(5.0)

    def _say_goodbye(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self.channel.send(frames.Frame(frames.CANCEL))
        with contextlib.suppress(OSError, ValueError):
            cast(IO[bytes], self._process.stdin).close()

    def _drain(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            fd = cast(IO[bytes], self._process.stdout).fileno()
            while os.read(fd, 1 << 20):
                pass

    def _ping(self) -> None:
        while not self._stop_pings.wait(PING_EVERY):
            try:
                self.channel.send(frames.Frame(frames.PING))
            except OSError:
                return

    def _read_stderr(self) -> None:
        for line in cast(IO[bytes], self._process.stderr):
            self._stderr.append(line.decode(errors="replace").rstrip())
            del self._stderr[:-50]

    def _ended(self, reason: str) -> Livep2vError:
        """The error for a connection that ended: what the shell line, ssh or the agent said."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(5)
        self._stderr_reader.join(2)
        status, said = self._process.poll(), [line for line in self._stderr if line]
        explained = bootstrap.explain(self._target.shown, status or 0, "\n".join(said))
        if explained is not None:
            return explained
        last = said[-1] if said else reason
        if self._doing == "connecting":
            return ConnectError(target=self._target.shown, reason=last)
        return SourceLost(target=self._target.shown, doing=self._doing, reason=last)

    def _named(self, error: Livep2vError) -> Livep2vError:
        if isinstance(error, AgentError):
            return AgentError(target=self._target.shown, reason=error.facts["reason"])
        if isinstance(error, Cancelled):
            return Cancelled(doing=error.facts["doing"])
        return error


def _record(kind: type[Any], data: Any) -> Any:
    """A record from the other side. Raises ProtocolError for one of another shape."""
    try:
        return from_json(kind, data)
    except (TypeError, ValueError, KeyError, OverflowError, RecursionError) as error:
        raise ProtocolError(reason=f"no {kind.__name__}: {error}") from error


def _ignore_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


class _Writer:
    """An unbuffered pipe as a stream whose ``write`` always writes all."""

    def __init__(self, pipe: IO[bytes]) -> None:
        self._fd = pipe

    def write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[self._fd.write(view) or 0 :]

    def flush(self) -> None:
        pass
