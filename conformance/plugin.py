"""The pytest plugin. A run that does not ask for the suite pays for this module only, and cannot fail by it.

``pytest --pyargs timm_conformance.suite --vit-target timm==1.0.31`` runs the suite on a target.
:func:`timm_conformance.vit_conformance` makes a test of a function instead, and needs no option.
"""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

# Nothing else is imported here: every pytest run of an environment that has this package imports this module.

if TYPE_CHECKING:
    from .suite.collection import Suite

_PACKAGE = Path(__file__).parent
_SUITE = _PACKAGE / "suite"

# The options by name, without ``--vit-``.
OPTIONS: dict[str, dict[str, Any]] = {
    "target": {"metavar": "TARGET", "help": "loader under test, e.g. timm==1.0.31, path:DIR, loader:module:function"},
    "family": {"metavar": "NAME", "action": "append", "default": [], "help": "judge this family only (repeatable)"},
    "invariant": {
        "metavar": "NAME",
        "action": "append",
        "default": [],
        "help": "judge this invariant only (repeatable)",
    },
    "profile": {"metavar": "NAME", "default": "gate", "help": "smoke, gate or deep (default: gate)"},
    "seed": {"metavar": "N", "type": int, "default": 0, "help": "seed of the drawn cases (default: 0)"},
    "device": {"metavar": "NAME", "default": "cpu", "help": "cpu or cuda (default: cpu)"},
    "ledger": {"metavar": "FILE", "default": None, "help": "ledger of known bugs, or none (default: the project's)"},
    "focused": {"action": "store_true", "help": "draw a whole profile of cases for each family"},
    "results": {"metavar": "FILE", "default": None, "help": "append results to this NDJSON file"},
}


def pytest_addoption(parser: pytest.Parser, pluginmanager: pytest.PytestPluginManager) -> None:
    if _asked(pluginmanager.get_plugin("pytestconfig")):
        add_options(parser)


def add_options(parser: pytest.Parser) -> None:
    """Add the options."""
    group = parser.getgroup("vit-conformance", "Vision Transformer checkpoint conformance")
    for name, settings in OPTIONS.items():
        # In pytest's namespace the names are longer: others may have a vit_target there.
        group.addoption(f"--vit-{name}", dest=f"vit_conformance_{name}", **settings)


def _asked(config: pytest.Config | None) -> bool:
    """Whether the arguments name a target, the suite or the help, or cannot be told.

    Otherwise the options stay away: a conftest.py may have options of these names for itself.
    """
    if config is None:
        return True
    try:
        given = [*config.invocation_params.args, *shlex.split(os.environ.get("PYTEST_ADDOPTS", ""))]
        arguments = [str(argument) for argument in (*given, *config.getini("addopts"))]
    except ValueError:
        return True
    return any(
        argument in ("-h", "--help") or argument.startswith(("--vit-target", "timm_conformance", "@", str(_PACKAGE)))
        for argument in arguments
    )


def pytest_configure(config: pytest.Config) -> None:
    if not config.pluginmanager.hasplugin("xdist"):  # the marks are there with and without it
        config.addinivalue_line("markers", "xdist_group(name): tests that one pytest-xdist worker runs")
    if config.getoption("vit_conformance_target", None) is None:
        return
    try:
        from .suite import hooks
    except ImportError as error:
        raise pytest.UsageError(f"the suite cannot be imported: {error}") from error

    hooks.begin(config)
    config.pluginmanager.register(hooks, hooks.__name__)


def pytest_collect_directory(path: Path, parent: pytest.Collector) -> pytest.Dir | Suite | None:
    """Collect the suite by its import name: the folders of an editable install are named otherwise."""
    if path == _SUITE:
        from .suite.collection import Suite

        return Suite.from_parent(parent, path=path)
    return pytest.Dir.from_parent(parent, path=path) if path == _PACKAGE else None
