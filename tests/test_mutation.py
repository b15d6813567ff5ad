"""The mutation engine: what it changes, that it changes it in place, and that it tells what survives."""

from __future__ import annotations

import os
import sys
import textwrap
import time
import types
from functools import cache

import msgspec
import pytest
from click.testing import CliRunner
from packaging.version import Version

from timm_conformance.cases.profiles import profile
from timm_conformance.cli.main import main
from timm_conformance.drawing.drawing import Drawing
from timm_conformance.errors import UserError
from timm_conformance.ledger.entries import DEFAULT_LEDGER, load_ledger
from timm_conformance.mutation import command, equivalents, forks, format_tables, killing, loader_operators
from timm_conformance.mutation.functions import Function, _called, _defined, _named, loader_functions
from timm_conformance.mutation.line_coverage import Lines, header
from timm_conformance.mutation.mutants import mutants_of
from timm_conformance.mutation.operators import OPERATORS, changes
from timm_conformance.mutation.protocol import WorkerMessage
from timm_conformance.mutation.score import Fate, Judged, Mutant, Score, read
from timm_conformance.targets.caches import cache_clearers
from timm_conformance.targets.loader import Loader
from timm_conformance.targets.target import parse_target

# For each operator of the catalogue a line, and one of the lines it becomes.
CHANGES = {
    "early-return": ("state_dict = _convert(state_dict, model)", "return _convert(state_dict, model)"),
    "statement-removed": ("v = v * 2", "pass"),
    "condition-forced": ("if a:\n    b = 1", "if not (a):\n    b = 1"),
    "filter-dropped": ("d = {k: v for k, v in d.items() if k}", "d = {k: v for k, v in d.items()}"),
    "branches-swapped": ("if a:\n    x = 1\nelif b:\n    x = 2", "if b:\n    x = 2\nelif a:\n    x = 1"),
    "elif-made-if": (
        "if a:\n    x = 1\nelif b:\n    x = 2",
        "if True:\n    if a:\n        x = 1\n    if b:\n        x = 2",
    ),
    "operand-dropped": ("x = a or b", "x = b"),
    "comparison-one-sided": ("x = a != b", "x = a < b"),
    "pair-swapped": ("x = torch.cat([q, k, v])", "x = torch.cat([q, v, k])"),
    "arguments-swapped": ("x = x.reshape(1, h, w)", "x = x.reshape(1, w, h)"),
    "keyword-values-swapped": ("x = f(new=a, old=b)", "x = f(new=b, old=a)"),
    "layout-dropped": ("x = y.T", "x = y"),
    "method-dropped": ("x = y.flatten(1)", "x = y"),
    "method-in-place": ("v = v.unsqueeze(0)", "v = v.unsqueeze_(0)"),
    "input-emptied": (
        "for k, v in d.items():\n    out[k] = v",
        "for k, v in list(d.items()):\n    d.pop(k)\n    out[k] = v",
    ),
    "sum-dropped": ("x = cls + pos[:, :1]", "x = cls"),
    "slice-shifted": ("k = k[len(p):]", "k = k[len(p) + 1:]"),
    "prefix-count": ("num_prefix_tokens = n", "num_prefix_tokens = (n) + 1"),
    "pinv-transposed": ("x = torch.linalg.pinv(m.T)", "x = torch.linalg.pinv(m)"),
    "other-mode": ("mode = 'bicubic'", "mode = 'bilinear'"),
    "half-precision": ("x = x.to(dtype)", "x = x.half().to(dtype)"),
    "prefix-anywhere": ("x = k.startswith(p)", "x = k.endswith(p)"),
}


def _function(body: str) -> str:
    return "def f(a):\n" + textwrap.indent(body, "    ") + "\n"


def test_every_operator_of_the_catalogue_has_an_example_here():
    """None is forgotten."""
    assert {f.__name__.replace("_", "-") for _, f in loader_operators.CATALOGUE} == CHANGES.keys()


@pytest.mark.parametrize("name", CHANGES)
def test_an_operator_changes_what_it_says(name):
    """And nothing else of the function."""
    before, after = CHANGES[name]
    assert _function(after) in [source for operator, source in changes(_function(before)) if operator == name]


def test_general_operators_are_mutmuts():
    """Their names are in the report."""
    names = [name for name, _, _ in OPERATORS]
    assert {"arg-removal", "number", "string", "swap-op"} < set(names)
    assert ("number", "def f(a):\n    x = 2\n") in list(changes("def f(a):\n    x = 1\n"))


@pytest.mark.parametrize(
    "line",
    ["_logger.info(f'{a} of {b}')", "import re", "'''a docstring'''", "x: Optional[int]", "print('a', a)"],
)
def test_what_is_only_said_is_not_changed(line):
    """Messages, imports, annotations and docstrings decide nothing."""
    assert list(changes(_function(line))) == []


def test_a_raise_may_be_left_out_and_not_worded_anew():
    """An invariant asks for the refusal, none for its wording."""
    assert list(changes(_function("raise ValueError('no')"))) == [("statement-removed", _function("pass"))]


def doubled(x, *, by: int = 2):
    """A function to change."""
    if x > 0:
        return x * by
    return 0


def test_a_function_is_another_while_it_is_a_mutant_and_itself_again_afterwards():
    """Whoever imported it has the mutant: the object stays the same. Defaults are changed with the code."""
    function = Function("here:doubled", doubled)
    held = doubled
    (mutant,) = [m for m in mutants_of(function) if m.before.endswith("by: int = 2):")]
    assert mutant.line == doubled.__code__.co_firstlineno
    with function.replaced_by(mutant.source):
        assert held(5) == 15
    assert held(5) == 10


def test_mutants_differ_from_the_function_and_from_each_other():
    """Two operators that change the same are one mutant, one that changes nothing is none."""
    mutants = list(mutants_of(Function("here:doubled", doubled)))
    assert len({m.source for m in mutants}) == len(mutants)
    assert {m.after for m in mutants} >= {"return x / by", "if x >= 0:", "if True:", "return 1"}
    assert all(m.source != Function("here:doubled", doubled).source for m in mutants)


def test_a_function_may_be_mutated_from_some_line_on():
    """What comes before, another door's part, is another question."""
    first, *_ = mutants = list(mutants_of(Function("here:doubled", doubled, mutated_from="return 0")))
    assert {m.before for m in mutants} == {"return 0"}
    assert first.line == doubled.__code__.co_firstlineno + 4


def test_the_lines_of_a_case_say_which_mutants_it_comes_past():
    """Of a compound statement the condition counts, not what is in it."""
    first = doubled.__code__.co_firstlineno
    function = Function("here:doubled", doubled)
    with Lines([function]) as lines:
        doubled(-1)
    assert {line - first for _, line in lines.seen} == {2, 4}
    assert list(header(function, first + 2, first + 2)) == [first + 2]
    assert list(header(function, first, first))[-1] == first + 4


def test_called_functions_of_the_package_are_found():
    """What a loader calls of its own package belongs to it; what it calls of others does not."""
    from tests import mutated_loader

    assert _called([mutated_loader.convert], ("tests",)) == [mutated_loader.convert, mutated_loader.prefixed]


def test_a_format_is_made_again_of_a_changed_table_and_is_itself_again_afterwards():
    """Its rules were made when it was imported: changing what made them would change nothing. Others that use it change, too."""
    (tower,) = [
        f
        for f in _named(_defined("timm_conformance.reference"), "timm_conformance.reference.")
        if f.name == "formats.openai_clip:tower"
    ]
    before = dict(format_tables.FORMATS)
    with format_tables.changed_tables(tower, tower.source.replace('"norm_pre.{p}"', '"norm_gone.{p}"')):
        made = {
            name for name, form in format_tables.FORMATS.items() if any("norm_gone" in str(rule) for rule in form.rules)
        }
        assert list(format_tables.FORMATS) == list(before)
    assert {"openai_clip", "openai_clip_ddp", "perception_encoder"} <= made
    assert "eva" not in made
    assert before == format_tables.FORMATS
    lines = format_tables.lines_of([tower])
    assert {name for name, seen in lines.items() if seen} == made


def _act(works):
    for work in works:
        if work == "die":
            os._exit(3)
        if work == "hang":
            time.sleep(60)
        if work == "leave":
            return
        yield work * 2


def test_copies_answer_and_what_one_dies_of_or_hangs_on_is_told():
    """The works after it are done by another copy."""
    works = ["a", "die", "b", "hang", "c"]
    done = list(forks.each(_act, works, jobs=1, seconds=lambda work: 2, many=3))
    assert sorted(done) == sorted(
        [("a", "aa", ""), ("die", None, "crash"), ("b", "bb", ""), ("hang", None, "timeout"), ("c", "cc", "")]
    )


def test_a_copy_may_leave_the_rest_to_the_next():
    """A mutant that left something behind ends its copy."""

    def one(works):
        yield works[0] * 2

    assert [answer for _, answer, _ in forks.each(one, "abc", jobs=2, seconds=lambda work: 5, many=3)] == [
        "aa",
        "bb",
        "cc",
    ]


MUTANT = Mutant("layers.x:f", "number", 7, 1, "a = b[0] * 2", "a = b[1] * 2", "def f(): ...")


def _judged(*killers, end="", why=""):
    return Judged(MUTANT, Fate(list(killers), 1, 3, end), why)


def test_the_score_counts_what_is_not_equivalent():
    """A listed mutant that an invariant kills is refuted, and one that hangs is killed."""
    judged = [_judged("linear"), _judged("linear", "finite"), _judged(end="timeout"), _judged(), _judged(why="so")]
    score = Score("t", {"layers.x:f": 6}, [*judged, _judged("finite", why="so")])
    assert score.counts == {"killed": 3, "survived": 1, "equivalent": 1, "refuted": 1}
    assert score.share == 4 / 5
    assert score.kills == {"linear": (2, 1), "finite": (2, 1)}
    assert score.complete
    assert not Score("t", {"layers.x:f": 9}, judged).complete


@pytest.mark.parametrize(
    ("functions", "before", "after", "covered"),
    [
        (["layers.x:f"], ["a = b[0] * 2"], [], True),
        (["layers.*"], ["a = *"], ["*b[1]*"], True),
        (["layers.x:g"], ["a = *"], [], False),
        (["*"], ["a = b"], [], False),
        (["*"], ["*"], ["a = b[2]*"], False),
    ],
)
def test_an_entry_covers_what_it_names(functions, before, after, covered):
    """A star is any text, brackets are brackets."""
    entry = equivalents.Equivalent(functions=functions, before=before, after=after, why="so")
    assert entry.covers(MUTANT) is covered
    assert equivalents.reason(MUTANT, [entry]) == ("so" if covered else "")


@pytest.mark.parametrize(("under", "covered"), [("if c:", True), ("if *", True), ("else:", False)])
def test_the_line_above_tells_lines_of_one_text_apart(under, covered):
    """Where a function has the same line twice."""
    entry = equivalents.Equivalent(functions=["*"], before=["a = *"], under=[under], why="so")
    assert entry.covers(msgspec.structs.replace(MUTANT, under="if c:")) is covered


def test_an_entry_may_be_of_some_releases(tmp_path):
    """The same line may matter in others."""
    path = tmp_path / "equivalents.toml"
    path.write_text("[[equivalent]]\nfunctions = ['a']\nbefore = ['b']\nwhy = 'so'\nreleases = '>=1.0.17'")
    assert [len(equivalents.load(path, r and Version(r))) for r in ("1.0.16", "1.0.17", None)] == [0, 1, 1]


_SOMETIMES = "[[equivalent]]\nfunctions = ['a']\nbefore = ['b']\nwhy = 'so'\nreleases = 'newer'"


@pytest.mark.parametrize(
    "text",
    ["[[equivalent]]\nfunctions = ['a']\nbefore = ['b']\nwhy = ' '", "[[equivalent]]\nnope = 1", "=", None, _SOMETIMES],
)
def test_a_list_that_cannot_be_read_or_argues_nothing_is_refused(tmp_path, text):
    """In one line that names the file."""
    path = tmp_path / "equivalents.toml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=r"equivalents\.toml: "):
        equivalents.load(path)


def test_the_projects_list_can_be_read():
    """Every entry argues."""
    assert all(entry.why.strip() for entry in equivalents.load())


def _run(*arguments, family="openai_clip"):
    return CliRunner().invoke(main, ["mutants", "--family", family, *map(str, arguments)])


def test_survivors_are_shown_with_the_line_they_change(tmp_path):
    """A branch nothing takes survives, a broken condition does not; exit code 1, and the matrix on disk."""
    target = "loader:tests.mutated_loader:convert"
    done = _run(target, "--function", "*:prefixed", "--profile", "smoke", "--jobs", 2, "--out", tmp_path)
    assert done.exit_code == 1, done.output
    assert '+ elif "XXnobody_writes_thisXX" in checkpoint:' in done.output
    assert "% of" in done.output
    (folder,) = tmp_path.iterdir()
    judged = [msgspec.json.decode(line, type=Judged) for line in (folder / "mutants.ndjson").read_bytes().splitlines()]
    after = {outcome: {j.mutant.after for j in judged if j.outcome == outcome} for outcome in ("killed", "survived")}
    assert "if True:" in after["killed"] - after["survived"]
    assert 'elif "XXnobody_writes_thisXX" in checkpoint:' in after["survived"] - after["killed"]
    assert "strict-load" in (folder / "mutants.html").read_text()
    assert "## Survivors" in (folder / "mutants.md").read_text()


def test_what_was_judged_outlives_a_run_that_is_cut_off(tmp_path, monkeypatch):
    """A line a mutant, as soon as it is judged; a run that does not start leaves an earlier one's lines alone."""
    judged = [_judged("linear"), _judged()]

    def cut_off(started):
        yield from (
            [WorkerMessage({MUTANT.function: 3}, 5), *(WorkerMessage(judged=j) for j in judged)] if started else []
        )
        raise UserError("the worker is gone")

    for started in (True, False):
        monkeypatch.setattr(command, "_messages", lambda request, started=started: cut_off(started))
        done = _run("reference", "--out", tmp_path)
        assert (done.exit_code, "the worker is gone" in done.output) == (2, True)
        lines = (tmp_path / "reference" / command.LINES).read_bytes().splitlines()
        assert [msgspec.json.decode(line, type=Judged) for line in lines] == judged


def test_what_survives_the_first_cases_and_not_the_others_is_killed(tmp_path, monkeypatch):
    """It is told twice, and counts once."""
    told = [
        WorkerMessage({MUTANT.function: 1}, 5),
        WorkerMessage(judged=_judged()),
        WorkerMessage(judged=_judged("linear")),
    ]
    monkeypatch.setattr(command, "_messages", lambda request: iter(told))
    assert _run("reference", "--out", tmp_path).exit_code == 0
    assert list(read(tmp_path / "reference" / command.LINES)) == [_judged("linear")]


def test_a_run_is_gone_on_with(tmp_path):
    """What was killed, or is of other functions, is kept as it was; what survived is judged again, a cut-off line too."""
    target, few = "loader:tests.mutated_loader:convert", ["--profile", "smoke", "--jobs", 2, "--out", tmp_path]
    assert _run(target, "--function", "*:prefixed", *few).exit_code == 1
    (folder,) = tmp_path.iterdir()
    marked = [
        msgspec.structs.replace(j, fate=msgspec.structs.replace(j.fate, judged=999))
        for j in read(folder / command.LINES)
    ]
    elsewhere = msgspec.structs.replace(marked[0], mutant=msgspec.structs.replace(MUTANT, function="gone:f"))
    moved = [msgspec.structs.replace(j, mutant=msgspec.structs.replace(j.mutant, line=1)) for j in marked]
    *whole, last = [msgspec.json.encode(j) for j in [elsewhere, *moved]]
    (folder / command.LINES).write_bytes(b"\n".join([*whole, last[:-9]]))
    assert _run(target, "--function", "*:nothing", *few, "--resume").exit_code == 1
    assert list(read(folder / command.LINES)) == marked[:-1]
    assert _run(target, "--function", "*:prefixed", *few, "--resume").exit_code == 1
    judged = list(read(folder / command.LINES))
    assert {j.mutant for j in judged} == {j.mutant for j in marked}
    for j in judged:
        again = j.outcome == "survived" or j.mutant == marked[-1].mutant
        assert (j.fate.judged != 999) is again
    assert {j.outcome for j in judged} == {"killed", "survived"}


def test_what_the_reference_gets_wrong_on_both_sides_timm_tells(monkeypatch):
    """Its kernel is the loader's and the oracle's: only another implementation differs."""
    monkeypatch.setattr(killing.project_tests, "measure_tests", lambda functions: {})
    drawing = Drawing(profile("smoke"), 0, focused=False)
    subject = killing.MutantJudge(
        Loader(parse_target("reference")), load_ledger(DEFAULT_LEDGER), drawing, ["openai_clip"]
    )
    subject.prepare()
    mutant = next(m for m in subject.mutants("resize:_antialiased".__eq__) if "_cubic(x, -1.5)" in m.after)
    assert next(subject.judge_mutants([mutant], subject.reached)).killed
    monkeypatch.setattr(subject, "_explorers", [subject.explorer])
    assert not next(subject.judge_mutants([mutant], subject.reached)).killed
    reached = subject.reached(mutant)
    for few in (2, len(reached)):
        monkeypatch.setattr(killing, "_FEW", few)
        assert subject.quickest(reached) == reached[:few]


def test_what_functions_remember_is_forgotten(monkeypatch):
    """In the packages named, and in no other whose name begins so."""
    for name in ("pack", "pack.inner", "packed"):
        module = types.ModuleType(name)
        module.remembers = cache(lambda x: [x])
        monkeypatch.setitem(sys.modules, name, module)
    before = {name: sys.modules[name].remembers(1) for name in ("pack", "pack.inner", "packed")}
    for forget in cache_clearers("pack"):
        forget()
    assert [n for n, value in before.items() if sys.modules[n].remembers(1) is value] == ["packed"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--family", "openai_klip"], "did you mean 'openai_clip'?"),
        (["timm=1"], "unknown target 'timm=1'"),
        (["--profile", "gat"], "did you mean 'gate'?"),
        (["loader:tests.fakes:returns_early", "--profile", "smoke"], "the clean loader fails"),
    ],
)
def test_mistakes_are_one_line(tmp_path, arguments, said):
    """Exit code 2."""
    done = _run(*arguments, "--out", tmp_path)
    assert done.exit_code == 2
    assert said in done.output
    assert "Traceback" not in done.output


def test_what_reads_files_and_what_resizes_is_mutated_if_a_case_runs_it() -> None:
    found = {f.name: f for f in loader_functions(Loader(parse_target("timm==1.0.31")))}
    resizing = {
        "models.vision_transformer:VisionTransformer.set_input_size",
        "models.vision_transformer:VisionTransformer._pos_embed",
        "models.eva:Eva.set_input_size",
        "models.swin_transformer:SwinTransformer.set_input_size",
        "models.naflexvit:NaFlexEmbeds._apply_learned_naflex_pos_embed",
        "layers.patch_embed:PatchEmbed.set_input_size",
    }
    reading = {
        "models._builder:_resolve_pretrained_source",
        "models._helpers:clean_state_dict",
        "models._helpers:load_state_dict",
        "models._helpers:load_checkpoint",
        "models._hub:load_state_dict_from_path",
    }
    assert resizing | reading <= found.keys()
    assert all(found[name].if_run for name in resizing | reading)
    assert not found["models.vision_transformer:checkpoint_filter_fn"].if_run
    resize = found["layers.patch_embed:PatchEmbed.set_input_size"]
    file = resize.function.__code__.co_filename
    assert resize.is_run({(file, resize.line + 8)})
    assert not resize.is_run({(file, resize.line), (file, 1), ("elsewhere", resize.line + 8)})
