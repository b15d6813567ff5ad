"""Traces a load in timm's source: the line where it returned or raised, and the lines where it resampled."""

from __future__ import annotations

import linecache
import re
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

_RESAMPLING = re.compile(r"resample|resize|interpolate")
# Functions that are not traced inside: only the lines that call them matter.
_INNER = ("resample_patch_embed", "resample_abs_pos_embed", "resize_pos_embed", "resize_rel_pos_bias_table")


class Trace:
    """Runs a function and records where it ended in a package.

    ``ended`` is the last line of the package's outermost function that ran, or the innermost line that raised. ``resampled``
    are the lines that called for resampling, in order. ``functions`` are the names of the package's functions that ran.
    """

    def __init__(self, package: Path) -> None:
        self.package = str(package)
        self.ended = ""
        self.resampled: list[str] = []
        self.functions: set[str] = set()
        self._outermost: FrameType | None = None

    def run(self, act: Callable[[], Any]) -> None:
        """Run ``act``. An exception is recorded and not passed on."""
        before = sys.gettrace()
        sys.settrace(self._called)
        try:
            act()
        except Exception as error:
            self.raised(error)
        finally:
            sys.settrace(before)

    def raised(self, error: BaseException) -> None:
        """Record where an exception was raised."""
        frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename.startswith(self.package)]
        if frames:
            self.ended = self._line(frames[-1].filename, frames[-1].lineno or 0, frames[-1].name)

    def _called(self, frame: FrameType, event: str, argument: Any) -> Callable | None:
        if not frame.f_code.co_filename.startswith(self.package) or frame.f_code.co_name in _INNER:
            return None
        self.functions.add(frame.f_code.co_name)
        if self._outermost is None:
            self._outermost = frame
        return self._ran

    def _ran(self, frame: FrameType, event: str, argument: Any) -> Callable:
        code = frame.f_code
        if event == "line" and _RESAMPLING.search(linecache.getline(code.co_filename, frame.f_lineno)):
            told = self._line(code.co_filename, frame.f_lineno, code.co_name)
            if told not in self.resampled:
                self.resampled.append(told)
        if event == "return" and frame is self._outermost and not self.ended:
            self.ended = self._line(code.co_filename, frame.f_lineno, code.co_name)
        return self._ran

    def _line(self, filename: str, number: int, function: str) -> str:
        path = Path(filename).relative_to(Path(self.package).parent).as_posix()
        return f"{path}:{number} in {function}: {linecache.getline(filename, number).strip()}"
