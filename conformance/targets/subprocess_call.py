"""One question to a process of its own: one process can have one timm only, and a target may crash or hang.

The process is ``python -m MODULE REQUEST ANSWER``, with JSON in both files. What keeps it from answering is its last line of
output, after ``ERROR:``.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import msgspec

from ..errors import EXIT_EXPECTED, EXIT_USAGE, UserError

Answer = TypeVar("Answer")


def environment(*search: str) -> dict[str, str]:
    """The environment of such a process: it imports from the folders of ``search`` first, and uses one thread."""
    paths = [*search, *filter(None, [os.environ.get("PYTHONPATH")])]
    quiet = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    return {**os.environ, **quiet, "PYTHONPATH": os.pathsep.join(paths)}


def ask(module: str, request: Any, answer: type[Answer], subject: str, timeout: float) -> Answer:
    """What the process answers. Raises :class:`UserError`, in which ``subject`` says who did not, and why."""
    with TemporaryDirectory(prefix="timm-conformance-") as folder:
        asked, answered = Path(folder) / "request.json", Path(folder) / "answer.json"
        asked.write_bytes(msgspec.json.encode(request))
        command = [sys.executable, "-m", module, str(asked), str(answered)]
        try:
            done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=timeout)
        except subprocess.TimeoutExpired:
            raise UserError(f"{subject}: no answer within {timeout:.0f} s; --timeout gives it longer") from None
        if not answered.is_file():
            raise UserError(f"{subject}: {last_words(done.stdout + done.stderr, done.returncode, 'its process')}")
        return msgspec.json.decode(answered.read_bytes(), type=answer)


def last_words(output: str, code: int, who: str) -> str:
    """Why a process ended without an answer, in one line: what it said after ``ERROR:``, else how ``who`` ended."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    said = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    if said:
        return said[-1]
    last = f" (its last line: {lines[-1]})" if lines else ""
    how = f"was killed by signal {-code}" if code < 0 else f"exited with code {code}"
    return f"{who} {how}{last}"


def serve(answer: Callable[[Any], Any], request: type) -> int:
    """The process's side: answer the question that its arguments name; returns its exit code."""
    asked, answered = sys.argv[1:]
    try:
        found = answer(msgspec.json.decode(Path(asked).read_bytes(), type=request))
    except UserError as error:
        print(f"ERROR: {error}", flush=True)
        return EXIT_USAGE
    Path(answered).write_bytes(msgspec.json.encode(found))
    return EXIT_EXPECTED
