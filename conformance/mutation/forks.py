"""Does work in forked copies of this process, some at a time. A copy that breaks, hangs or dies does not affect the others."""

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
_MEMORY = 6 << 30  # bytes beyond what the process has: a mutant may allocate a matrix of any size


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
    """Do works in copies of this process, ``jobs`` at a time. Yields each work with the answer that ``act`` yields for it.

    Answers are passed as JSON. A copy gets ``many`` works; if ``act`` leaves some unfinished, the next copy does them. A work
    may take ``seconds(work)``. A work that takes longer has no answer and ends as ``timeout``; one at which a copy dies ends
    as ``crash``.
    """
    waiting = deque(works)
    running: dict[int, _Copy] = {}
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
    """Runs in the copy: answer every work, then exit."""
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
