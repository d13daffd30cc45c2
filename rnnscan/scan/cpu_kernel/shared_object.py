"""Whether a shared library is all there: a file cut short kills the process that loads it (SIGBUS),
and no exception says so.

Standard library alone, as `sources.py`.
"""

import hashlib
import struct
from pathlib import Path

_ELF = b"\x7fELF"
_HEADER, _SEGMENT = struct.Struct("16x2xHIQQQI6H"), struct.Struct("2I6Q")  # of 64 bits
_SEAL = 64  # hexadecimal digits


def extent(path: Path) -> int:
    """How many bytes an ELF file says that it has: the end of its tables and of what it loads.

    0 of another format: macOS looks at that itself, and raises.
    """
    with path.open("rb") as file:
        head = file.read(64)
        if head[:5] != _ELF + b"\x02":
            return 0
        if len(head) < 64:
            return 64
        order = "<" if head[5] == 1 else ">"
        header, segment = (struct.Struct(order + each.format) for each in (_HEADER, _SEGMENT))
        _, _, _, segments, sections, *_, size, count, section_size, section_count, _ = (
            header.unpack(head)
        )
        end = max(sections + section_size * section_count, segments + size * count)
        if size != segment.size or end > path.stat().st_size:
            return end
        file.seek(segments)
        fields = segment.iter_unpack(file.read(size * count))
        return max([end, *(offset + length for _, _, offset, _, _, length, *_ in fields)])


def sealed(library: bytes) -> bytes:
    """With its own hash behind its end, where a loader does not look; ELF files alone.

    What strips or patches a library takes the seal away, and it loads as before.
    """
    return library + _hash(library) if library.startswith(_ELF) else library


def is_sealed(library: bytes) -> bool:
    """Whether it is to the last bit what `sealed` returned."""
    return not library.startswith(_ELF) or library[-_SEAL:] == _hash(library[:-_SEAL])


def _hash(data: bytes) -> bytes:
    return hashlib.sha256(data).hexdigest().encode()
