"""What no file may do: be unreadable without a word, declare more than it holds, or fill the memory.

The sizes that a file declares are compared with its bytes before anything is decompressed or allocated.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TypeVar

import msgspec

from ...errors import UserError, one_line

# Trained weights hardly compress. A file that declares more than this many times its size, and more than FREE_BYTES, is
# refused as a decompression bomb.
MAX_INFLATION = 20
FREE_BYTES = 256 * 2**20
# The largest configuration that is read beside a model, in bytes.
MAX_CONFIG = 4 * 2**20
SAVE_AGAIN = "if you trust its origin, load it yourself and torch.save the state_dict alone"

T = TypeVar("T")


def refused(path: Path, why: str) -> UserError:
    """The error for a checkpoint that is not read."""
    return UserError(f"checkpoint {path}: {why}")


def damaged(path: Path, reason: object) -> UserError:
    """The error for a file that its library cannot read. ``reason`` is the library's exception."""
    return refused(path, f"damaged or cut off, get it again ({one_line(reason)})")


def runs_code(path: Path, what: str) -> UserError:
    """The error for a pickle that holds ``what``, which only a call could make."""
    return refused(path, f"it holds a {what}, which only running its code would read; {SAVE_AGAIN}")


def start_of(path: Path) -> bytes:
    """The first 64 bytes of a regular file. Raises :class:`UserError` if there are none."""
    try:
        if path.exists() and not path.is_file():
            raise refused(path, "this is no regular file")
        with path.open("rb") as file:
            start = file.read(64)
    except (OSError, ValueError) as error:
        raise refused(path, getattr(error, "strerror", None) or str(error)) from None
    if not start:
        raise refused(path, "the file is empty")
    return start


def require_held(path: Path, declared: int, held: int) -> None:
    """Raise :class:`UserError` if tensors declare far more bytes than the file holds for them."""
    if declared > max(FREE_BYTES, MAX_INFLATION * held):
        raise refused(path, f"its tensors declare {declared:,} bytes, the file has {held:,} for them: not read")


def require_memory(path: Path, declared: int) -> None:
    """Raise :class:`UserError` if arrays that have to be unpacked do not fit into the machine's memory."""
    if declared > memory():
        raise refused(path, f"its arrays take {declared:,} bytes, more than this machine's memory")


def memory() -> int:
    """The machine's memory in bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def small_json(path: Path, kind: type[T], limit: int) -> T:
    """A JSON file of at most ``limit`` bytes as a value of ``kind``. Raises :class:`UserError`."""
    start_of(path)
    if path.stat().st_size > limit:
        raise refused(path, f"a JSON file of {path.stat().st_size:,} bytes; at most {limit:,} are read")
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (OSError, ValueError, RecursionError) as error:  # msgspec's errors are ValueErrors
        raise damaged(path, error) from None
