"""Calls, results, errors and events as control frames over a pair of byte streams."""
import json
import threading
from typing import Any, BinaryIO, Dict, Optional

from ..errors import Livep2vError, ProtocolError, from_wire, to_wire
from . import frames


class Channel:
    """Two streams and a lock: frames may be sent from several threads, and are read by one."""

    def __init__(self, reader: BinaryIO, writer: BinaryIO) -> None:
        self._reader = reader
        self._writer = writer
        self._lock = threading.Lock()
        self.sent_bytes = 0

    def send(self, frame: frames.Frame) -> None:
        """Raises OSError (BrokenPipeError) where the other side is gone."""
        data = frames.pack(frame)
        with self._lock:
            self._writer.write(data)
            self._writer.flush()
            self.sent_bytes += len(data)

    def send_json(self, kind: int, value: Dict[str, Any]) -> None:
        self.send(frames.Frame(kind, payload=json.dumps(value).encode("utf-8")))

    def receive(self) -> Optional[frames.Frame]:
        """The next frame, None at the end of the stream."""
        return frames.read(self._reader)

    def call(self, method: str, params: Dict[str, Any]) -> None:
        self.send_json(frames.CALL, {"method": method, "params": params})

    def event(self, name: str, facts: Dict[str, Any]) -> None:
        self.send_json(frames.EVENT, {"name": name, "facts": facts})

    def result(self, value: Any) -> None:
        self.send_json(frames.RESULT, {"value": value})

    def error(self, error: Livep2vError) -> None:
        self.send_json(frames.ERROR, to_wire(error))


def parse(frame: frames.Frame) -> Dict[str, Any]:
    """The JSON object of a control frame. Raises ProtocolError."""
    try:
        value = json.loads(frame.payload.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ProtocolError(reason="control frame without JSON: {}".format(error))
    if not isinstance(value, dict):
        raise ProtocolError(reason="control frame with {}".format(type(value).__name__))
    return value


def remote_error(frame: frames.Frame) -> Livep2vError:
    """The error of an ERROR frame, ready to be raised."""
    return from_wire(parse(frame))
