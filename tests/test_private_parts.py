"""Private and undocumented parts of other libraries: each behind one module, and as it was in the versions seen.

After an upgrade, the test that fails names the part that has changed. timm is no library here but the subject: its private
functions are asked for by the releases that have them.
"""

from __future__ import annotations

import ast
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from packaging.version import Version
from torch import nn

from tests import torch_internals
from timm_conformance.check.float64 import InFloat64
from timm_conformance.check.loading import parameters_on_meta
from timm_conformance.drawing import hypothesis_internals
from timm_conformance.errors import UserError
from timm_conformance.targets import torchvision_shim
from timm_conformance.targets.skip_init import SkipInit

ROOT = Path(__file__).resolve().parent.parent

# -- where they are used -----------------------------------------------------------------------------------------------

MODULES = {
    "conformance/drawing/hypothesis_internals.py": "hypothesis",
    "conformance/mutation/mutmut_internals.py": "mutmut",
    "conformance/targets/torchvision_shim.py": "torchvision",
    "tests/torch_internals.py": "torch",
    "tests/test_private_parts.py": "",
}
# Importable without a leading underscore, and in no documentation of its library as something to use.
UNDOCUMENTED = ("hypothesis.internal", "mutmut", "torch.utils.backend_registration", "torch._", "torch.utils._")
_OURS = ("timm_conformance", "tests", "timm")


def _private(name: str) -> bool:
    return any(part.startswith("_") and not part.endswith("__") for part in name.split("."))


def uses(source: str) -> Iterator[str]:
    """Uses of private or undocumented parts of other libraries in a Python source: imports, and attributes of what it imports."""
    tree = ast.parse(source)
    imported = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = {alias.asname or alias.name.partition(".")[0]: alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
        else:
            continue
        for name, whole in names.items():
            package = whole.partition(".")[0]
            if package in _OURS or package in sys.stdlib_module_names:
                continue
            imported[name] = whole
            if _private(whole) or whole.startswith(UNDOCUMENTED):
                yield whole
    # What a class made from a library's inherits is found by its name on any object.
    private = {name for base in (nn.Module, torch.Tensor, nn.Parameter) for name in vars(base) if _private(name)}
    private |= {name for name in vars(nn.Module()) if _private(name)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and _private(node.attr):
            root = node.value
            while isinstance(root, ast.Attribute | ast.Call):
                root = root.func if isinstance(root, ast.Call) else root.value
            if (isinstance(root, ast.Name) and root.id in imported) or node.attr in private:
                yield ast.unparse(node)


FILES = [
    p for folder in ("conformance", "reference", "fixtures", "tests") for p in sorted((ROOT / folder).rglob("*.py"))
]


def test_no_private_part_is_used_outside_the_modules_for_it() -> None:
    """Of any library, in any file of the project."""
    found = {p.relative_to(ROOT).as_posix(): sorted(set(uses(p.read_text(encoding="utf-8")))) for p in FILES}
    assert {path: names for path, names in found.items() if names and path not in MODULES} == {}


@pytest.mark.parametrize(
    "source",
    [
        "from hypothesis.internal.conjecture import providers",
        "from torch.utils._pytree import tree_map",
        "import torch._dynamo",
        "import torch\ntorch._C.thing()",
        "import torch as t\nt.nn.Linear(1, 2)._modules",
        "def f(module):\n    return module._parameters",
        "from rich.console import Console\nConsole()._lock",
        "from mutmut.mutation import mutators",
        "import click\nclick.core._verify()",
    ],
)
def test_a_private_use_is_found(source: str) -> None:
    assert list(uses(source))


@pytest.mark.parametrize(
    "source",
    [
        "import os\nos._exit(0)",
        "class A:\n    def f(self):\n        return self._x",
        "import torch\ntorch.nn.Module.__init__",
    ],
)
def test_own_and_documented_names_are_not(source: str) -> None:
    assert not list(uses(source))


# -- hypothesis --------------------------------------------------------------------------------------------------------


def test_hypothesis_has_the_parts_that_keep_draws_the_same() -> None:
    hypothesis_internals.check_parts()


def _draw(strategy: st.SearchStrategy) -> None:
    @settings(max_examples=5, database=None, phases=(Phase.generate,))
    @given(strategy)
    def visit(value: object) -> None:
        """Examples are drawn, and nothing is done with them."""

    visit()


def test_hypothesis_asks_the_provider_for_each_constant() -> None:
    """And a Hypothesis that does not gives one line: here, for examples of one choice, which need no provider."""
    calls = hypothesis_internals.SeedAlone.calls
    with hypothesis_internals.seed_alone():
        _draw(st.tuples(st.integers(), st.integers()))
    assert hypothesis_internals.SeedAlone.calls > calls
    says = r"^hypothesis \S+ draws in another way .*no longer calls _maybe_draw_constant"
    with pytest.raises(UserError, match=says), hypothesis_internals.seed_alone():
        _draw(st.integers())


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            lambda m: m.delattr(hypothesis_internals.HypothesisProvider, "_maybe_draw_constant"),
            "has no _maybe_draw_constant",
        ),
        (
            lambda m: m.setattr(
                hypothesis_internals.HypothesisProvider, "_maybe_draw_constant", lambda self, kind: None
            ),
            "has no _maybe_draw_constant(choice_type, constraints)",
        ),
        (
            lambda m: m.setitem(hypothesis_internals.AVAILABLE_PROVIDERS, "hypothesis", "hypothesis.other.Provider"),
            "is not its default provider",
        ),
    ],
    ids=["gone", "signature", "provider"],
)
def test_a_changed_hypothesis_is_one_line(monkeypatch: pytest.MonkeyPatch, change, says: str) -> None:
    change(monkeypatch)
    with pytest.raises(UserError) as caught:
        hypothesis_internals.check_parts()
    text = str(caught.value)
    assert says in text
    assert "pip install 'hypothesis==" in text
    assert "\n" not in text


# -- mutmut ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def mutmut_internals():
    """The module, where mutmut is installed: `nox -s compat` runs these tests without it."""
    pytest.importorskip("mutmut")
    return importlib.import_module("timm_conformance.mutation.mutmut_internals")


def test_mutmut_has_the_operators_that_scores_are_made_with(mutmut_internals) -> None:
    assert {name for name, _, _ in mutmut_internals.operators()} == mutmut_internals.NAMES


@pytest.mark.parametrize(
    "change", [lambda table: table[1:], lambda table: [*table, (int, table[0][1])]], ids=["gone", "kind"]
)
def test_a_changed_mutmut_is_one_line(monkeypatch: pytest.MonkeyPatch, mutmut_internals, change) -> None:
    monkeypatch.setattr(mutmut_internals, "mutation_operators", change(list(mutmut_internals.mutation_operators)))
    with pytest.raises(UserError, match=r"^mutmut \S+ has other operators .*pip install 'mutmut==[^\n]*$"):
        mutmut_internals.operators()


# -- torch and torchvision ---------------------------------------------------------------------------------------------


@pytest.mark.skipif(
    Version(torch.__version__) < Version(torch_internals.SEEN[0]), reason="older than the versions seen"
)
def test_torch_has_the_parts_that_tests_use() -> None:
    """A backend in Python, fake tensors, trees of arguments, schemas."""
    assert callable(torch_internals.setup_python_backend)
    with torch_internals.FakeTensorMode():
        fake = torch.zeros(2, device="lazy")
        assert (fake.device.type, fake.shape) == ("lazy", (2,))
        with pytest.raises(RuntimeError):
            fake + torch.zeros(2)
    assert torch_internals.tree_leaves(((1, [2]), {"a": 3})) == [1, 2, 3]
    assert torch_internals.tree_map_only(int, str, (1, [2.0])) == ("1", [2.0])
    schema = torch_internals.schema(torch.ops.aten.add_.Tensor)
    assert schema.arguments[0].alias_info.is_write
    assert schema.returns


def test_torch_spares_the_random_initialisation_of_its_layers() -> None:
    """``nn.init`` asks the modes of ``torch.overrides``: no random number is drawn."""
    before = torch.random.get_rng_state()
    with SkipInit():
        layers = [nn.Linear(3, 2), nn.Conv2d(3, 2, 1), nn.Embedding(3, 2)]
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(not p.isnan().any() for layer in layers for p in layer.parameters())


def test_torch_registers_every_parameter_by_the_method() -> None:
    """So that a model can be made without memory."""
    with parameters_on_meta():
        model = nn.Sequential(nn.Linear(3, 2), nn.LayerNorm(2))
        model.token = nn.Parameter(torch.zeros(1))
    assert {p.device.type for p in model.parameters()} == {"meta"}
    assert {p.device.type for p in nn.Linear(3, 2).parameters()} == {"cpu"}


def test_torch_widens_arguments_wherever_they_are() -> None:
    """``torch.overrides`` gives a mode the arguments of a function as they are: alone, in lists, by name."""
    half = torch.ones(2, dtype=torch.float16)
    with InFloat64():
        found = [half + half, torch.cat([half, half]), torch.stack((half, half)), torch.add(input=half, other=half)]
        assert half.dtype == torch.float16
    assert {tensor.dtype for tensor in found} == {torch.float64}


def test_a_torchvision_that_needs_more_than_the_shim_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(name: str) -> None:
        raise RuntimeError("operator torchvision::novelty does not exist\nand more")

    monkeypatch.setattr(torchvision_shim, "_library", None)
    monkeypatch.setattr(torchvision_shim, "_compiled_half_loads", lambda: False)
    monkeypatch.setattr(
        torch.library, "Library", lambda *a: type("Library", (), {"define": lambda self, schema: None})()
    )
    monkeypatch.setattr(torchvision_shim.importlib, "import_module", fails)
    with pytest.raises(
        UserError, match=r"^torchvision \S+ cannot be imported with torch \S+: operator .*install[^\n]*$"
    ):
        torchvision_shim.install()
