"""Work done in forked copies of this process, some at a time: whatever a copy breaks, hangs on or dies of is its own."""

from __future__ import annotations

import os
import resource
import select
import signal
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar

import msgspec

Work = TypeVar("Work")
_MEMORY = 6 << 30  # bytes more than the process has: a mutant may ask for a matrix of any size


@dataclass
class _Copy:
    works: list
    pid: int
    pipe: int
    deadline: float
    said: bytes = b""

    def ended(self) -> int:
        """Its exit status, once it has closed its pipe or was killed."""
        os.close(self.pipe)
        return os.waitpid(self.pid, 0)[1]


def each(
    act: Callable[[list[Work]], Iterable[Any]],
    works: Iterable[Work],
    jobs: int,
    seconds: Callable[[Work], float],
    many: int,
) -> Iterator[tuple[Work, Any, str]]:
    """Do works in copies of this process, ``jobs`` at a time: each work with what ``act`` yields for it, as JSON has it.

    A copy is given ``many`` works, which ``act`` may leave unfinished: the next copy goes on. ``seconds`` is how long one
    work may take. The one at which a copy ran out of it comes with no answer and ``timeout``, the one it died at with
    ``crash``.
    """
    waiting, running = deque(works), {}
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                batch = [waiting.popleft() for _ in range(min(many, len(waiting)))]
                copy = _start(act, batch, seconds(batch[0]))
                running[copy.pipe] = copy
            soonest = min(c.deadline for c in running.values()) - time.monotonic()
            for pipe in select.select(list(running), [], [], max(soonest, 0))[0]:
                copy, said = running[pipe], os.read(pipe, 1 << 16)
                *lines, copy.said = (copy.said + said).split(b"\n")
                for line in lines:
                    yield copy.works.pop(0), msgspec.json.decode(line), ""
                if lines and copy.works:
                    copy.deadline = time.monotonic() + seconds(copy.works[0])
                if not said:
                    status = running.pop(pipe).ended()
                    if status and copy.works:
                        yield copy.works.pop(0), None, "crash"
                    waiting.extendleft(reversed(copy.works))
            for copy in [c for c in running.values() if c.deadline < time.monotonic()]:
                os.kill(copy.pid, signal.SIGKILL)
                running.pop(copy.pipe).ended()
                if copy.works:
                    yield copy.works.pop(0), None, "timeout"
                waiting.extendleft(reversed(copy.works))
    finally:
        for copy in running.values():
            os.kill(copy.pid, signal.SIGKILL)
            copy.ended()


def _start(act: Callable[[list], Iterable[Any]], works: list, seconds: float) -> _Copy:
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(ours)
        _act(act, works, theirs)
    os.close(theirs)
    return _Copy(works, pid, ours, time.monotonic() + seconds)


def _act(act: Callable[[list], Iterable[Any]], works: list, pipe: int) -> NoReturn:
    """The copy's part."""
    code = 1
    try:
        with open("/proc/self/statm") as file:
            size = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + _MEMORY, resource.RLIM_INFINITY))
        os.dup2(os.open(os.devnull, os.O_RDWR), 1)
        os.dup2(1, 2)
        with open(pipe, "wb", buffering=0) as out:
            for answer in act(works):
                out.write(msgspec.json.encode(answer) + b"\n")
        code = 0
    finally:
        os._exit(code)
