"""zstd through the system's own libzstd, by ctypes: nothing has to be installed on the source for it.

API: https://facebook.github.io/zstd/zstd_manual.html (simple API, since 1.3.0). ``available()`` is false where the library
is not there; callers then use zlib. Calls release the GIL, so threads really overlap.
"""
import ctypes
from typing import Any, Iterator, List, Optional

from ..errors import FormatError

MAGIC = b"\x28\xb5\x2f\xfd"
_lib: Any = None
_tried = False


class _InBuffer(ctypes.Structure):
    _fields_ = [("src", ctypes.c_void_p), ("size", ctypes.c_size_t), ("pos", ctypes.c_size_t)]


class _OutBuffer(ctypes.Structure):
    _fields_ = [("dst", ctypes.c_void_p), ("size", ctypes.c_size_t), ("pos", ctypes.c_size_t)]


def _load() -> Any:
    global _lib, _tried
    if _tried:
        return _lib
    _tried = True
    try:
        lib = ctypes.CDLL("libzstd.so.1")  # the soname since 1.0; find_library would start gcc or ldconfig
    except OSError:
        return None
    try:
        size, pointer = ctypes.c_size_t, ctypes.c_void_p
        lib.ZSTD_compressBound.restype, lib.ZSTD_compressBound.argtypes = size, [size]
        lib.ZSTD_compress.restype = size
        lib.ZSTD_compress.argtypes = [pointer, size, ctypes.c_char_p, size, ctypes.c_int]
        lib.ZSTD_decompress.restype = size
        lib.ZSTD_decompress.argtypes = [pointer, size, ctypes.c_char_p, size]
        lib.ZSTD_isError.restype, lib.ZSTD_isError.argtypes = ctypes.c_uint, [size]
        lib.ZSTD_createDStream.restype, lib.ZSTD_createDStream.argtypes = pointer, []
        lib.ZSTD_freeDStream.restype, lib.ZSTD_freeDStream.argtypes = size, [pointer]
        lib.ZSTD_initDStream.restype, lib.ZSTD_initDStream.argtypes = size, [pointer]
        lib.ZSTD_decompressStream.restype = size
        lib.ZSTD_decompressStream.argtypes = [pointer, ctypes.POINTER(_OutBuffer), ctypes.POINTER(_InBuffer)]
        _lib = lib
    except AttributeError:
        return None
    return _lib


def available() -> bool:
    return _load() is not None


def compress(data: bytes, level: int = 1) -> bytes:
    """One zstd frame. Call only where :func:`available`."""
    lib = _load()
    bound = lib.ZSTD_compressBound(len(data))
    out = ctypes.create_string_buffer(bound)
    size = lib.ZSTD_compress(out, bound, bytes(data), len(data), level)
    if lib.ZSTD_isError(size):
        raise FormatError(what="zstd frame", offset=0, reason="could not be made")
    return ctypes.string_at(out, size)


def decompress(data: bytes, length: int) -> bytes:
    """The content of one frame, which must be exactly ``length`` bytes. Raises FormatError."""
    lib = _load()
    out = ctypes.create_string_buffer(max(length, 1))
    size = lib.ZSTD_decompress(out, length, bytes(data), len(data))
    if lib.ZSTD_isError(size) or size != length:
        raise FormatError(what="zstd frame", offset=0, reason="damaged, or not {} bytes long".format(length))
    return ctypes.string_at(out, size)


def stream(data: bytes, piece: int = 1 << 20, consumed: Optional[List[int]] = None) -> Iterator[bytes]:
    """The content of the first frame in ``data`` in pieces; ``consumed`` (a list) then receives the bytes that it took.

    Raises FormatError for a damaged or cut frame."""
    lib = _load()
    state = ctypes.c_void_p(lib.ZSTD_createDStream())
    try:
        lib.ZSTD_initDStream(state)
        source = ctypes.create_string_buffer(bytes(data), len(data))
        inbuf = _InBuffer(ctypes.cast(source, ctypes.c_void_p), len(data), 0)
        target = ctypes.create_string_buffer(piece)
        while True:
            outbuf = _OutBuffer(ctypes.cast(target, ctypes.c_void_p), piece, 0)
            left = lib.ZSTD_decompressStream(state, ctypes.byref(outbuf), ctypes.byref(inbuf))
            if lib.ZSTD_isError(left):
                raise FormatError(what="zstd frame", offset=inbuf.pos, reason="damaged")
            if outbuf.pos:
                yield ctypes.string_at(target, outbuf.pos)
            if left == 0:
                break
            if inbuf.pos >= inbuf.size and outbuf.pos < piece:
                raise FormatError(what="zstd frame", offset=inbuf.pos, reason="cut short")
        if consumed is not None:
            consumed.append(inbuf.pos)
    finally:
        lib.ZSTD_freeDStream(state)


class Decompressor:
    """The interface of ``lzma.LZMADecompressor`` for one zstd frame, fed piece by piece: what is unpacked at a time is
    bounded by ``max_length``. Call only where :func:`available`."""

    def __init__(self) -> None:
        self._state = ctypes.c_void_p(_load().ZSTD_createDStream())
        _load().ZSTD_initDStream(self._state)
        self._input = b""
        self.eof = False
        self.needs_input = True
        self.unused_data = b""

    def decompress(self, data: bytes, max_length: int) -> bytes:
        """At most ``max_length`` bytes of content. Raises FormatError for a damaged frame."""
        source = self._input + data
        inbuf = _InBuffer(ctypes.cast(ctypes.c_char_p(source), ctypes.c_void_p), len(source), 0)
        target = ctypes.create_string_buffer(max_length)
        outbuf = _OutBuffer(ctypes.cast(target, ctypes.c_void_p), max_length, 0)
        left = _load().ZSTD_decompressStream(self._state, ctypes.byref(outbuf), ctypes.byref(inbuf))
        if _load().ZSTD_isError(left):
            raise FormatError(what="zstd frame", offset=inbuf.pos, reason="damaged")
        self._input = source[inbuf.pos :]
        if left == 0:
            self.eof, self.unused_data, self._input = True, self._input, b""
        self.needs_input = not self._input and outbuf.pos < max_length
        return ctypes.string_at(target, outbuf.pos)

    def __del__(self) -> None:
        _load().ZSTD_freeDStream(self._state)
