"""The golden vectors: what is stored is what is generated, and what they say is true."""

from __future__ import annotations

import json
from functools import partial
from math import prod

import msgspec
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from jsonschema import Draft202012Validator, ValidationError
from msgspec.structs import replace
from safetensors.torch import load_file, save_file

from tests import vector_laws
from tests.vector_loads import DOCUMENTS, VECTORS, tensors
from timm_conformance.cases.case import Contents
from timm_conformance.cli.main import main
from timm_conformance.errors import UserError
from timm_conformance.families import FAMILIES, READ
from timm_conformance.vectors import schema, selection
from timm_conformance.vectors.folder import COMPUTED, differences, generate, write
from timm_conformance.vectors.generation import digest
from timm_conformance.vectors.selection import CHOICES, FOLDER, VECTORS_JSON

VALID = [(document, vector) for document, vector in VECTORS if isinstance(vector, schema.Valid)]
INDEX = json.loads((FOLDER / "index.json").read_text(encoding="utf-8"))
CLIP = "openai_clip"


# -- what is stored ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def generated():
    """What would be written now."""
    return generate()


def test_the_stored_vectors_are_those_generated(generated):
    """As `timm-conformance vectors --check` has it."""
    assert list(differences(FOLDER, generated, whole=True)) == []


def test_the_same_code_writes_the_same_bytes(tmp_path):
    """Twice over, and nothing but what was asked for."""
    for name in ("one", "two"):
        write(tmp_path / name, generate(["sam", CLIP]))
    one, two = (
        {p.relative_to(f): p.read_bytes() for p in f.rglob("*.*")} for f in (tmp_path / "one", tmp_path / "two")
    )
    assert one == two
    assert {path.parts[0] for path in one} == {"sam", CLIP, "index.json", "schema.json"}


def test_every_family_has_vectors_and_the_index_counts_them():
    """Ids are unique; the files are those named, with the digests given."""
    ids = [vector.id for _, vector in VECTORS]
    assert len(set(ids)) == len(ids) == INDEX["vectors"] == sum(INDEX["families"].values())
    assert list(DOCUMENTS) == list(READ)
    assert INDEX["families"] == {name: len(document.vectors) for name, document in DOCUMENTS.items()}
    assert all(any(isinstance(v, schema.Valid) for v in document.vectors) for document in DOCUMENTS.values())
    for document, vector in VECTORS:
        for file in (vector.checkpoint, *([vector.expected] if isinstance(vector, schema.Valid) else [])):
            assert digest((FOLDER / document.family / file.file).read_bytes()) == file.sha256


def test_the_regimes_that_matter_are_met():
    """By valid vectors, in many families."""
    changes = {f"{what}-{how}" for what in ("patch", "grid") for how in ("native", "grow", "shrink", "mixed")}
    others = {"prefix-0", "prefix-1", "prefix-1+R", "source-grid-non-square", "destination-grid-non-square"}
    others |= {"equal-count-other-shape", "patch-non-square", "half-precision", "wrapped", "declared-absent"}
    for flag in changes | others:
        assert len({document.family for document, vector in VALID if flag in vector.flags}) > 5, flag


def test_checkpoints_are_exact_in_every_dtype():
    """Small integers (variances: and a half), in dtypes that NumPy has too; but for a buffer that upstream computes."""
    for document, vector in VECTORS:
        for name, tensor in tensors(document, vector.checkpoint).items():
            assert tensor.dtype in (torch.float32, torch.float16, torch.int64), (vector.id, name)
            if name.endswith(COMPUTED):
                continue
            assert torch.equal(2 * tensor, (2 * tensor).round()), (vector.id, name)
            assert not tensor.is_floating_point() or bool((tensor.abs() <= 8).all()), (vector.id, name)


def test_what_is_resampled_has_the_sizes_it_says():
    """Kept rows and sizes give the shapes of checkpoint-side and expected tensors; what keeps its size is not listed."""
    seen = set()
    for document, vector in VALID:
        want = tensors(document, vector.expected)
        for name, how in vector.resampled.items():
            seen.add(how.law)
            shape, new = want[name].shape, how.destination_size
            rows = {
                "pi-resize": prod(shape[-2:]),
                "grid": shape[1] - how.kept_rows,
                "window": shape[1] - how.kept_rows,
                "bias-table": shape[0] - how.kept_rows,
                "axis-table": shape[0] - how.kept_rows,
            }[how.law]
            assert rows == prod(2 * n - 1 if "table" in how.law else n for n in new), (vector.id, name)
            assert how.source_size != new
            assert 0 < how.tolerance < 0.02
        assert bool(vector.resampled) == ("resampled" in vector.flags), vector.id
    assert seen == set(schema.Law.__args__)


def test_the_laws_are_those_of_the_page():
    """Of the tensors of the native vector, they make the expected ones of the same checkpoint at other sizes."""
    met = set()
    for document in DOCUMENTS.values():
        vectors = {vector.id.split("/")[1]: vector for vector in document.vectors}
        for name in {"finer", "mixed"} & vectors.keys():
            native, want = (tensors(document, vectors[n].expected) for n in ("native", name))
            for key, how in vectors[name].resampled.items():
                rules = msgspec.to_builtins(how), msgspec.to_builtins(document.interpolation)
                got = vector_laws.resample(native[key].numpy(), *rules)
                off = np.abs(got - want[key].double().numpy()).max()
                assert off <= how.tolerance, (vectors[name].id, key)
                met.add((how.law, *rules[1].values()))
    kinds = {(how.law, document.interpolation.mode) for document, vector in VALID for how in vector.resampled.values()}
    assert {(law, mode) for law, mode, *_ in met} == kinds


# -- the check ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def copy(tmp_path, monkeypatch):
    """A folder of one family's vectors, and a command that runs `vectors` on it."""
    write(tmp_path, generate([CLIP]))

    def run(*words):
        return CliRunner().invoke(main, ["vectors", "-o", str(tmp_path), "--family", CLIP, *words])

    return tmp_path / CLIP, run


def _edit(folder, name, change):
    """Another tensor in a file, and its digest in the JSON."""
    state = load_file(folder / name)
    before = digest((folder / name).read_bytes())
    change(state)
    save_file(state, folder / name)
    text = (folder / VECTORS_JSON).read_text(encoding="utf-8")
    (folder / VECTORS_JSON).write_text(text.replace(before, digest((folder / name).read_bytes())), encoding="utf-8")


KERNEL = "patch_embed.proj.weight"


@pytest.mark.parametrize(
    ("file", "change", "said"),
    [
        ("mixed.expected", lambda s: s[KERNEL].add_(1e-7), ""),  # a last bit is another machine's
        ("mixed.expected", lambda s: s[KERNEL].add_(1e-2), f"mixed.expected.safetensors: {KERNEL} is off by 0.01"),
        ("mixed.expected", lambda s: s["norm.weight"].add_(1e-7), "norm.weight is off by"),
        ("native.expected", lambda s: s[KERNEL].add_(1e-6), f"{KERNEL} is off by"),
        ("native.expected", lambda s: s.pop("norm.weight"), "norm.weight is missing"),
        ("native.expected", lambda s: s.update(other=torch.ones(1)), "other is in no checkpoint of this kind"),
        ("half.expected", lambda s: s.update({KERNEL: s[KERNEL].float()}), f"{KERNEL} is torch.float32"),
        ("checkpoint", lambda s: s["visual.proj"].mul_(float("nan")), "visual.proj is off by nan"),
    ],
)
def test_a_changed_tensor_is_found(copy, file, change, said):
    """But for a last bit."""
    folder, run = copy
    _edit(folder, f"{file}.safetensors", change)
    done = run("--check")
    assert done.exit_code == (1 if said else 0), done.output
    assert said in done.output


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda f: (f / "half.expected.safetensors").unlink(), f"{CLIP}/half.expected.safetensors is missing"),
        (lambda f: (f / "half.expected.safetensors").write_bytes(b"\0" * 9), "its sha256 differs"),
        (lambda f: (f / "old.safetensors").write_bytes(b""), f"{CLIP}/old.safetensors belongs to no vector"),
        (lambda f: (f / VECTORS_JSON).unlink(), f"{VECTORS_JSON}: No such file"),
        (lambda f: (f / VECTORS_JSON).write_bytes(b"{"), f"{VECTORS_JSON} cannot be read"),
    ],
)
def test_a_damaged_folder_is_found(copy, damage, said):
    """In one line, and no traceback."""
    folder, run = copy
    damage(folder)
    done = run("--check")
    assert done.exit_code == 1
    assert said in done.output


@pytest.mark.parametrize("where", ["upstream", "vectors.0.comment", "vectors.1.resampled", "vectors.0.case.declared"])
def test_a_changed_statement_is_found(copy, where):
    """Of the family and of a vector."""
    folder, run = copy
    document = json.loads((folder / VECTORS_JSON).read_text(encoding="utf-8"))
    part, *names = document, *where.split(".")
    for name in names[:-1]:
        part = part[int(name) if name.isdigit() else name]
    part[names[-1]] = {} if names[-1] == "resampled" else "absent"
    (folder / VECTORS_JSON).write_text(json.dumps(document), encoding="utf-8")
    done = run("--check")
    assert done.exit_code == 1
    assert f"{names[0] if len(names) == 1 else names[2]} is other than what is generated" in done.output


def test_a_vector_that_is_gone_is_found(copy):
    """All that it said is missing."""
    folder, run = copy
    document = json.loads((folder / VECTORS_JSON).read_text(encoding="utf-8"))
    del document["vectors"][0]
    (folder / VECTORS_JSON).write_text(json.dumps(document), encoding="utf-8")
    assert f"{CLIP}/native: comment is not what is generated" in run("--check").output


def test_index_and_schema_are_checked_with_all_families(tmp_path, generated):
    """And not with one alone."""
    write(tmp_path, {CLIP: generated[CLIP]})
    assert not list(differences(tmp_path, {CLIP: generated[CLIP]}, whole=False))
    found = list(differences(tmp_path, generated, whole=True))
    assert "index.json is not what is generated" in found
    assert "schema.json is not what is generated" not in found


def test_the_command_line(tmp_path):
    """Writes one family; says in one line what is wrong."""
    run = partial(CliRunner().invoke, main)
    done = run(["vectors", "-o", str(tmp_path / "new"), "--family", CLIP])
    assert done.exit_code == 0
    assert "6 vectors of 1 family written to" in done.output
    assert json.loads((tmp_path / "new" / "index.json").read_text())["families"] == {CLIP: 6}
    done = run(["vectors", "-o", str(tmp_path / "other"), "--check"])
    assert done.exit_code == 2
    assert "there are no vectors; write them with" in done.output
    done = run(["vectors", "-o", str(tmp_path), "--family", "openai_klip"])
    assert done.exit_code == 2
    assert "did you mean 'openai_clip'?" in done.output


# -- the choice --------------------------------------------------------------------------------------------------------


def _choice(name):
    return next(choice for choice in CHOICES if choice.name == name)


@pytest.fixture
def publish(tmp_path, monkeypatch):
    """Makes cases of one family, by choice, those that are published."""
    monkeypatch.setattr(selection, "FOLDER", tmp_path)
    (tmp_path / CLIP).mkdir()

    def store(**cases):
        vectors = [{"id": f"{CLIP}/{name}", "case": msgspec.to_builtins(case)} for name, case in cases.items()]
        (tmp_path / CLIP / VECTORS_JSON).write_text(json.dumps({"vectors": vectors}), encoding="utf-8")

    return store


def test_a_published_vector_keeps_its_case(publish):
    """Whatever the plan would choose today; what is not published yet follows the plan, for the same model."""
    planned = selection.choose_cases(FAMILIES[CLIP])
    wide = replace(planned[_choice("finer")], arch={**planned[_choice("finer")].arch, "embed_dim": 16})
    publish(native=wide)
    chosen = selection.choose_cases(FAMILIES[CLIP])
    assert chosen.pop(_choice("native")) == wide
    assert chosen == {c: replace(case, arch=wide.arch) for c, case in planned.items() if c.name != "native"}


def test_published_cases_that_cannot_be_are_refused(publish, tmp_path):
    """In one line: unreadable ones, those of two architectures, those of two checkpoints in one file."""
    planned = selection.choose_cases(FAMILIES[CLIP])
    native, finer = planned[_choice("native")], planned[_choice("finer")]
    publish(native=native, finer=replace(finer, arch={**finer.arch, "depth": 2}))
    with pytest.raises(UserError, match="several architectures"):
        generate([CLIP])
    publish(native=native, finer=replace(finer, contents=Contents("integers", 5)))
    with pytest.raises(UserError, match=r"one checkpoint, checkpoint\.safetensors"):
        generate([CLIP])
    (tmp_path / CLIP / VECTORS_JSON).write_text("{", encoding="utf-8")
    with pytest.raises(UserError, match="cannot be read"):
        generate([CLIP])


@pytest.mark.parametrize("name", READ)
def test_a_loader_can_know_what_is_planned(name, publish):
    """Without what is stored, and within what the family can be."""
    family = FAMILIES[name]
    for case in selection.choose_cases(family).values():
        assert family.undecidable(case) is None
        assert family.undecidable_grid(case, (224, 224)) is None


@pytest.mark.parametrize("name", READ)
def test_a_loader_can_know_what_is_asked(name):
    """Every case, stored or planned, is decidable."""
    family = FAMILIES[name]
    for case in selection.choose_cases(family).values():
        assert family.undecidable(case) is None
        assert family.undecidable_grid(case, (224, 224)) is None


# -- the schema --------------------------------------------------------------------------------------------------------

JSON_SCHEMA = json.loads((FOLDER / "schema.json").read_text(encoding="utf-8"))
VALIDATOR = Draft202012Validator(JSON_SCHEMA)


def test_every_document_is_as_the_schema_says():
    """The stored ones."""
    Draft202012Validator.check_schema(JSON_SCHEMA)
    for path in (FOLDER / "index.json", *FOLDER.glob(f"*/{VECTORS_JSON}")):
        VALIDATOR.validate(json.loads(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize(
    ("field", "value"), [("result", "acceptable"), ("checkpoint", {}), ("input_size", [1]), ("resampled", {"x": 1})]
)
def test_a_wrong_vector_is_not(field, value):
    """Each field has its type, and is there."""
    document = json.loads((FOLDER / CLIP / VECTORS_JSON).read_text(encoding="utf-8"))
    for change in (lambda v: v.update({field: value}), lambda v: v.pop(field)):
        wrong = json.loads(json.dumps(document))
        change(wrong["vectors"][0])
        with pytest.raises(ValidationError):
            VALIDATOR.validate(wrong)
