"""Answers one check in a process with the target's timm (:mod:`conformance.asking`)."""

from __future__ import annotations

import os
import sys

import torch

from .. import asking
from ..errors import EXIT_USAGE, UserError
from .answer import Answer, Request
from .judging import judged


def answered(request: Request) -> Answer:
    """The answer to a request; a file that cannot be read or an impossible argument is one, too."""
    torch.set_num_threads(os.cpu_count() or 1)  # nothing else runs beside a check
    try:
        return judged(request)
    except UserError as error:
        return Answer(target=request.target, model=request.model, unusable=str(error), exit_code=EXIT_USAGE)


if __name__ == "__main__":
    sys.exit(asking.serve(answered, Request))
