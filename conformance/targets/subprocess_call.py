"""A call of a function in a process of its own: a process can import one timm only, and a target may crash or hang.

The process is ``python -m MODULE REQUEST ANSWER``. Both files hold JSON. A process that cannot answer prints the reason as
its last line of output, after ``ERROR:``.
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
    """Environment variables of such a process: it imports from the folders of ``search`` first, and uses one thread."""
    paths = [*search, *filter(None, [os.environ.get("PYTHONPATH")])]
    quiet = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    return {**os.environ, **quiet, "PYTHONPATH": os.pathsep.join(paths)}


def call(module: str, request: Any, answer: type[Answer], subject: str, timeout: float) -> Answer:
    """Run ``module`` on a request and return its answer.

    ``timeout`` is in seconds. Raises :class:`UserError` if there is no answer: it names the ``subject`` and the reason.
    """
    with TemporaryDirectory(prefix="timm-conformance-") as folder:
        request_file, answer_file = Path(folder) / "request.json", Path(folder) / "answer.json"
        request_file.write_bytes(msgspec.json.encode(request))
        command = [sys.executable, "-m", module, str(request_file), str(answer_file)]
        try:
            done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=timeout)
        except subprocess.TimeoutExpired:
            raise UserError(f"{subject}: no answer within {timeout:.0f} s; --timeout gives it longer") from None
        if not answer_file.is_file():
            raise UserError(f"{subject}: {exit_reason(done.stdout + done.stderr, done.returncode, 'its process')}")
        return msgspec.json.decode(answer_file.read_bytes(), type=answer)


def exit_reason(output: str, code: int, who: str) -> str:
    """Why a process ended without an answer, in one line: its text after ``ERROR:``, else how ``who`` ended."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    said = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    if said:
        return said[-1]
    last = f" (its last line: {lines[-1]})" if lines else ""
    how = f"was killed by signal {-code}" if code < 0 else f"exited with code {code}"
    return f"{who} {how}{last}"


def serve(answer: Callable[[Any], Any], request: type) -> int:
    """The side of the process: answer the request that its command line names, and return its exit code."""
    request_file, answer_file = sys.argv[1:]
    try:
        found = answer(msgspec.json.decode(Path(request_file).read_bytes(), type=request))
    except UserError as error:
        print(f"ERROR: {error}", flush=True)
        return EXIT_USAGE
    Path(answer_file).write_bytes(msgspec.json.encode(found))
    return EXIT_EXPECTED
