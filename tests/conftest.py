"""Shared test set-up: one torch thread a process, and what to do with tests that need CUDA."""

from __future__ import annotations

import pytest
import torch

from tests.other_repository import Project, build_wheel, install


def pytest_addoption(parser: pytest.Parser) -> None:
    told = "cuda: run the CUDA tests or fail; pretend: every family on the pretend device"
    parser.addoption("--device", choices=["cpu", "cuda", "pretend"], default="cpu", help=told)


def pytest_configure(config: pytest.Config) -> None:
    torch.set_num_threads(1)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("cuda") is None or torch.cuda.is_available():
        return
    if item.config.getoption("device") == "cuda":
        pytest.fail("--device cuda: no CUDA device is visible to torch", pytrace=False)
    pytest.skip("needs a CUDA device: none is visible to torch")


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
