"""The command ``check``: let a worker with the target's timm check a checkpoint file, and print its answer."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import msgspec

from ..cases.case import Size
from ..errors import UserError
from ..ledger.entries import DEFAULT_LEDGER, load_ledger
from ..targets import subprocess_call
from ..targets import target as targets
from .fix import check_path
from .protocol import Answer, Request
from .render import render


def check(checkpoint: Path, *, form: str, timeout: float, **options: Any) -> int:
    """Check a file and print the answer as text or JSON. Returns the exit code; raises :class:`UserError`.

    ``timeout`` is in seconds. ``options`` are the fields of :class:`Request` without ``path``; sizes are text as typed.
    """
    sizes: dict[str, Any] = {name: _size(name, options.pop(name)) for name in ("patch_size", "img_size", "input_size")}
    if not checkpoint.exists():
        raise UserError(f"checkpoint {checkpoint}: there is no such file")
    if options.get("fix"):
        check_path(Path(options["fix"]), checkpoint)
    load_ledger(options["ledger"] or DEFAULT_LEDGER)  # reports a mistake in the ledger before any work is done
    request = Request(path=str(checkpoint), **sizes, **options)
    targets.prepare(targets.parse_target(request.target))
    answer = subprocess_call.call(f"{__package__}.worker", request, Answer, f"the check on {request.target}", timeout)
    if form == "json":
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(answer), indent=2).decode() + "\n")
    elif answer.unusable:
        raise UserError(answer.unusable)
    else:
        render(answer, checkpoint)
    return answer.exit_code


def _size(name: str, text: str | None) -> Size | None:
    """A size ``(height, width)`` in pixels from text: one number for a square, or HxW."""
    if text is None:
        return None
    found = re.fullmatch(r"(\d+)(?:x(\d+))?", text)
    size = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
    if not all(size):
        raise UserError(
            f"--{name.replace('_', '-')} {text!r}: write pixels, 16 for a square or 16x8 for height x width"
        )
    return size
