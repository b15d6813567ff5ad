"""The process with the target's timm that answers one check (:mod:`timm_conformance.targets.subprocess_call`)."""

from __future__ import annotations

import ctypes
import os
import sys
from contextlib import suppress

import torch

from ..errors import EXIT_USAGE, UserError
from ..targets import subprocess_call
from .checker import check_checkpoint
from .protocol import Answer, Request

_M_MMAP_THRESHOLD = -3  # malloc.h of glibc


def answer_request(request: Request) -> Answer:
    """The answer to a request. For a file that cannot be read or an impossible argument, it says why (``unusable``)."""
    torch.set_num_threads(os.cpu_count() or 1)  # nothing else runs beside a check
    _give_memory_back()
    try:
        return check_checkpoint(request)
    except UserError as error:
        return Answer(target=request.target, model=request.model, unusable=str(error), exit_code=EXIT_USAGE)


def _give_memory_back() -> None:
    """Make glibc return the memory of released tensors. By default it keeps blocks below a limit that grows with each one."""
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, 2**20)


if __name__ == "__main__":
    sys.exit(subprocess_call.serve(answer_request, Request))
