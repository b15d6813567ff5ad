"""Zip archives: those of ``numpy.savez`` and ``torch.save``, as files or as parts of a file."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import IO

from ...reference.errors import some
from .limits import damaged, refused

# A .npz file is a zip archive. So is a .pth file, or, if written before torch 1.6, a series of pickles that begins with a number.
ZIP = (b"PK\x03\x04", b"PK\x05\x06")


def archive_at(path: Path, content: IO[bytes] | None = None) -> zipfile.ZipFile:
    """The archive in a file, or in ``content``, a part of it. Raises :class:`UserError`."""
    try:
        return zipfile.ZipFile(path if content is None else content)
    except Exception as error:  # zipfile raises many types for a damaged directory
        raise damaged(path, error) from None


def require_torch_archive(archive: zipfile.ZipFile, path: Path) -> None:
    """Raise :class:`UserError` for an archive that ``torch.load`` would misread, or whose bytes do not fit their checksums."""
    members = archive.infolist()
    if any(m.filename.endswith("/constants.pkl") for m in members):
        raise refused(
            path,
            "a TorchScript archive, a program and not only its tensors; if you trust its origin, "
            "torch.save(torch.jit.load(FILE).state_dict(), OTHER)",
        )
    # memory-mapped, compressed bytes would be read as tensors
    if any(m.compress_type != zipfile.ZIP_STORED for m in members):
        raise refused(path, "packed again with compression; torch.save stores tensors as they are")
    # torch.save can leave all checksums zero (torch.serialization.set_crc32_options).
    broken = archive.testzip() if any(m.CRC for m in members) else None
    if broken:
        raise refused(path, f"{some([broken])} in it is damaged (wrong checksum), get the file again")
