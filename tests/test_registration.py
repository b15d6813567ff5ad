"""Each thing forgotten when a family, a format or an invariant is added is one line that says what is missing, and where."""

from __future__ import annotations

import sys
from dataclasses import replace
from types import ModuleType

import pytest

from timm_conformance.cases.case import Case, Contents, Geometry
from timm_conformance.cases.selection import Selection
from timm_conformance.checkpoints import state_dicts
from timm_conformance.checkpoints.formats import check_format, format_of
from timm_conformance.drawing import catalogue
from timm_conformance.drawing.catalogue import models_of
from timm_conformance.engine.session import Session
from timm_conformance.errors import UserError
from timm_conformance.families import FAMILIES
from timm_conformance.families.registration import check_names, families_of, import_part
from timm_conformance.invariants import INVARIANTS
from timm_conformance.invariants.registry import invariant
from timm_conformance.reference import FORMATS
from timm_conformance.reference.formats.rules import Drop, Fold, Rename
from timm_conformance.targets.target import parse_target
from timm_conformance.trials.expectation import Expectation
from timm_conformance.vectors.folder import read

CLIP = FAMILIES["openai_clip"]
CASE = Case("openai_clip", {"num_heads": 1, "num_classes": 1}, Geometry((2, 2), (2, 2)), Geometry((2, 2), (2, 2)))


def _says(caught: pytest.ExceptionInfo[UserError], *parts: str) -> None:
    text = str(caught.value)
    assert "\n" not in text
    for part in parts:
        assert part in text


def _module(**contents: object) -> ModuleType:
    module = ModuleType("timm_conformance.families.made_up")
    vars(module).update(contents)
    return module


# -- families ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "Family(name='made_up')",
            "missing 7 required positional arguments: 'source', 'known_since', 'architectures'",
        ),
        ("vit.family(name='made_up', source='x', known_since='1', architectures=0)", "argument: 'models'"),
        ("vit.family(nmae='made_up')", "unexpected keyword argument 'nmae'"),
        ("nothing", "NameError: name 'nothing' is not defined"),
    ],
)
def test_an_argument_that_is_missing_is_named_with_its_file_and_line(tmp_path, monkeypatch, text, says):
    """As a module of the package has it."""
    folder = tmp_path / "timm_conformance_like" / "families"
    folder.mkdir(parents=True)
    (folder / "__init__.py").touch()
    (folder.parent / "__init__.py").touch()
    imports = "from timm_conformance.families import vit\nfrom timm_conformance.families.base import Family\n\n"
    (folder / "made_up.py").write_text(f"{imports}MADE_UP = {text}\n")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("timm_conformance_like", "timm_conformance_like.families"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    with pytest.raises(UserError) as caught:
        import_part("timm_conformance_like.families.made_up")
    _says(caught, "conformance/families/made_up.py, line 4: ", says)


@pytest.mark.parametrize(
    ("contents", "says"),
    [
        ({"MADE_UP": CLIP}, "has no FAMILIES: end it with FAMILIES = (MADE_UP,)"),
        ({"MADE_UP": CLIP, "FAMILIES": CLIP}, "FAMILIES is no tuple of families: write FAMILIES = (MADE_UP,)"),
        ({"MADE_UP": CLIP, "FAMILIES": ("openai_clip",)}, "FAMILIES is no tuple of families"),
    ],
    ids=["missing", "no tuple", "names"],
)
def test_families_that_are_not_listed_are_said(contents, says):
    """A module that makes a family registers it."""
    with pytest.raises(UserError) as caught:
        families_of(_module(**contents))
    _says(caught, "conformance/families/made_up.py", says)


def test_a_module_without_families_is_none():
    """The helpers beside them."""
    assert families_of(_module(ACTIVATIONS=("gelu",))) == ()
    assert families_of(_module(MADE_UP=CLIP, FAMILIES=(CLIP,))) == (CLIP,)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"name": "made up"}, "name is not a word"),
        ({"source": ""}, "source is empty"),
        ({"known_since": "soon"}, "known_since 'soon' is no version"),
        ({"complete_since": "soon"}, "complete_since 'soon' is no version"),
        ({"complete_since": "0.8.9"}, "complete_since 0.8.9 is earlier than known_since 0.9.0"),
        ({"architectures": {"num_heads": 1}}, "architectures is no Hypothesis strategy"),
        ({"shapes": None}, "shapes is no function"),
        ({"num_prefix_tokens": 1}, "num_prefix_tokens is no function"),
        ({"model_kwargs": {}}, "model_kwargs is no function"),
        ({"models": "vit_*"}, "models is no tuple; write models=('vit_*',)"),
        ({"models": ()}, "models is empty"),
        ({"wrappers": ()}, "wrappers is empty"),
        ({"containers": ("zip",)}, "containers has 'zip'; known are safetensors, memory, pth, npz"),
        ({"square_patch": "yes"}, "square_patch is 'yes'; known are"),
        ({"square_grids": "yes"}, "square_grids is 'yes'; known are"),
        ({"wrapper_since": {"module": "1.0"}}, "wrapper_since has 'module', which is not in wrappers"),
    ],
)
def test_a_field_that_cannot_be_is_said(changes, says):
    """With the family and the file."""
    family = replace(CLIP, **changes)
    with pytest.raises(UserError) as caught:
        families_of(_module(MADE_UP=family, FAMILIES=(family,)))
    _says(caught, f"family {family.name!r} in conformance/families/made_up.py: ", says)


def test_a_classic_family_that_is_none_is_said():
    """By its name."""
    check_names(FAMILIES)
    with pytest.raises(UserError) as caught:
        check_names({"made_up": replace(CLIP, name="made_up", classic="vit")})
    _says(caught, "family 'made_up': classic is 'vit', which is no family")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"models": ("vit_*", "made_up_*")},
            "models has 'made_up_*', which matches no model of timm.models.vision_transformer",
        ),
        ({"not_models": ("made_up_*",)}, "not_models has 'made_up_*'"),
        ({"module": "made_up"}, "models has 'vit_*_clip_*.laion*b', which matches no model of timm.models.made_up"),
    ],
)
def test_a_glob_that_matches_no_model_is_said(changes, says):
    """With the family, and the file of the models."""
    with pytest.raises(UserError) as caught:
        models_of(replace(CLIP, **changes))
    _says(caught, "family 'openai_clip': ", says, "conformance/drawing/models.json")


def test_a_snapshot_of_models_that_is_missing_is_said(tmp_path, monkeypatch):
    """With its path."""
    monkeypatch.setattr(catalogue, "PATH", tmp_path / "models.json")
    with pytest.raises(UserError) as caught:
        catalogue.catalogue.__wrapped__()
    _says(caught, f"{tmp_path / 'models.json'} cannot be read: ", "No such file")


@pytest.mark.parametrize(
    ("arch", "says"),
    [
        ({"num_classes": 1}, "architectures draws no 'num_heads'; it draws num_classes"),
        ({"num_heads": 1, "embed_dim": 8}, "architectures draws no 'num_classes'; it draws num_heads, embed_dim"),
        (
            {"num_heads": 1, "num_classes": 1},
            "num_prefix_tokens needs the option 'class_token', which its architectures do not draw",
        ),
    ],
)
def test_an_option_that_architectures_do_not_draw_is_said(arch, says):
    """The suite's own, and those of the family's functions."""
    with pytest.raises(UserError) as caught:
        Expectation(CLIP, Case("openai_clip", arch, CASE.source, CASE.destination))
    _says(caught, "family 'openai_clip': ", says)


def test_what_shapes_lacks_is_said():
    """An option, or a tensor that the family says is implied."""
    with pytest.raises(UserError) as caught:
        state_dicts.truth(CLIP, CASE)
    _says(caught, "family 'openai_clip': shapes needs the option 'embed_dim'")
    implied = replace(CLIP, shapes=lambda arch, geometry: {"norm.weight": (8,)})
    with pytest.raises(UserError) as caught:
        state_dicts.truth(implied, CASE, Contents())
    _says(caught, "family 'openai_clip': implied names head.bias, which shapes does not have")


# -- formats -----------------------------------------------------------------------------------------------------------


def test_every_format_has_what_it_must():
    for family in FAMILIES.values():
        check_format(format_of(family))


def test_a_family_without_a_format_is_said():
    """Where to add it, or which name is wrong."""
    with pytest.raises(UserError) as caught:
        format_of(replace(CLIP, name="made_up"))
    _says(caught, "family 'made_up' has no format: add one with name='made_up' to reference/formats/made_up.py")
    with pytest.raises(UserError) as caught:
        format_of(replace(CLIP, name="made_up", shares_format="openai_klip"))
    _says(caught, "family 'made_up': shares_format is 'openai_klip', and no format has this name")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"forward": None}, "forward is no function"),
        ({"evidence": None}, "evidence is no function"),
        ({"namespace": None}, "namespace is no text"),
        ({"rules": ()}, "rules is no tuple of rules"),
        ({"rules": [Rename("a", "b")]}, "rules is no tuple of rules"),
        ({"rules": ("a",)}, "'a' is no rule; a rule is a Rename, Fold, Fill or Drop"),
        ({"rules": (Rename("a.{q}", "b.{q}"),)}, "'a.{q}' has the field {q}; known are {any}, {i}, {n}, {p}, {rest}"),
        ({"rules": (Drop("a.{}"),)}, "'a.{}' has the field {}"),
        ({"rules": (Rename("a.{i}", "b"),)}, "the patterns of 'a.{i}' and 'b' have other fields"),
        ({"rules": (Fold(("a.{i}", "b"), ("c.{i}",), max, max),)}, "have other fields"),
    ],
)
def test_what_a_format_lacks_is_said(changes, says):
    """Before anything is loaded."""
    with pytest.raises(UserError) as caught:
        check_format(replace(FORMATS["openai_clip"], **changes))
    _says(caught, "format 'openai_clip' in reference/formats/: ", says)


def test_a_session_says_it_before_it_judges(monkeypatch):
    """Once, in place of once for each invariant."""
    monkeypatch.setitem(FORMATS, "openai_clip", replace(FORMATS["openai_clip"], forward=None))
    session = Session(parse_target("reference"), Selection(families=("openai_clip",)))
    with pytest.raises(UserError) as caught:
        session.start()
    _says(caught, "format 'openai_clip' in reference/formats/: forward is no function")


# -- invariants --------------------------------------------------------------------------------------------------------


def _check(trial):
    yield


@pytest.mark.parametrize(
    ("arguments", "check", "says"),
    [
        ({"statement": "", "catches": "x"}, _check, "statement is empty; write a sentence"),
        ({"statement": "x", "catches": " "}, _check, "catches is empty; write a sentence"),
        ({"statement": "x", "catches": "x", "regimes": "native"}, _check, "regimes is no tuple: ('native',)"),
        ({"statement": "x", "catches": "x"}, lambda trial: None, "yields nothing: yield a Problem"),
    ],
)
def test_what_an_invariant_lacks_is_said(arguments, check, says):
    """With its file."""
    before = dict(INVARIANTS)
    check.__name__ = "made_up"
    with pytest.raises(UserError) as caught:
        invariant(**arguments)(check)
    _says(caught, "invariant made-up in conformance/invariants/test_registration.py", says)
    assert before == INVARIANTS


def test_an_argument_of_the_decorator_that_is_missing_is_named():
    with pytest.raises(TypeError, match="missing 1 required keyword-only argument: 'catches'"):
        invariant(statement="x")


# -- stored data -------------------------------------------------------------------------------------------------------


def test_vectors_that_are_missing_are_said(tmp_path):
    """And how to write them."""
    with pytest.raises(UserError) as caught:
        read(tmp_path / "vectors.json")
    _says(caught, f"{tmp_path / 'vectors.json'}: No such file or directory; write it with timm-conformance vectors")
