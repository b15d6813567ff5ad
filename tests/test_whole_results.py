"""Nothing truncated passes: results that were cut off, files that cannot be written, interrupts, readers that go away."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.report_results import NEW, header, verdict
from timm_conformance.cli.main import main
from timm_conformance.results import records
from timm_conformance.results.records import Footer, Results
from timm_conformance.results.writing import write_whole

COMMAND = [sys.executable, "-m", "timm_conformance.cli.main"]


def stored(folder: Path) -> Path:
    """A folder with results in which everything passes."""
    folder.mkdir()
    found = [header(NEW, families=["deit"], invariants={"repeatable": []})]
    found += [verdict(NEW, "deit", "repeatable", "pass", regimes={"any": 10}), Footer(1.0)]
    Results(found).write(folder / "results.ndjson")
    return folder


def code(*arguments: object) -> int:
    """The exit code of a command."""
    return CliRunner().invoke(main, [str(a) for a in arguments]).exit_code


def test_results_that_were_cut_off_do_not_pass(tmp_path: Path) -> None:
    """At any byte after the header; and what is written of them is cut off as well."""
    whole = stored(tmp_path / "whole")
    assert code("report", whole) == 0
    content = (whole / "results.ndjson").read_bytes()
    lines = content.splitlines(keepends=True)
    start = len(lines[0])
    for end in (start, start + 5, len(content) - len(lines[-1]), len(content) - 2):
        cut = tmp_path / f"cut{end}"
        cut.mkdir()
        (cut / "results.ndjson").write_bytes(content[:end])
        for _ in range(2):  # the second time it reads what the first has written
            assert code("report", cut) in (2, 3), end
        assert code("merge", cut, "-o", tmp_path / f"merged{end}") in (2, 3)
        assert code("report", tmp_path / f"merged{end}") in (2, 3)
        assert code("diff", whole, cut) == 3
    assert code("diff", whole, whole) == 0


def test_merge_does_not_write_over_what_it_reads(tmp_path: Path) -> None:
    one, other = stored(tmp_path / "one"), stored(tmp_path / "other")
    done = CliRunner().invoke(main, ["merge", str(one), str(other / "results.ndjson"), "-o", str(other)])
    assert done.exit_code == 2
    assert "holds results that are to be merged" in done.output


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_whole(path, "before")

    def full(self: Path, content: bytes) -> int:
        with open(self, "wb") as file:
            file.write(content[:3])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        write_whole(path, "after that")
    assert path.read_text() == "before"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    whole = CliRunner().invoke(main, ["report", str(_unfinished(tmp_path / "results"))])
    assert (whole.exit_code, "No space left" in whole.output, "Traceback" in whole.output) == (2, True, False)


def _unfinished(folder: Path) -> Path:
    """A folder of results, written without what is tested here."""
    folder.mkdir()
    lines = [header(NEW, families=["deit"], invariants={"repeatable": []}), verdict(NEW, "deit", "repeatable", "pass")]
    with open(folder / "results.ndjson", "wb") as file:
        file.writelines(map(records.encode, lines))
    return folder


def test_an_interrupt_ends_with_130_and_keeps_what_was_judged(tmp_path: Path) -> None:
    arguments = ["run", "reference", "--family", "deit", "--family", "dinov2", "--profile", "deep", "--jobs", "1"]
    out = tmp_path / "out"
    process = subprocess.Popen(
        [*COMMAND, *arguments, "--out", str(out)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    deadline = time.monotonic() + 120
    while not any(p.stat().st_size for p in out.glob("parts/*.ndjson")):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=60)[0]
    assert process.returncode == 130, said
    assert "interrupted: what was judged is kept, and --resume goes on with the rest" in said
    assert (out / "results.ndjson").is_file()
    assert "Traceback" not in said


def test_a_reader_that_goes_away_is_no_failure() -> None:
    listing = subprocess.Popen(
        [*COMMAND, "list", "families", "--format", "json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert listing.stdout is not None
    assert listing.stderr is not None
    listing.stdout.close()
    said = listing.stderr.read()
    assert listing.wait(60) == 141, said
    assert b"Traceback" not in said
