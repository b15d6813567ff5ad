"""Where in timm's source a load ended: the line it returned at, or raised at, and the resampling it passed on its way."""

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
# What happens inside them is theirs; that they were called is what tells.
_INNER = ("resample_patch_embed", "resample_abs_pos_embed", "resize_pos_embed", "resize_rel_pos_bias_table")


class Trace:
    """Runs something and notes the lines of a package that it ended at.

    ``ended`` is the last line of the outermost function of the package that ran, or the innermost one that raised;
    ``resampled`` are the lines that called for resampling, in order, ``functions`` those of the package that ran.
    """

    def __init__(self, package: Path) -> None:
        self.package = str(package)
        self.ended = ""
        self.resampled: list[str] = []
        self.functions: set[str] = set()
        self._outermost: FrameType | None = None

    def run(self, act: Callable[[], Any]) -> None:
        """Do it; what it raises is noted and kept."""
        before = sys.gettrace()
        sys.settrace(self._called)
        try:
            act()
        except Exception as error:
            self.raised(error)
        finally:
            sys.settrace(before)

    def raised(self, error: BaseException) -> None:
        """Note where an exception came from."""
        frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename.startswith(self.package)]
        if frames:
            self.ended = self._told(frames[-1].filename, frames[-1].lineno, frames[-1].name)

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
            told = self._told(code.co_filename, frame.f_lineno, code.co_name)
            if told not in self.resampled:
                self.resampled.append(told)
        if event == "return" and frame is self._outermost and not self.ended:
            self.ended = self._told(code.co_filename, frame.f_lineno, code.co_name)
        return self._ran

    def _told(self, filename: str, number: int, function: str) -> str:
        path = Path(filename).relative_to(Path(self.package).parent).as_posix()
        return f"{path}:{number} in {function}: {linecache.getline(filename, number).strip()}"
