"""Workers forked from a process that has imported everything but timm: torch and the suite cost seconds, a fork milliseconds.

``python -m conformance.zygote FOLDER`` reads one JSON request a line, ``{"name": ..., "work": {...}}``, and forks a child that
does the work of :mod:`conformance.worker`, its output in ``FOLDER/name.log``. It answers with the child's process id, and
writes what became of the child to ``FOLDER/name.exit``. When its standard input ends, because the runner is done or gone,
it ends its children. Chrome and Android start their processes in this way and gave it the name.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import select
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Any, NoReturn

from .errors import UserError

AVAILABLE = hasattr(os, "fork") and sys.platform != "darwin"  # macOS's own libraries do not survive a fork
_POLL = 0.05


def preload() -> None:
    """Import what every worker needs, and nothing of timm."""
    from . import torchvision_shim

    torchvision_shim.install()
    import huggingface_hub  # noqa: F401
    import safetensors.torch  # noqa: F401
    import torchvision.models.feature_extraction
    import torchvision.transforms  # noqa: F401

    from . import worker  # noqa: F401


def _child(name: str, work: dict[str, Any], folder: Path) -> NoReturn:
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
        if not select.select([requests], [], [], _POLL)[0]:
            continue
        line = requests.readline()
        if not line:
            break
        request = json.loads(line)
        pid = os.fork()
        if pid == 0:
            _child(request["name"], request["work"], folder)
        names[pid] = request["name"]
        print(pid, flush=True)
    for pid in names:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


class Zygote:
    """The runner's side."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder = folder
        with open(folder / "zygote.log", "wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(folder)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment,
            )

    def start(self, name: str, work: dict[str, Any]) -> Forked:
        """Fork a worker. Raises :class:`UserError`, where the process that forks has ended: its environment lacks something."""
        try:
            self.process.stdin.write(json.dumps({"name": name, "work": work}).encode() + b"\n")
            self.process.stdin.flush()
            answer = self.process.stdout.readline()
        except BrokenPipeError:
            answer = b""
        if not answer:
            said = (self.folder / "zygote.log").read_text(errors="replace").strip().splitlines()
            raise UserError(f"no worker can be started: {said[-1] if said else 'the process that forks them ended'}")
        return Forked(self, name, int(answer))

    def close(self) -> None:
        """End it, and whatever it still runs."""
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


class Forked:
    """A forked worker, with what the runner uses of ``subprocess.Popen``."""

    def __init__(self, zygote: Zygote, name: str, pid: int) -> None:
        self.zygote = zygote
        self.exit = zygote.folder / f"{name}.exit"
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """The exit code, minus the signal that killed it; None while it runs."""
        if self.returncode is None and self.exit.is_file():
            self.returncode = int(self.exit.read_text())
        elif self.returncode is None and self.zygote.process.poll() is not None:
            self.returncode = -signal.SIGKILL
        return self.returncode

    def kill(self) -> None:
        """Kill it, if it still runs."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    def wait(self) -> int:
        """Wait for its end."""
        while self.poll() is None:
            time.sleep(_POLL)
        return self.returncode


if __name__ == "__main__":
    main(Path(sys.argv[1]))
