"""A Python that has imported torch already: the processes that tests start fork from it, and save seconds of imports each.

:func:`client` gives a small program, the client, that is used as a Python is. It hands its command line, environment,
folder and standard streams to a server, which forks a process for them; the client lives as long as that process and ends
as it ends. There are two servers: one has imported torch (for pytest, which wants to import the rest itself, and for code
and scripts), one all that a worker of the suite imports but timm (for modules of the suite and of these tests). Everything
else, and an environment that torch or Python read while they start, gets the real Python, which is :data:`PYTHON`. What
measures memory or looks at imports uses that, too. With ``REAL_PYTHON=1`` in the environment, every process does.
"""

from __future__ import annotations

import contextlib
import gc
import io
import json
import os
import runpy
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NoReturn

PYTHON = sys.executable
AVAILABLE = sys.platform == "linux" and not os.environ.get("REAL_PYTHON")
# Variables that are read when torch, a package of Hugging Face, Hypothesis or Python is imported.
_READ_AT_START = ("CUDA", "HF_", "HUGGINGFACE", "HYPOTHESIS", "LD_", "LC_", "LANG", "MKL", "PYTHON", "PYTORCH", "TORCH")
_LEVELS = ("base", "full")
_CLIENT = """#!{python} -IS
import array, json, os, signal, socket, sys

def real():
    os.execv({python!r}, [{python!r}, *sys.argv[1:]])

words = sys.argv[1:]
if words and words[0] == "-m" and len(words) > 1:
    kind, name, rest = "module", words[1], words[2:]
elif words and words[0].startswith("-m"):
    kind, name, rest = "module", words[0][2:], words[1:]
elif words and words[0] == "-c" and len(words) > 1:
    kind, name, rest = "code", words[1], words[2:]
elif words and not words[0].startswith("-"):
    kind, name, rest = "script", words[0], words[1:]
else:
    real()
level = "base"
if kind == "module":
    if name.partition(".")[0] in ("timm_conformance", "tests"):
        level = "full"
    elif name != "pytest":
        real()
try:
    server = socket.socket(socket.AF_UNIX)
    server.connect({folder!r} + "/" + level)
except OSError:
    real()
pid = 0
asked = {{"kind": kind, "name": name, "rest": rest, "env": dict(os.environ), "cwd": os.getcwd()}}
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    if signal.getsignal(number) is not signal.SIG_IGN:
        signal.signal(number, lambda number, frame: server.send(bytes([number])))
streams = array.array("i", [0, 1, 2])
server.sendmsg([len(json.dumps(asked).encode()).to_bytes(8, "big")], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, streams)])
server.sendall(json.dumps(asked).encode())
for number in (0, 1, 2):
    os.close(number)
told = b""
while not told.endswith(b"\\n"):
    some = server.recv(64)
    if not some:
        os._exit(70)
    told += some
code = int(told)
if code < 0:
    if -code != signal.SIGKILL:
        signal.signal(-code, signal.SIG_DFL)
    os.kill(os.getpid(), -code)
os._exit(code)
"""


class Preloaded:
    """A client for a Python. The servers start with its first use in this process; :meth:`close` ends them."""

    def __init__(self, python: str = PYTHON) -> None:
        self.python = python
        self.process: subprocess.Popen | None = None
        self.folder = Path(tempfile.mkdtemp(prefix="preloaded-"))
        self.client = str(self.folder / "python")
        Path(self.client).write_text(_CLIENT.format(python=python, folder=str(self.folder)))
        Path(self.client).chmod(0o755)
        sys.addaudithook(self._hook)

    def _hook(self, event: str, facts: tuple[Any, ...]) -> None:
        if event == "subprocess.Popen" and self.process is None and self.client in (facts[0], *facts[1][:1]):
            self._start()

    def _start(self) -> None:
        listening = [socket.socket(socket.AF_UNIX) for _ in _LEVELS]
        for level, server in zip(_LEVELS, listening, strict=True):
            server.bind(str(self.folder / level))
            server.listen(64)
        one = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        numbers = [s.fileno() for s in listening]
        command = [self.python, __file__, self.client, *map(str, numbers)]
        settings = {"env": {**os.environ, **one}, "pass_fds": numbers, "stdin": subprocess.PIPE}
        self.process = subprocess.Popen(command, **settings)
        for server in listening:
            server.close()

    def close(self) -> None:
        """End the servers."""
        if self.process is not None:
            self.process.stdin.close()
            self.process.wait()
        shutil.rmtree(self.folder)


_started: dict[str, Preloaded] = {}


def client(python: str | Path = PYTHON) -> str:
    """The client for a Python, or that Python where there can be none."""
    if not AVAILABLE:
        return str(python)
    if str(python) not in _started:
        _started[str(python)] = Preloaded(str(python))
    return _started[str(python)].client


def close() -> None:
    """End what :func:`client` started."""
    for one in _started.values():
        one.close()
    _started.clear()


def _serve(listening: socket.socket, parent: int, environment: dict[str, str]) -> None:
    """Fork a process for each request until ``parent``, the reading end of a pipe, ends."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    gc.collect()
    gc.freeze()
    loaded = frozenset(name.partition(".")[0] for name in sys.modules) | {"sitecustomize", "usercustomize"}
    while True:
        ready = select.select([listening, parent], [], [])[0]
        if parent in ready:
            os._exit(0)
        client = listening.accept()[0]
        if os.fork() == 0:
            listening.close()
            _supervise(client, environment, loaded)
        client.close()


def _supervise(client: socket.socket, environment: dict[str, str], loaded: frozenset[str]) -> NoReturn:
    """Read a request, start its process, and tell the client how it ended; kill it when the client is gone."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    head, streams, _, _ = socket.recv_fds(client, 8, 3)
    body = b""
    while len(body) < int.from_bytes(head, "big"):
        body += client.recv(1 << 20)
    asked = json.loads(body)
    real = not _like(asked, environment, loaded)
    pid = os.fork()
    if pid == 0:
        client.close()
        os.setsid()
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)
        _become(asked, real)
    for stream in streams:
        os.close(stream)
    ended = os.pidfd_open(pid)
    watched = [client, ended]
    while True:
        ready = select.select(watched, [], [])[0]
        if ended in ready:
            status = os.waitpid(pid, 0)[1]
            with contextlib.suppress(OSError):
                client.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())
            os._exit(0)
        numbers = client.recv(1)
        with contextlib.suppress(ProcessLookupError):
            if numbers:
                os.kill(pid, numbers[0])
            else:
                watched.remove(client)
                os.killpg(pid, signal.SIGKILL)


def _like(asked: dict[str, Any], environment: dict[str, str], loaded: frozenset[str]) -> bool:
    """Whether what was imported is what the process would import."""
    told = asked["env"]
    differing = {n for n in {*told, *environment} if told.get(n) != environment.get(n)}
    if any(name.startswith(_READ_AT_START) and name != "PYTHONPATH" for name in differing):
        return False
    folders = [f for f in told.get("PYTHONPATH", "").split(os.pathsep) if f]
    if asked["kind"] == "script":
        folders.append(str(Path(asked["cwd"], asked["name"]).parent))
    mine = {Path(entry).resolve() for entry in sys.path}
    for folder in (Path(asked["cwd"], f).resolve() for f in folders):
        if folder not in mine and folder.is_dir() and {p.name.partition(".")[0] for p in folder.iterdir()} & loaded:
            return False
    return True


def _become(asked: dict[str, Any], real: bool) -> NoReturn:
    """Be the process that was asked for."""
    os.chdir(asked["cwd"])
    words = {"module": ["-m", asked["name"]], "code": ["-c", asked["name"]], "script": [asked["name"]]}[asked["kind"]]
    if real:
        os.execve(sys.executable, [sys.executable, *words, *asked["rest"]], asked["env"])
    sys.executable = sys.argv[1]
    os.environ.clear()
    os.environ.update(asked["env"])
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        _reopen(number, name)
    added = [os.path.abspath(f) for f in asked["env"].get("PYTHONPATH", "").split(os.pathsep) if f]
    sys.path[:] = [*added, *(p for p in sys.path[1:] if p not in added)]
    code: object = 1
    try:
        sys.argv = [words[0], *asked["rest"]]
        if asked["kind"] == "module":
            sys.path.insert(0, asked["cwd"])
            sys.modules.pop(asked["name"], None)  # else runpy warns of it
            runpy.run_module(asked["name"], run_name="__main__", alter_sys=True)
        elif asked["kind"] == "script":
            sys.argv[0] = asked["name"]
            sys.path.insert(0, str(Path(asked["cwd"], asked["name"]).parent))
            runpy.run_path(asked["name"], run_name="__main__")
        else:
            sys.path.insert(0, "")
            main = type(sys)("__main__")
            sys.modules["__main__"] = main
            exec(compile(asked["name"], "<string>", "exec"), main.__dict__)
        code = 0
    except SystemExit as ended:
        code = ended.code
        if code is None:
            code = 0
        elif not isinstance(code, int):
            print(code, file=sys.stderr)
            code = 1
    except KeyboardInterrupt:
        sys.excepthook(*sys.exc_info())
        _finish()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    _finish()
    os._exit(int(code) & 0xFF)


def _reopen(number: int, name: str) -> None:
    """Give the process a standard stream like one that Python opens when it starts."""
    old = getattr(sys, name)
    file = io.FileIO(number, "r" if number == 0 else "w", closefd=False)
    buffer: Any = io.BufferedReader(file) if number == 0 else io.BufferedWriter(file)
    fresh = io.TextIOWrapper(buffer, encoding=old.encoding, errors=old.errors, line_buffering=number == 2)
    setattr(sys, name, fresh)
    setattr(sys, f"__{name}__", fresh)


def _finish() -> None:
    """What Python does at its end: run what is registered for it, and write what is buffered."""
    import atexit
    import threading

    threading._shutdown()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()


def main() -> None:
    """Serve both sockets; the command line gives the client and their numbers."""
    base, full = (socket.socket(fileno=int(number)) for number in sys.argv[2:])
    environment = dict(os.environ)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    import numpy as np  # noqa: F401
    import torch  # noqa: F401

    if os.fork() == 0:
        base.close()
        from timm_conformance.check import worker as check  # noqa: F401
        from timm_conformance.cli import main as command  # noqa: F401
        from timm_conformance.runner import forkserver

        forkserver.preload()
        _serve(full, 0, environment)
    full.close()
    _serve(base, 0, environment)


if __name__ == "__main__":
    main()
