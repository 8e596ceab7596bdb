"""The agent: the process on the source that answers calls on its standard input and output (docs/wire.md).

It is started from a zip archive in memory, writes no file, and ends when its input ends: then whatever was frozen is thawed
and the tracing instance removed, by the agent where it can and by the watchdog where it cannot.
"""
import os
import queue
import signal
import sys
import threading
import time
import traceback
from typing import Any, Dict, Optional

from ..errors import AgentError, Cancelled, Livep2vError, ProtocolError
from ..model import CHUNK, SnapshotSpec, from_json, to_json
from ..wire import frames
from ..wire.rpc import Channel, parse
from .local import LocalSource

SILENCE = 60.0  # s without a frame from the host (it pings every 5 s): the network is gone, and so are we
LAST_WORDS = 10.0  # s to end in order once we have to; less than the host waits (host/remote.py, GOODBYE)
PROTOCOL = 1


class WireReceiver:
    """A Receiver (parties.Receiver) at the other end of the wire."""

    def __init__(self, channel: Channel, replies: Any) -> None:
        self._channel = channel
        self._replies = replies

    def data(self, disk: int, offset: int, length: int, codec: int, digests: bytes, payload: bytes) -> None:
        self._channel.send(frames.Frame(frames.DATA, codec, disk, offset, length, digests + payload))

    def zero(self, disk: int, offset: int, length: int) -> None:
        self._channel.send(frames.Frame(frames.ZERO, 0, disk, offset, length))

    def digests(self, disk: int, offset: int, length: int) -> bytes:
        self._channel.send(frames.Frame(frames.DIGESTS_WANTED, 0, disk, offset, length))
        frame = self._replies.get()
        if frame is None:
            raise Cancelled(doing="comparing")
        if (frame.disk, frame.offset, frame.length) != (disk, offset, length):
            raise ProtocolError(reason="digests of another range")
        return bytes(frame.payload)

    def flush(self) -> None:
        pass  # frames arrive in order: whatever is sent next is handled after what was sent before


class Agent:
    """Reads frames in one thread, works in the main thread. ``cancel`` is set by a CANCEL frame, silence, or the end."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.cancel = threading.Event()
        self.calls: queue.Queue[Optional[Dict[str, Any]]] = queue.Queue()
        self.replies: queue.Queue[Any] = queue.Queue()
        self.heard = time.monotonic()
        self.source: Optional[LocalSource] = None

    def listen(self) -> None:
        """Body of the listening thread."""
        try:
            while True:
                frame = self.channel.receive()
                self.heard = time.monotonic()
                if frame is None or frame.kind == frames.CANCEL:
                    break
                if frame.kind == frames.CALL:
                    self.calls.put(parse(frame))
                elif frame.kind == frames.DIGESTS:
                    self.replies.put(frame)
        except (OSError, ProtocolError, ValueError):
            pass
        finally:
            self.stop()

    def watch(self) -> None:
        """Body of the thread that notices a host that fell silent: ssh alone may not for hours. It also ends an agent that
        cannot end in order, because it sits in a write which nobody takes; the watchdog then thaws and cleans up."""
        while not self.cancel.wait(5.0):
            if time.monotonic() - self.heard > SILENCE:
                self.stop()
        time.sleep(LAST_WORDS)
        os._exit(1)

    def stop(self, *_signal: Any) -> None:
        self.cancel.set()
        self.calls.put(None)
        self.replies.put(None)

    def stop_soon(self, *_signal: Any) -> None:
        """As a signal handler: a thread, because the main thread may be inside the very queue that stop() puts into."""
        threading.Thread(target=self.stop, daemon=True).start()

    def serve(self) -> None:
        """Answer calls until the input ends."""
        while True:
            call = self.calls.get()
            if call is None:
                return
            try:
                self.channel.result(self.answer(str(call.get("method")), call.get("params") or {}))
            except Livep2vError as error:
                self._tell(error)
            except OSError as error:
                if self.cancel.is_set() or isinstance(error, BrokenPipeError):
                    return
                self._tell(AgentError(target="the source", reason=_last_lines(error)))
            except Exception as error:
                self._tell(AgentError(target="the source", reason=_last_lines(error)))

    def _tell(self, error: Livep2vError) -> None:
        try:
            self.channel.error(error)
        except OSError:
            self.stop()

    def answer(self, method: str, params: Dict[str, Any]) -> Any:
        if method == "hello":
            return {"protocol": PROTOCOL, "python": sys.version.split()[0], "uid": os.geteuid(), "pid": os.getpid()}
        if method == "clock":
            return {"time": time.time()}
        if self.source is None:
            raise ProtocolError(reason="{} before the source was opened".format(method))
        if method == "inspect":
            return to_json(self.source.inspect())
        if method == "copy":
            spec = from_json(SnapshotSpec, params["spec"])
            before = self.channel.sent_bytes
            receiver = WireReceiver(self.channel, self.replies)
            instant = self.source.copy(spec, receiver, self.channel.event)
            return to_json(instant._replace(wire_bytes=self.channel.sent_bytes - before))
        raise ProtocolError(reason="no method {!r}".format(method))


def _last_lines(error: BaseException) -> str:
    """The error and where it happened, on one line."""
    trace = traceback.extract_tb(error.__traceback__)
    where = " < ".join("{}:{}".format(os.path.basename(item[0]), item[1]) for item in reversed(trace[-4:]))
    return "{}: {} ({})".format(type(error).__name__, error, where)


def main(image: Optional[str] = None) -> None:
    """Entry point of the archive. Keeps the real standard output for frames; nothing else may print there."""
    sys.dont_write_bytecode = True
    threading.stack_size(512 * 1024)  # mlockall would pull 8 MiB into memory for each thread otherwise
    output = os.fdopen(os.dup(1), "wb", buffering=CHUNK)
    os.dup2(2, 1)
    channel = Channel(os.fdopen(os.dup(0), "rb", buffering=65536), output)
    agent = Agent(channel)
    source = LocalSource(image, agent.cancel.is_set)  # forks the watchdog: no thread exists yet
    agent.source = source
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # ignored by who started us: a Ctrl-C on the host's terminal
            signal.signal(number, agent.stop_soon)
    for body in (agent.listen, agent.watch):
        threading.Thread(target=body, daemon=True).start()
    try:
        agent.serve()
    finally:
        source.close()
        os._exit(0)  # the listening thread may sit in a read that nothing ends


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else None)
