"""Answers one check in a process with the target's timm (:mod:`timm_conformance.targets.subprocess_call`)."""

from __future__ import annotations

import ctypes
import os
import sys
from contextlib import suppress

import torch

from ..errors import EXIT_USAGE, UserError
from ..targets import subprocess_call
from .checker import judged
from .protocol import Answer, Request

_M_MMAP_THRESHOLD = -3  # malloc.h of glibc


def answered(request: Request) -> Answer:
    """The answer to a request; a file that cannot be read or an impossible argument is one, too."""
    torch.set_num_threads(os.cpu_count() or 1)  # nothing else runs beside a check
    _give_memory_back()
    try:
        return judged(request)
    except UserError as error:
        return Answer(target=request.target, model=request.model, unusable=str(error), exit_code=EXIT_USAGE)


def _give_memory_back() -> None:
    """Tensors let go are no longer memory held: glibc would keep those below a limit that it raises with every one."""
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, 2**20)


if __name__ == "__main__":
    sys.exit(subprocess_call.serve(answered, Request))
