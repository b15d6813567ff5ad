"""The fuzzer: what it feeds our code finds nothing, and it does find, shrink and write down what is planted."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fuzz.__main__ import again
from tests.fuzz.session import Session
from tests.fuzz.watch import Limits, Outcome, watched
from timm_conformance import reference
from timm_conformance.errors import UserError
from timm_conformance.reference import LoadError

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning", "ignore::SyntaxWarning")
_LIMITS = Limits(seconds=1, memory=2**26)


def test_a_short_search_finds_nothing(tmp_path: Path) -> None:
    session = Session(3, tmp_path)
    while session.counts["refused"] <= 5 or not session.counts["done"]:  # however slow the machine
        session.look(8)
        assert not session.findings, session.summary()
    assert "nothing found" in session.summary()
    assert not list(tmp_path.iterdir())


def _raise(*_: object) -> None:
    raise KeyError("planted")


def _loop(*_: object) -> None:
    while True:
        pass


def _allocate(*_: object) -> None:
    bytearray(2**27)[:: os.sysconf("SC_PAGE_SIZE")] = b"x" * (2**27 // os.sysconf("SC_PAGE_SIZE"))


@pytest.mark.parametrize(
    ("bug", "kind", "where"),
    [(_raise, "raised", "KeyError in "), (_loop, "hung", "_Hung in "), (_allocate, "grew", "")],
)
def test_a_planted_bug_is_found_written_down_and_shown_again(
    bug: Callable, kind: str, where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reference, "load_state_dict", bug)
    session = Session(0, tmp_path, limits=_LIMITS, shrinking=1)
    while not session.findings:  # however slow the machine
        session.look(2)
    ((found, place),) = session.findings
    assert found == kind
    assert place.startswith(where)
    (folder,) = session.findings.values()
    assert f"python -m tests.fuzz --again {folder}" in session.summary()
    assert again(folder, _LIMITS).kind == kind
    monkeypatch.undo()
    assert not again(folder).is_finding


@pytest.mark.parametrize("shrinking", [0, 3])
def test_a_finding_is_made_smaller_while_there_is_time(shrinking: float, tmp_path: Path) -> None:
    fed = tmp_path / "fed"

    def feed(path: Path, _: object) -> str:
        with fed.open("ab") as file:
            file.write(b".")
        if path.stat().st_size > 1000:
            raise IndexError
        return ""

    session = Session(1, tmp_path / "out", feed, shrinking=shrinking)
    while not session.findings:
        session.look(3)
    (folder,) = session.findings.values()
    (size,) = [p.stat().st_size for p in folder.iterdir() if p.stem in ("checkpoint", "witness", "case", "results")]
    assert size > 1000
    assert (fed.stat().st_size > sum(session.counts.values())) is bool(shrinking)


# -- the watch -------------------------------------------------------------------------------------------------------


def _refuse(error: type[Exception], text: str) -> Callable[[], str]:
    def work() -> str:
        raise error(text)

    return work


@pytest.mark.parametrize("error", [UserError, LoadError])
def test_one_line_is_a_refusal_and_anything_else_is_muttered(error: type[Exception]) -> None:
    assert watched(_refuse(error, "a line")) == Outcome("refused", "no function of ours", "a line")
    for text in ("", "two\nlines", "\x1b[2J"):
        outcome = watched(_refuse(error, text))
        assert (outcome.kind, outcome.text, outcome.is_finding) == ("muttered", text, True)


def test_work_that_is_done_says_what_it_found() -> None:
    outcome = watched(lambda: "text")
    assert outcome == Outcome("done", text="text")
    assert not outcome.is_finding


def test_a_process_that_dies_is_told_from_one_that_hangs() -> None:
    assert watched(lambda: os._exit(7)).kind == "died"
    assert watched(lambda: time.sleep(60) or "", Limits(seconds=0.2)).kind == "hung"
