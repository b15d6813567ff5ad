"""The command ``check``: let a worker with the target's timm check a checkpoint file, and print its answer."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from ..cases.case import Size
from ..errors import UserError
from ..ledger.entries import DEFAULT_LEDGER, load_ledger
from ..targets import subprocess_call
from ..targets import target as targets
from .fix import check_path
from .names import model_arguments, model_name
from .protocol import Answer, Request
from .render import render


def check(checkpoint: Path, *, form: str, timeout: float, **options: Any) -> int:
    """Check a file and print the answer as text or JSON. Returns the exit code; raises :class:`UserError`.

    ``timeout`` is in seconds. ``options`` are the fields of :class:`Request` without ``path``; sizes are text as typed.
    """
    saved = model_arguments(options["model"])
    options["model"] = model_name(options["model"])
    sizes: dict[str, Any] = {name: _size(name, options.pop(name)) for name in ("patch_size", "img_size", "input_size")}
    for name in ("patch_size", "img_size"):
        sizes[name] = sizes[name] or _saved_size(saved.get(name))
    for name in ("num_classes", "in_chans"):
        if options[name] is None and isinstance(saved.get(name), int):
            options[name] = saved[name]
    options["options"] = {k: v for k, v in saved.items() if k not in _OWN} | _options(options.pop("option"))
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


# Options of create_model that have their own option here, or that a check sets itself.
_OWN = ("img_size", "patch_size", "num_classes", "in_chans")
_SET = ("pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "model_name", "cache_dir")


def _options(texts: Sequence[str]) -> dict[str, Any]:
    """Arguments of ``create_model`` from ``NAME=VALUE``; a value is a Python literal, or text. Raises :class:`UserError`."""
    found = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name.isidentifier():
            raise UserError(
                f"--option {text!r}: write NAME=VALUE, an argument of create_model, for example global_pool=avg"
            )
        if name in _OWN:
            raise UserError(f"--option {name}: it has an option of its own, --{name.replace('_', '-')}")
        if name in _SET:
            raise UserError(f"--option {name}: the check sets it itself")
        try:
            found[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            found[name] = value
    return found


def _saved_size(value: Any) -> Size | None:
    """A size of a configuration, or None for what is none."""
    if isinstance(value, int) and value > 0:
        return value, value
    whole = isinstance(value, list) and len(value) == 2 and all(isinstance(n, int) and n > 0 for n in value)
    return (value[0], value[1]) if whole else None


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
