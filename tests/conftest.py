"""Shared test set-up: one torch thread a process, and what to do with tests that need CUDA."""

from __future__ import annotations

import sys

import pytest
import torch

from tests import preloaded
from tests.other_repository import Project, build_wheel, install


def pytest_addoption(parser: pytest.Parser) -> None:
    told = (
        "cuda: run the CUDA tests or fail; rehearsal: run them on the CPU; pretend: every family on the pretend device"
    )
    parser.addoption("--device", choices=["cpu", "cuda", "rehearsal", "pretend"], default="cpu", help=told)


def pytest_configure(config: pytest.Config) -> None:
    torch.set_num_threads(1)


def pytest_runtest_setup(item: pytest.Item) -> None:
    device = item.config.getoption("device")
    if item.get_closest_marker("cuda") is None or device == "rehearsal" or torch.cuda.is_available():
        return
    if device == "cuda":
        pytest.fail("--device cuda: no CUDA device is visible to torch", pytrace=False)
    pytest.skip("needs a CUDA device: none is visible to torch")


@pytest.fixture(scope="session", autouse=True)
def quick_python():
    """While tests run, ``sys.executable`` is a Python that has imported torch already; ``preloaded.PYTHON`` is the real one."""
    sys.executable = preloaded.client()
    yield
    sys.executable = preloaded.PYTHON
    preloaded.close()


@pytest.fixture
def gpu(request):
    """The device of a test marked ``cuda``: the GPU. In a rehearsal it is the CPU, which then shows nothing of CUDA."""
    return "cpu" if request.config.getoption("device") == "rehearsal" else "cuda"


@pytest.fixture(scope="session")
def wheel(tmp_path_factory):
    """A wheel of this checkout."""
    return build_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="session")
def wheel_python(wheel, tmp_path_factory):
    """The Python of an environment in which the wheel is installed."""
    return install(wheel, tmp_path_factory.mktemp("environment"))


@pytest.fixture
def project(tmp_path, wheel_python):
    """A fresh repository of somebody else's, beside an installed wheel."""
    return Project(tmp_path, wheel_python)
