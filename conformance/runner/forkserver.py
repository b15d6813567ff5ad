"""Forks workers from a process that has imported everything but timm: imports take seconds, a fork milliseconds.

``python -m timm_conformance.runner.forkserver FOLDER`` reads one JSON request a line, ``{"name": ..., "work": {...}}``. It
forks a child that does the work (:mod:`timm_conformance.runner.worker`) and writes its output to ``FOLDER/name.log``. It
answers with the child's process id, and writes the child's exit code to ``FOLDER/name.exit``. When its standard input ends,
because the runner is done or gone, it kills its children.
"""

from __future__ import annotations

import contextlib
import gc
import os
import select
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import NoReturn

import msgspec

from ..errors import UserError
from .plan import Work

AVAILABLE = hasattr(os, "fork") and sys.platform != "darwin"  # macOS's own libraries do not survive a fork
POLL = 0.05


def preload() -> None:
    """Import what every worker needs, except timm, and ask the probes once for all workers."""
    from ..targets import torchvision_shim

    torchvision_shim.install()
    import huggingface_hub  # noqa: F401
    import safetensors.torch  # noqa: F401
    import torchvision.models.feature_extraction
    import torchvision.transforms  # noqa: F401

    from ..probes.registry import ask
    from . import worker  # noqa: F401

    ask()


def _child(name: str, work: Work, folder: Path) -> NoReturn:
    log = os.open(folder / f"{name}.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for descriptor in (1, 2):
        os.dup2(log, descriptor)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    code = 1
    try:
        from . import worker

        code = worker.main(work)
    except SystemExit as ended:  # a loader may call sys.exit
        code = ended.code if isinstance(ended.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def main(folder: Path) -> None:
    """Serve requests until standard input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    preload()
    gc.collect()
    gc.freeze()
    names: dict[int, str] = {}
    requests = sys.stdin.buffer
    while True:
        for pid in list(names):
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                path = folder / f"{names.pop(pid)}.exit"
                path.with_suffix(".part").write_text(str(os.waitstatus_to_exitcode(status)))
                path.with_suffix(".part").replace(path)
        if not select.select([requests], [], [], POLL)[0]:
            continue
        line = requests.readline()
        if not line:
            break
        request = msgspec.json.decode(line, type=_Request)
        pid = os.fork()
        if pid == 0:
            _child(request.name, request.work, folder)
        names[pid] = request.name
        print(pid, flush=True)
    for pid in names:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


class _Request(msgspec.Struct):
    """A request to fork a child of this name for this work."""

    name: str
    work: Work


class ForkServer:
    """The runner's handle of the fork server process."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder = folder
        with open(folder / "forkserver.log", "wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(folder)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment,
            )
        assert self.process.stdin is not None  # a pipe
        assert self.process.stdout is not None
        self._requests, self._answers = self.process.stdin, self.process.stdout

    def start(self, name: str, work: Work) -> Forked:
        """Fork a worker. Raises :class:`UserError` if the fork server has ended, for example because an import failed."""
        try:
            self._requests.write(msgspec.json.encode(_Request(name, work)) + b"\n")
            self._requests.flush()
            answer = self._answers.readline()
        except BrokenPipeError:
            answer = b""
        if not answer:
            said = (self.folder / "forkserver.log").read_text(errors="replace").strip().splitlines()
            why = (
                said[-1].removeprefix(f"{UserError.__module__}.{UserError.__name__}: ")
                if said
                else "the forking process ended"
            )
            raise UserError(f"no worker can be started: {why}")
        return Forked(self, name, int(answer))

    def close(self) -> None:
        """End the fork server and its children."""
        self._requests.close()
        self.process.wait()
        self._answers.close()


class Forked:
    """A forked worker, with the methods of ``subprocess.Popen`` that the runner uses."""

    def __init__(self, forkserver: ForkServer, name: str, pid: int) -> None:
        self.forkserver = forkserver
        self.exit = forkserver.folder / f"{name}.exit"
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """The exit code, minus the signal that killed it; None while it runs."""
        if self.returncode is None and self.exit.is_file():
            self.returncode = int(self.exit.read_text())
        elif self.returncode is None and self.forkserver.process.poll() is not None:
            self.returncode = -signal.SIGKILL
        return self.returncode

    def kill(self) -> None:
        """Kill it, if it still runs."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    def wait(self) -> int:
        """Wait for its end."""
        while (code := self.poll()) is None:
            time.sleep(POLL)
        return code


if __name__ == "__main__":
    main(Path(sys.argv[1]))
