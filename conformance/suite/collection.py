"""How pytest finds the collected tests."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from types import ModuleType

import pytest


class Suite(pytest.Directory):
    """The folder of the suite. It has one module, whatever ``python_files`` of the repository around it says."""

    def collect(self) -> Iterable[pytest.Collector]:
        yield _Tests.from_parent(self, path=self.path / "test_conformance.py")


class _Tests(pytest.Module):
    """The suite's module. pytest itself would name it by its folder, and find a module of the repository under that name."""

    def collect(self) -> Iterable[pytest.Item | pytest.Collector]:
        if self.config.getoption("vit_conformance_target", None) is None:
            raise self.CollectError("the suite needs a target: add for example --vit-target timm==1.0.31")
        return super().collect()

    def _getobj(self) -> ModuleType:
        return importlib.import_module("timm_conformance.suite.test_conformance")
