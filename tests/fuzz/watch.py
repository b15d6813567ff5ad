"""One piece of work in a process of its own, watched: what it said, and whether it crashed, hung or filled the memory."""

from __future__ import annotations

import gc
import json
import os
import resource
import select
import signal
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from math import ceil
from pathlib import Path

from conformance.errors import UserError
from reference import LoadError

ROOT = Path(__file__).resolve().parents[2]
_OURS = tuple(str(ROOT / package) + os.sep for package in ("conformance", "reference"))
# Beyond what may be used, so that a blow-up shows as one and still stops before the machine suffers.
_HEADROOM = 8


@dataclass(frozen=True)
class Limits:
    """What an input may take: seconds of processor time, and bytes beyond what the process had."""

    seconds: float = 10
    memory: int = 512 * 2**20


LIMITS = Limits()


@dataclass(frozen=True)
class Outcome:
    """How work ended: ``done``, ``refused`` (in one line, :class:`UserError` or :class:`LoadError`), or as a finding.

    Findings are ``raised`` (any other exception), ``muttered`` (a refusal that is no single line), ``hung``, ``grew`` and
    ``died``. ``where`` tells findings of a kind apart: the exception and our innermost function. ``text`` is what there is
    to read: what work returned, the line, the traceback.
    """

    kind: str
    where: str = ""
    text: str = ""

    @property
    def is_finding(self) -> bool:
        """Whether our code did what it must not do on any input."""
        return self.kind not in ("done", "refused")


class _Hung(BaseException):
    """Raised where the process is when its time is up; no handler of exceptions catches it."""


def watched(work: Callable[[], str], limits: Limits = LIMITS) -> Outcome:
    """Do ``work`` in a forked process; processor time, so that a busy machine makes nothing hang."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.close(reading)
        _child(work, limits, writing)
    os.close(writing)
    content, open_until = b"", limits.seconds * 6
    while select.select([reading], [], [], open_until)[0]:  # what waits for ever takes no processor time
        part = os.read(reading, 2**16)
        if not part:
            break
        content += part
    else:
        os.kill(child, signal.SIGKILL)
    os.close(reading)
    _, status, usage = os.wait4(child, 0)
    lines = content.decode().splitlines()
    grown = (usage.ru_maxrss - json.loads(lines[0])) * 1024 if lines else 0
    if grown > limits.memory:
        return Outcome("grew", text=f"{grown >> 20} MiB")
    if len(lines) == 2:
        return Outcome(**json.loads(lines[1]))
    number = os.waitstatus_to_exitcode(status)
    return Outcome("hung" if -number in (signal.SIGKILL, signal.SIGXCPU) else "died", text=f"exit status {number}")


def _child(work: Callable[[], str], limits: Limits, writing: int) -> None:
    """Work, write the memory there was before and the outcome, a line each, and end without unwinding the parent's stack."""

    def hung(*_: object) -> None:
        raise _Hung

    gc.disable()  # it would touch, and so copy, all that is the parent's
    used = resource.getrusage(resource.RUSAGE_SELF)
    os.write(writing, f"{used.ru_maxrss}\n".encode())
    spent = used.ru_utime + used.ru_stime
    signal.signal(signal.SIGXCPU, hung)
    resource.setrlimit(resource.RLIMIT_CPU, (ceil(spent + limits.seconds), ceil(spent + 2 * limits.seconds)))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + _HEADROOM * limits.memory
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    try:
        outcome = Outcome("done", text=work())
    except (UserError, LoadError) as error:
        text = str(error)
        outcome = Outcome("refused" if text and text.isprintable() else "muttered", _innermost(error), text)
    except BaseException as error:  # findings are what nobody foresaw
        kind = "hung" if isinstance(error, _Hung) else "raised"
        outcome = Outcome(kind, f"{type(error).__name__} in {_innermost(error)}", traceback.format_exc())
    os.write(writing, json.dumps(outcome.__dict__).encode() + b"\n")
    sys.stderr.flush()
    os._exit(0)


def _innermost(error: BaseException) -> str:
    """The innermost function of ours on the traceback; Python's name for a comprehension is none."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename.startswith(_OURS)]
    named = [f.name for f in frames if not f.name.startswith("<")]
    return named[-1] if named else "no function of ours"
