"""The sink of a snapshot: zero test, digests and compression in threads, frames out in the order in which blocks came in.

Reading, digesting, compressing and sending overlap; what is between them is bounded in bytes, not in items. Order matters:
a block that is sent again must arrive after its older self.
"""
import queue
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple

from ..model import BLOCK, DIGEST_SIZE
from ..wire import codecs

WORKERS = 2  # zlib, zstd and BLAKE2 release the GIL; more threads than this only take cores from the source's own work
IN_FLIGHT = 32 << 20  # bytes between reader and wire; also how much an instant can hold without waiting for the network
STARVED = 2  # ready chunks below which the wire is waiting for us: then compressing would make it slower

Piece = Tuple[int, int, int, bytes, bytes]  # offset, length, codec, digests, payload; no payload: zeros


class Totals(NamedTuple):
    sent: int  # bytes in data frames, before compression
    zero: int  # bytes read and found zero


class Sender:
    """Gives blocks to ``receiver`` (parties.Receiver: a wire or the host's own). Raises in the caller what went wrong."""

    def __init__(self, receiver: Any, compress: str = "auto", limit_rate: Optional[int] = None) -> None:
        self._receiver = receiver
        self._codec = codecs.choose(compress)
        self._adaptive = compress == "auto"
        self._limit_rate = limit_rate
        self._pool = ThreadPoolExecutor(WORKERS, "sender")
        self._queue: queue.Queue[Any] = queue.Queue()
        self._room = threading.Condition()
        self._in_flight = 0
        self._ready = 0  # chunks that are prepared and wait for the wire
        self._error: Optional[BaseException] = None
        self._closing = threading.Event()
        self.sent: Dict[int, int] = {}
        self.zero: Dict[int, int] = {}
        self.again = False  # zero blocks must be told: the host may hold an older, nonzero self
        self._thread = threading.Thread(target=self._write, name="writer", daemon=True)
        self._thread.start()

    def data(self, disk: int, offset: int, data: bytes, deadline: Optional[float] = None) -> bool:
        """Whole blocks of ``disk`` at ``offset``, at most a chunk. Waits while 32 MiB are on their way; past ``deadline``
        (monotonic) it gives up and returns False, with nothing taken."""
        with self._room:
            while self._in_flight + len(data) > IN_FLIGHT and self._in_flight and self._error is None:
                if not self._room.wait(None if deadline is None else max(0.0, deadline - time.monotonic())):
                    return False
            self._raise()
            self._in_flight += len(data)
        self._queue.put((disk, len(data), self.again, self._pool.submit(self._prepare, offset, data)))
        return True

    def flush(self) -> None:
        """Return when everything has been handed to the receiver and the receiver has let it go."""
        with self._room:
            while self._in_flight and self._error is None:
                self._room.wait()
            self._raise()
        self._receiver.flush()

    def totals(self, disk: int) -> Totals:
        return Totals(self.sent.get(disk, 0), self.zero.get(disk, 0))

    def close(self) -> None:
        """End the threads; what is still on its way is dropped. :meth:`flush` first where it matters."""
        self._closing.set()
        self._queue.put(None)
        self._thread.join()
        self._pool.shutdown()

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _prepare(self, offset: int, data: bytes) -> List[Piece]:
        """Runs in a worker: the pieces of one chunk, runs of zero blocks apart from runs of data."""
        digests = codecs.digests(data)
        codec = self._codec
        if self._adaptive and self._ready <= STARVED:
            codec = codecs.NONE
        pieces: List[Piece] = []
        start, blocks = 0, -(-len(data) // BLOCK)
        while start < blocks:
            zero = _is_zero(digests, start)
            end = start + 1
            while end < blocks and _is_zero(digests, end) == zero:
                end += 1
            low, high = start * BLOCK, min(end * BLOCK, len(data))
            if zero:
                pieces.append((offset + low, high - low, 0, b"", b""))
            else:
                body = data if high - low == len(data) else data[low:high]
                packed = codecs.encode(body, codec)
                if len(packed) >= len(body):
                    packed, used = body, codecs.NONE
                else:
                    used = codec
                pieces.append((offset + low, high - low, used, digests[start * DIGEST_SIZE:end * DIGEST_SIZE], packed))
            start = end
        with self._room:
            self._ready += 1
        return pieces

    def _write(self) -> None:
        """Body of the writing thread: takes finished chunks in order."""
        pace = _Pace(self._limit_rate, sleep=self._closing.wait)
        while True:
            item = self._queue.get()
            if item is None:
                return
            disk, size, again, future = item
            try:
                pieces = future.result()
                if self._error is None and not self._closing.is_set():
                    self._hand_over(disk, pieces, again, pace)
            except BaseException as error:  # told to the reading thread by the next call
                self._error = self._error or error
            with self._room:
                self._ready -= 1
                self._in_flight -= size
                self._room.notify_all()

    def _hand_over(self, disk: int, pieces: List[Piece], again: bool, pace: "_Pace") -> None:
        for offset, length, codec, digests, payload in pieces:
            if payload:
                pace.spend(len(payload))
                self._receiver.data(disk, offset, length, codec, digests, payload)
                self.sent[disk] = self.sent.get(disk, 0) + length
            else:
                if again:
                    self._receiver.zero(disk, offset, length)
                self.zero[disk] = self.zero.get(disk, 0) + length


def _is_zero(digests: bytes, index: int) -> bool:
    return digests[index * DIGEST_SIZE:(index + 1) * DIGEST_SIZE] == codecs.ZERO_DIGEST


class _Pace:
    """Keeps a thread at ``rate`` bytes a second over any second; None: no limit."""

    def __init__(
        self, rate: Optional[int], clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], Any] = time.sleep
    ) -> None:
        self._rate, self._clock, self._sleep = rate, clock, sleep
        self._free_at = clock()

    def spend(self, size: int) -> None:
        if self._rate:
            now = self._clock()
            self._free_at = max(self._free_at, now - 1.0) + size / float(self._rate)
            if self._free_at > now:
                self._sleep(self._free_at - now)
