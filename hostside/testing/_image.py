"""The kernel without the wrapping that it would have to unpack at each start.

Under TCG that takes a guest 1 to 4 s. QEMU starts the ELF file inside just as well (PVH).
"""

from __future__ import annotations

import ctypes
import lzma
import struct
import tempfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ()  # of use to this room only

SETUP_SECTORS = 0x1F1
"""Where a bzImage has the number of sectors in front of the part with the payload (Linux,
Documentation/arch/x86/boot.rst)."""
PAYLOAD = struct.Struct("<II")
"""Where the payload begins, behind those and the boot sector, and its length."""
PAYLOAD_AT = 0x248
SIZE = struct.Struct("<I")
LONGEST = 256 << 20
"""Bytes of an unpacked kernel; far above any."""
ELF = b"\x7fELF"
LZ4 = b"\x02\x21\x4c\x18"
LZ4_BLOCK = 8 << 20
"""Bytes of an unpacked block, all but the last."""


def unwrapped(image: Path) -> Path:
    """Return the ELF file inside a bzImage, made once beside it; or the bzImage, if it cannot be.

    It can be if this machine has the library for the kernel's compression, which apt needs too.
    """
    path = image.with_name(image.name.replace("vmlinuz", "vmlinux"))
    if not path.exists():
        try:
            data = unpack(image.read_bytes())
            if not data.startswith(ELF):
                return image
            _keep(path, data)
        except (OSError, ValueError, struct.error, lzma.LZMAError, zlib.error):
            return image
    return path


def unpack(image: bytes) -> bytes:
    """Return what is inside a bzImage; raises `ValueError` for an unknown compression."""
    start, length = PAYLOAD.unpack_from(image, PAYLOAD_AT)
    start += (image[SETUP_SECTORS] + 1) * 512
    payload = image[start : start + length - SIZE.size]
    (size,) = SIZE.unpack_from(image, start + length - SIZE.size)
    if size > LONGEST:
        raise ValueError(f"a kernel of {size} bytes")
    for magic, unpacker in UNPACKERS.items():
        if payload.startswith(magic):
            return unpacker(payload, size)
    raise ValueError("a compression that is not known here")


def _keep(path: Path, data: bytes) -> None:
    """Write a file that is there whole or not at all."""
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        file.write(data)
    Path(file.name).rename(path)


def _gzip(data: bytes, size: int) -> bytes:
    return zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(data, size)


def _xz(data: bytes, size: int) -> bytes:
    return lzma.LZMADecompressor(format=lzma.FORMAT_XZ).decompress(data, size)


def _zstd(data: bytes, size: int) -> bytes:
    library = ctypes.CDLL("libzstd.so.1")
    library.ZSTD_decompress.restype = ctypes.c_size_t
    room = ctypes.create_string_buffer(size)
    lengths = [ctypes.c_size_t(size), ctypes.c_size_t(len(data))]
    if library.ZSTD_decompress(room, lengths[0], data, lengths[1]) != size:
        raise ValueError("broken zstd data")
    return room.raw


def _lz4(data: bytes, size: int) -> bytes:
    library = ctypes.CDLL("liblz4.so.1")
    room = ctypes.create_string_buffer(LZ4_BLOCK)
    found, at = bytearray(), len(LZ4)
    while len(found) < size:
        (length,) = SIZE.unpack_from(data, at)
        block = data[at + SIZE.size : at + SIZE.size + length]
        done = library.LZ4_decompress_safe(block, room, len(block), LZ4_BLOCK)
        if done <= 0:
            raise ValueError("broken LZ4 data")
        found += memoryview(room)[:done]
        at += SIZE.size + length
    return bytes(found)


UNPACKERS: dict[bytes, Callable[[bytes, int], bytes]] = {
    b"\x1f\x8b": _gzip,
    b"\xfd7zXZ\0": _xz,
    b"\x28\xb5\x2f\xfd": _zstd,
    LZ4: _lz4,
}
