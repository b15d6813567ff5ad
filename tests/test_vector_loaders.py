"""The golden vectors at work: right loaders pass them, timm but for its known bugs, and wrong ones are caught."""

from __future__ import annotations

import importlib
import importlib.util
import json
import subprocess
import sys
from fnmatch import fnmatchcase
from functools import partial

import msgspec
import numpy as np
import pytest
import torch
from packaging.specifiers import SpecifierSet
from packaging.version import Version
from safetensors.numpy import load_file as load_arrays

from tests import vector_loads
from tests.documents import PAGES, ROOT, files
from tests.vector_loads import DOCUMENTS, VECTORS
from timm_conformance import reference
from timm_conformance.checkpoints import wrappers
from timm_conformance.families import FAMILIES
from timm_conformance.targets.loader import Loader
from timm_conformance.targets.target import MODEL_RELEASE, parse_target
from timm_conformance.vectors import schema
from timm_conformance.vectors.selection import FOLDER

CLIP = "openai_clip"


def _consumer():
    spec = importlib.util.spec_from_file_location("vectors_consumer", FOLDER / "consumer.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# -- loaders -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def timm_models():
    """In-process, timm is the release that models are built with."""
    Loader(parse_target("reference"))


def _object(option):
    """What an option stands for."""
    if isinstance(option, list):
        return tuple(option)
    if not isinstance(option, dict):
        return option
    module, _, name = option["class"].rpartition(".")
    found = getattr(importlib.import_module(module), name)
    arguments = {k: _object(v) for k, v in option.items() if k != "class"}
    return partial(found, **arguments) if arguments else found


def by_the_reference(arrays, vector):
    """The reference, told no more than the JSON tells; its models come from the options there."""
    described, size = vector["model"], vector["destination"]
    model_class = getattr(importlib.import_module(described["module"]), described["class"])
    options = {k: _object(v) for k, v in described["options"].items()}
    model = model_class(img_size=tuple(size["img_size"]), patch_size=tuple(size["patch_size"]), **options)
    wrapper = ".".join(vector["checkpoint"]["wrapper"]) or "bare"
    wrapped = wrappers.wrap({k: torch.from_numpy(v) for k, v in arrays.items()}, wrapper)
    resampling = reference.Resampling(**vector["interpolation"])
    state = reference.load_state_dict(wrapped, model, input_size=vector["input_size"], resampling=resampling)
    case = msgspec.convert(vector["case"], schema.Case)
    return {k: v.numpy() for k, v in FAMILIES[vector["family"]].canonical(case, state).items()}


def test_the_reference_passes_every_vector_told_nothing_but_the_json(timm_models):
    """By the consumer, which knows neither."""
    problem = _consumer().problem
    wrong = {}
    for document, vector in VECTORS:
        said = {**msgspec.to_builtins(document), **msgspec.to_builtins(vector)}
        wrong[vector.id] = problem(by_the_reference, FOLDER / document.family, said)
    assert {name: found for name, found in wrong.items() if found} == {}


def test_the_reference_refuses_the_invalid_ones_for_what_is_wrong_with_them(timm_models):
    """Not for something else in checkpoints as small as that."""
    reasons = {"missing": "missing: *.attn.proj.weight", "wider": "*.norm2.weight is (16,), the model has (8,)"}
    for document, vector in VECTORS:
        if isinstance(vector, schema.Invalid):
            said = {**msgspec.to_builtins(document), **msgspec.to_builtins(vector)}
            arrays = load_arrays(FOLDER / document.family / vector.checkpoint.file)
            with pytest.raises(reference.LoadError) as raised:
                by_the_reference(arrays, said)
            said_why = str(raised.value).partition(" (under ")[0]
            assert fnmatchcase(said_why, f"checkpoint does not fit the model: {reasons[vector.damage]}"), vector.id


def _active(vector, release):
    """The known bugs of a release that a vector is in reach of."""
    return {bug.id for bug in getattr(vector, "timm_bugs", ()) if SpecifierSet(bug.releases).contains(release)}


def _agrees(found, release, least):
    """timm is right but where a bug in whose reach the vector is explains it."""
    assert len(found["judged"]) >= least
    for _, vector in VECTORS:
        owners = set(found["wrong"].get(vector.id, {}).values())
        assert owners <= _active(vector, release), (vector.id, found["wrong"][vector.id])


def test_the_newest_timm_is_right_but_for_its_known_bugs(timm_models):
    """Every vector is judged whose format it reads."""
    read = [d for d, _ in VECTORS if Version(d.complete_since) <= Version(MODEL_RELEASE)]
    _agrees(vector_loads.judge(f"timm=={MODEL_RELEASE}"), MODEL_RELEASE, least=len(read))


def test_timm_0_9_16_is_right_but_for_its_known_bugs():
    """In a process of its own. The bug of #2120 shows."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.vector_loads", "timm==0.9.16"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    _agrees(found, "0.9.16", least=150)
    assert "clip-early-return" in found["wrong"][f"{CLIP}/half"].values()


# -- the consumer ------------------------------------------------------------------------------------------------------

NUMPY_CLIP = dict(files(PAGES["docs/vectors.md"]))["numpy_clip.py"]


def test_the_numpy_loader_of_the_documentation_passes(tmp_path):
    """In a process that has nothing of this project at hand; it prints what the page shows."""
    (tmp_path / "numpy_clip.py").write_text(NUMPY_CLIP, encoding="utf-8")
    words = [sys.executable, str(FOLDER / "consumer.py"), "numpy_clip:convert", CLIP]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"convert openai_clip\n{done.stdout}```" in PAGES["docs/vectors.md"]


_RESIZED = {"finer", "mixed", "half"}
_LOADED = {"native", *_RESIZED}


@pytest.mark.parametrize(
    ("old", "new", "caught"),
    [
        ('patch_kernel(kernel, destination["patch_size"])', "kernel", _RESIZED),  # issue #2120
        ('positions(rows, grid, destination["grid_size"], prefix)[None]', "rows[None]", _RESIZED),
        ("rows.T @ kernel", "np.float16(rows.T) @ kernel", {"finer", "mixed"}),
        ("np.linalg.pinv(axis(o, n), rcond=1e-9)", "axis(n, o)", _RESIZED),  # like an image
        ("max(scale, 1)", "1", _RESIZED),  # not antialiased
        ("near = (1.5 * x - 2.5)", "near = (1.25 * x - 2.25)", _RESIZED),  # another cubic
        ("size = vector", "size = () and vector", {"native", "finer", "mixed"}),  # every grid a square
        ("rows[:prefix], grid", "rows[:prefix] * 1.001, grid", _LOADED),
        (".astype(dtype)", "", _LOADED),
        ('state.pop("proj").T', 'state.pop("proj").T * np.float32(1 + 1e-6)', _LOADED),
        ('"ln_1.": "norm1."', '"ln_1.": "norm2."', _LOADED),
        ("if {name", "if False and {name", {"missing", "wider"}),
    ],
)
def test_broken_loaders_are_caught(old, new, caught):
    """By the vectors that exercise what is broken, and by no other."""
    assert old in NUMPY_CLIP
    loader, problem, failed = {}, _consumer().problem, set()
    exec(NUMPY_CLIP.replace(old, new), loader)
    for vector in DOCUMENTS[CLIP].vectors:
        said = {**msgspec.to_builtins(DOCUMENTS[CLIP]), **msgspec.to_builtins(vector)}
        if problem(loader["convert"], FOLDER / CLIP, said):
            failed.add(vector.id.removeprefix(f"{CLIP}/"))
    assert failed == caught


def test_a_family_that_does_not_exist_passes_nothing(tmp_path):
    """No vector is no success."""
    (tmp_path / "mine.py").write_text("convert = None", encoding="utf-8")
    words = [sys.executable, str(FOLDER / "consumer.py"), "mine:convert", "openai_klip"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "0 of 0 vectors pass\n")


def test_the_consumer_needs_nothing_of_this_project():
    """Its imports."""
    text = (FOLDER / "consumer.py").read_text(encoding="utf-8")
    found = {line.split()[1].split(".")[0] for line in text.splitlines() if line.startswith(("import ", "from "))}
    assert found - set(sys.stdlib_module_names) == {"numpy", "safetensors"}
    assert np.__name__ in found
