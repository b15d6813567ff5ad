"""The unknown-family alarm: releases we judge hold nothing unknown, and a planted family is named, however it is told."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from timm_conformance import families
from timm_conformance.alarm import unknown_formats
from timm_conformance.errors import UserError
from timm_conformance.targets.target import DEFAULT_TARGETS, MODEL_RELEASE

FILE, ONLY = Path("timm/models/vision_transformer.py"), ["vision_transformer"]
FILTER = "checkpoint_filter_fn"
# Where to plant: the first test of the filter function, the function itself, and where it is handed over.
BRANCH, FUNCTION, HANDED = (
    "    if 'visual.class_embedding' in state_dict:\n",
    "def checkpoint_filter_fn(\n",
    "        pretrained_filter_fn=_filter_fn,\n",
)
RELEASES = [spec for spec in DEFAULT_TARGETS if spec.startswith("timm==")]


@pytest.fixture(scope="module")
def newest() -> Path:
    """The newest release."""
    return unknown_formats.folder_of(f"timm=={MODEL_RELEASE}")


@pytest.fixture(scope="module")
def known(newest) -> set[tuple[str, str]]:
    """What it tests, by function and text."""
    return {(d.function, d.text) for d in unknown_formats.detection_strings(newest, ONLY)}


@pytest.fixture
def planted(newest, known, tmp_path):
    """Copies the release with edits and further files; returns what the alarm names that the release itself lacks."""

    def plant(*edits: tuple[str, str], **files: str) -> dict[tuple[str, str], unknown_formats.Detection]:
        # Without the table of its models and the models themselves there is a third as much to read.
        head, _, rest = (newest / FILE).read_text(encoding="utf-8").partition("def _cfg(")
        text = head + rest[rest.index("def _create_vision_transformer(") :].partition("@register_model")[0]
        for old, new in edits:
            assert text.count(old) == 1, "the release has changed: plant elsewhere"
            text = text.replace(old, new)
        (tmp_path / FILE).parent.mkdir(parents=True)
        for name, content in (files | {FILE.stem: text}).items():
            (tmp_path / FILE).with_stem(name).write_text(content, encoding="utf-8")
        found = {(d.function, d.text): d for d in unknown_formats.uncovered(tmp_path, ONLY)}
        return {where: d for where, d in found.items() if where not in known}

    return plant


@pytest.mark.parametrize("spec", RELEASES)
def test_no_family_of_the_default_targets_is_unknown(spec):
    """Every string by which these releases tell a format is in a checkpoint some family generates."""
    lines = [
        f"{d.module}:{d.line} {d.function} {d.text!r}"
        for d in unknown_formats.uncovered(unknown_formats.folder_of(spec))
    ]
    assert not lines, "no family generates keys with:\n" + "\n".join(lines)


BRANCHES = {
    "if": ("if 'brand_new.stem.weight' in state_dict: pass", "brand_new.stem.weight"),
    "a part of our keys": ("if 'attn.qkv.weight' in state_dict: pass", "attn.qkv.weight"),
    "not in": ("if 'brand_new' not in state_dict: pass", "brand_new"),
    "in keys()": ("if 'brand_new' in state_dict.keys(): pass", "brand_new"),
    "while": ("while 'brand_new' in state_dict: state_dict = state_dict['brand_new']", "brand_new"),
    "any": ("if any('brand_new.' in k for k in state_dict): pass", "brand_new."),
    "startswith several": ("x = [k for k in state_dict if k.startswith(('brand_new.', 'blocks.'))]", "brand_new."),
    "endswith": ("x = [k for k in state_dict if k.endswith('.brand_new')]", ".brand_new"),
    "slice": ("x = [k for k in state_dict if k[:9] == 'brand_new']", "brand_new"),
    "split": ("x = [k for k in state_dict if 'brand_new' in k.split('.')]", "brand_new"),
    "equal": ("x = [k for k in state_dict if k == 'resblocks']", "resblocks"),
    "in a tuple": ("x = [k for k in state_dict if k in ('brand_new', 'cls_token')]", "brand_new"),
    "first key": ("if next(iter(state_dict)) == 'brand_new': pass", "brand_new"),
    "subscript": ("x = state_dict['brand_new']", "brand_new"),
    "get": ("state_dict = state_dict.get('module_ema', state_dict)", "module_ema"),
    "pop": ("state_dict.pop('brand_new', None)", "brand_new"),
    "del": ("del state_dict['brand_new']", "brand_new"),
    "walrus": ("if (x := state_dict.get('brand_new')) is not None: pass", "brand_new"),
    "regex": ("x = [k for k in state_dict if re.match(r'brand\\d+', k)]", r"brand\d+"),
    "compiled": ("x = re.compile('brand_(a|b)')", "brand_(a|b)"),
    "no regex": ("x = remap(state_dict, r'ls\\1.gamma')", r"ls\1.gamma"),
    "assigned": ("p = 'brand_new.'; x = [k for k in state_dict if k.startswith(p)]", "brand_new."),
    "conditional": ("p = 'brand_new.' if model else ''; x = [k for k in state_dict if p in k]", "brand_new."),
    "looped over": ("x = [p for p in ('pos_embed', 'pos') if p in state_dict]", "pos"),
    "list": ("names = ['brand_new']; x = all(name in state_dict for name in names)", "brand_new"),
    "pairs": ("t = [('brand_new', 'brand_old')]; x = [k.replace(a, b) for k in state_dict for a, b in t]", "brand_new"),
    "pair": (
        "t = [('brand_new', 'brand_old')]; x = [k.replace(p[0], p[1]) for k in state_dict for p in t]",
        "brand_new",
    ),
    "dict": ("t = {'brand_new': 'brand_old'}; x = [k.replace(*p) for k in state_dict for p in t.items()]", "brand_new"),
    "dict lookup": ("t = {'brand_new': 'brand_old'}; x = [t[k] for k in state_dict]", "brand_new"),
    "f-string": ("if f'{prefix}brand_new' in state_dict: pass", "{}brand_new"),
    "sum": ("if prefix + 'brand_new' in state_dict: pass", "{}brand_new"),
    "set": ("if {'brand_new'} <= set(state_dict): pass", "brand_new"),
    "issubset": ("if {'brand_new'}.issubset(state_dict): pass", "brand_new"),
    "operator": ("if operator.contains(state_dict, 'brand_new'): pass", "brand_new"),
    "argument": ("x = _convert_openai_clip(state_dict, model, prefix='brand_new.')", "brand_new."),
}


@pytest.mark.parametrize(("code", "text"), BRANCHES.values(), ids=BRANCHES)
def test_a_new_branch_is_named(planted, tmp_path, code, text):
    """Planted in the filter function, a test is named with its file, function and line, and nothing else is."""
    found = planted((BRANCH, f"    {code}\n{BRANCH}"))
    assert list(found) == [(FILTER, text)]
    detection = found[FILTER, text]
    assert detection.module == FILE.stem
    assert (tmp_path / FILE).read_text(encoding="utf-8").splitlines()[detection.line - 1] == f"    {code}"


CONVERTERS = {
    "startswith": "def _convert_foo(sd):\n    return {k: v for k, v in sd.items() if k.startswith('foo_encoder.')}",
    "renames": "def _convert_foo(sd):\n    return {k.replace('foo_encoder.', 'blocks.'): v for k, v in sd.items()}",
    "default": "def _convert_foo(sd, prefix='foo_encoder.'):\n    return [k for k in sd if k.startswith(prefix)]",
    "keyword default": "def _convert_foo(sd, *, a=1, p='foo_encoder.'):\n    return [k for k in sd if p in k]",
    "nested": "def _convert_foo(sd):\n    def own(k, p='foo_encoder.'):\n        return p in k\n    return filter(own, sd)",
    "match": "def _convert_foo(sd):\n    match [*sd]:\n        case ['foo_encoder.', *_]:\n            return {}",
}


@pytest.mark.parametrize("code", CONVERTERS.values(), ids=CONVERTERS)
def test_a_new_converter_is_named(planted, code):
    """A function named like a converter is read, whoever calls it."""
    assert list(planted((FUNCTION, f"{code}\n\n\n{FUNCTION}"))) == [("_convert_foo", "foo_encoder.")]


_REMAP = "def _remap(sd):\n    return {k: v for k, v in sd.items() if 'foo_encoder' in k}\n"
_CALLED = (BRANCH, f"    state_dict = _remap(state_dict)\n{BRANCH}")
HELPERS = {
    "in the file": ([_CALLED, (FUNCTION, _REMAP + FUNCTION)], {}, "_remap"),
    "in a new file": ([_CALLED, (FUNCTION, f"from ._remap import _remap\n{FUNCTION}")], {"_remap": _REMAP}, "_remap"),
    "handed over": ([(HANDED, HANDED.replace("_filter_fn,", "_remap,")), (FUNCTION, _REMAP + FUNCTION)], {}, "_remap"),
    "lambda": (
        [(HANDED, HANDED.replace("_filter_fn,", "lambda sd, m: sd['foo_encoder'],"))],
        {},
        "_create_vision_transformer",
    ),
    "constant": (
        [
            (FUNCTION, f"_NAMES = ('foo_encoder',)\n{FUNCTION}"),
            (BRANCH, f"    x = [n in state_dict for n in _NAMES]\n{BRANCH}"),
        ],
        {},
        "<module>",
    ),
}


@pytest.mark.parametrize(("edits", "files", "function"), HELPERS.values(), ids=HELPERS)
def test_what_a_converter_uses_is_named(planted, edits, files, function):
    """Functions of any name in this file and beside it, lambdas, constants."""
    assert list(planted(*edits, **files)) == [(function, "foo_encoder")]


NO_TESTS = {
    "message": "if not state_dict: raise ValueError(f'brand_new: {prefix}')",
    "log": "_logger.warning('brand_new %s' % prefix)",
    "attribute": "x = getattr(model, 'brand_new', hasattr(model, 'brand_old'))",
    "model": "x = model.brand_new == 'brand_new' or 'brand_new' in model.names",
    "keyword": "x = resample_patch_embed(v, (1, 1), interpolation='brand_new')",
    "configuration": "x = model.cfg['brand_new'] or getattr(model, 'cfg', {}).get('brand_new')",
    "new name": "out_dict['brand_new'] = 1",
    "key's new name": "for k in state_dict:\n        k = 'brand_new' if k == 'cls_token' else k",
    "key renamed": "state_dict = {k.replace('blocks.', 'brand_new.'): v for k, v in state_dict.items()}",
    "annotation": "def own(x: 'brand_new', y=0) -> 'brand_new': return f'{x:>9}{y}'",
    "assertion": "assert state_dict, 'brand_new'",
}


@pytest.mark.parametrize("code", NO_TESTS.values(), ids=NO_TESTS)
def test_what_is_no_test_is_not_named(planted, code):
    """Messages, attributes, options, annotations and new names are not looked for in a checkpoint."""
    assert not planted((BRANCH, f"    {code}\n{BRANCH}"))


@pytest.mark.parametrize(
    ("family", "texts"),
    [
        ("openai_clip", {"module.visual.class_embedding"}),
        ("perception_encoder", {"attn_pool.probe"}),
        ("openclip_trunk", {"module.visual.trunk.pos_embed"}),
    ],
)
def test_a_family_taken_away_is_named(monkeypatch, newest, family, texts):
    """What it alone generates is unknown without it."""
    present = {d.text for d in unknown_formats.uncovered(newest)}
    assert not texts & present
    left = {name: f for name, f in families.FAMILIES.items() if not name.startswith(family)}
    monkeypatch.setattr(families, "FAMILIES", left)
    assert texts <= {d.text for d in unknown_formats.uncovered(newest)}


def test_every_exception_is_needed(monkeypatch):
    """Without the table of strings that tell no format, exactly these are named."""
    folders = [unknown_formats.folder_of(spec) for spec in RELEASES]
    named = {(d.function, d.text) for folder in folders for d in unknown_formats.uncovered(folder)}
    exceptions = set(unknown_formats.NOT_A_FAMILY)
    monkeypatch.setattr(unknown_formats, "NOT_A_FAMILY", {})
    assert {(d.function, d.text) for folder in folders for d in unknown_formats.uncovered(folder)} - named == exceptions


def test_the_command_names_release_file_function_and_line(monkeypatch, capsys, newest):
    """One line a string, and exit 1."""
    unknown = unknown_formats.Detection("vision_transformer", 12, FILTER, "brand_new", "^brand_new$")
    monkeypatch.setattr(unknown_formats, "uncovered", lambda folder: [unknown])
    spec = f"path:{newest}"
    assert unknown_formats.main([spec]) == 1
    assert capsys.readouterr().out == f"{spec}  timm/models/vision_transformer.py:12  {FILTER}  'brand_new'\n"


def test_the_command_says_that_nothing_is_unknown(monkeypatch, capsys, newest):
    """One line, and exit 0; without targets, every release of the index from 0.9.0 on."""
    monkeypatch.setattr(unknown_formats, "uncovered", lambda folder: [])
    monkeypatch.setattr(unknown_formats, "folder_of", lambda spec: newest)
    listing = "timm (1.1.0)\nAvailable versions: 1.1.0, 0.10.0, 0.9.0, 0.8.5\n"
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: subprocess.CompletedProcess(a, 0, listing, ""))
    assert unknown_formats.main([]) == 0
    out = capsys.readouterr().out
    assert out.startswith("timm==0.9.0, timm==0.10.0, timm==1.1.0: ")
    assert out.count("\n") == 1


@pytest.mark.parametrize(
    ("specs", "says"), [([], "no network"), (["reference"], "is no timm"), (["timm==x"], "is no version")]
)
def test_the_commands_mistakes_are_one_line(monkeypatch, capsys, specs, says):
    """No network, or a target that has no filter functions: exit 2."""
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: subprocess.CompletedProcess(a, 1, "", "no network"))
    assert unknown_formats.main(specs) == 2
    err = capsys.readouterr().err
    assert says in err
    assert err.count("\n") == 1


def test_a_release_without_a_file_to_read_is_an_error(newest):
    """A renamed module must not silence the alarm."""
    with pytest.raises(UserError, match=r"no timm/models/gone\.py"):
        unknown_formats.detection_strings(newest, ["gone"])
