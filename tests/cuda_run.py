"""What is run on a GPU: the gate there and on the CPU, the tests that need CUDA, the comparison and the record.

``python -m tests.cuda_run OUT`` writes into the folder OUT: a log for each part, the results of the two gates in ``cpu``
and ``cuda``, ``diff.txt`` and ``record.md``. A part that fails stops no other part. ``--seconds N`` ends what still runs
shortly before N seconds; what it has found by then is kept. ``--rehearse`` puts the CPU in the place of the GPU.
Arguments after ``--`` go to both gates.

Exit codes: 0 if every part ends with 0; 1 if not; 2 without a CUDA device; 3 for a rehearsal in which every part ends with 0.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
import traceback
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

# The releases are the newest one, and one that has every known bug that shows on a GPU alone and is fixed since.
TARGETS = ("timm==1.0.31", "reference", "timm==0.9.12")
RESERVE = 60.0  # seconds at the end: to interrupt what still runs, to compare and to write
_GRACE = 15.0  # seconds between an interrupt and the end
_EXIT_FAILED, _EXIT_NO_DEVICE, _EXIT_REHEARSED = 1, 2, 3


@dataclass
class Part:
    """A command in a process group of its own, with its output in ``log``. ``code`` and ``seconds`` are set when it ended."""

    name: str
    command: list[str]
    log: Path
    code: int | None = None
    seconds: float = 0.0
    cut_off: bool = False
    started: float = field(default_factory=time.monotonic)

    def start(self) -> None:
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                self.command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True
            )
        self.started = time.monotonic()

    def step(self) -> bool:
        """Whether the part has ended."""
        if self.code is None and self.process.poll() is not None:
            self.code = self.process.returncode
            self.seconds = time.monotonic() - self.started
            print(f"{self.name}: {self.told}", flush=True)
        return self.code is not None

    def signal(self, number: int, group: bool = False) -> None:
        self.cut_off = True
        with suppress(ProcessLookupError):
            if group:
                os.killpg(self.process.pid, number)
            else:
                self.process.send_signal(number)

    @property
    def told(self) -> str:
        cut = ", cut off because the time was over" if self.cut_off else ""
        return f"exit code {self.code} after {self.seconds:.0f} s{cut}"


def parts_of(out: Path, rehearse: bool, more: list[str]) -> list[Part]:
    """The parts that run at the same time. On many cores, half of them judge on the GPU."""
    quarter = max(1, (os.cpu_count() or 1) // 4)
    cli = [sys.executable, "-m", "timm_conformance.cli.main", "run"]
    gates = {"cpu": ("cpu", quarter), "cuda": ("cpu" if rehearse else "cuda", 2 * quarter)}
    tests = [sys.executable, "-m", "pytest", "tests/test_cuda.py", "-m", "cuda", "-p", "no:cacheprovider"]
    tests += ["-n", str(quarter), "--device", "rehearsal" if rehearse else "cuda"]
    commands = {
        f"gate-{name}": [*cli, *TARGETS, *more, "--device", device, "--jobs", str(jobs), "--out", str(out / name)]
        for name, (device, jobs) in gates.items()
    }
    return [Part(name, command, out / f"{name}.log") for name, command in ({**commands, "tests": tests}).items()]


def run_together(parts: list[Part], seconds: float | None) -> None:
    """Run parts at the same time. After ``seconds`` those that still run are interrupted, and a little later ended."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # an ignored interrupt would be ignored by the parts too
    began = time.monotonic()
    for part in parts:
        part.start()
    while running := [part for part in parts if not part.step()]:
        over = time.monotonic() - began - seconds if seconds is not None else -1.0
        for part in running:
            if over > _GRACE:
                part.signal(signal.SIGKILL, group=True)
            elif over > 0 and not part.cut_off:
                part.signal(signal.SIGINT)
        time.sleep(0.1)


def run(out: Path, seconds: float | None, rehearse: bool, more: list[str]) -> int:
    """Run everything; returns the exit code."""
    import torch

    from tests import cuda_record

    began = time.monotonic()
    if not rehearse and not torch.cuda.is_available():
        print(f"no CUDA device is visible to torch {torch.__version__}: nothing was run on CUDA")
        return _EXIT_NO_DEVICE
    out.mkdir(parents=True, exist_ok=True)
    parts = parts_of(out, rehearse, more)
    run_together(parts, None if seconds is None else seconds - RESERVE)
    for name in ("cpu", "cuda"):
        cuda_record.complete(out / name)
    command = [sys.executable, "-m", "timm_conformance.cli.main", "diff", str(out / "cpu"), str(out / "cuda")]
    diff = Part("diff", command, out / "diff.txt")
    run_together([diff], None if seconds is None else seconds - (time.monotonic() - began) - _GRACE - 5)
    parts.append(diff)
    try:
        cuda_record.write(out, [(part.name, part.told) for part in parts], rehearse)
    except Exception:  # the other results stay
        traceback.print_exc()
        return _EXIT_FAILED
    if any(part.code for part in parts):
        return _EXIT_FAILED
    return _EXIT_REHEARSED if rehearse else 0


def main(arguments: list[str]) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.cuda_run", epilog="What follows -- goes to both gates.")
    parser.add_argument("out", type=Path)
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--rehearse", action="store_true")
    own = arguments.index("--") if "--" in arguments else len(arguments)
    asked = parser.parse_args(arguments[:own])
    return run(asked.out, asked.seconds, asked.rehearse, arguments[own + 1 :])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
