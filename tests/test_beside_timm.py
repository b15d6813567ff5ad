"""A failure of somebody's own loader says whether timm fails in the same way, and which known bug that is."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from tests import fakes
from timm_conformance import run_conformance
from timm_conformance.cli import main as cli
from timm_conformance.targets.target import MODEL_RELEASE


def timms_own(checkpoint, model):
    """A loader that is a copy of timm's."""
    from timm.models.vision_transformer import checkpoint_filter_fn

    return checkpoint_filter_fn(checkpoint, model)


def _failures(loader, family, invariant):
    found = run_conformance(loader, families=[family], invariants=[invariant], profile="smoke", timm=MODEL_RELEASE)
    return [failure for verdict in found.verdicts for failure in verdict.failures]


@pytest.mark.parametrize(
    ("family", "invariant", "entry"),
    [
        ("openclip_trunk", "native-identity", "trunk-projection-bias-dropped"),
        ("dinov2", "input-unmodified", "dinov2-pops-callers-keys"),
    ],
)
def test_a_copy_of_timms_loader_is_told_timms_bug(family, invariant, entry):
    failures = _failures(timms_own, family, invariant)
    assert failures
    for failure in failures:
        assert failure.same_as.startswith(f"timm {MODEL_RELEASE} does the same: {entry} (")


@pytest.mark.parametrize("loader", [fakes.returns_early, fakes.drops_a_bias], ids=lambda f: f.__name__)
def test_a_failure_that_this_timm_does_not_show_names_no_bug(loader):
    """Also not where an older release had it: nobody has run that release on the case."""
    failures = _failures(loader, "openai_clip", "strict-load")
    assert failures
    assert {failure.same_as for failure in failures} == {""}


def test_the_command_line_and_every_report_say_it(tmp_path):
    arguments = ["--family", "openclip_trunk", "--invariant", "native-identity", "--profile", "smoke"]
    target = f"loader:{__name__}:timms_own"
    done = CliRunner().invoke(
        cli.main, ["run", target, *arguments, "--out", str(tmp_path), "--junit", str(tmp_path / "j.xml")]
    )
    assert done.exit_code == 1, done.output
    said = f"timm {MODEL_RELEASE} does the same: trunk-projection-bias-dropped"
    assert said in done.output
    for name in ("results.ndjson", "summary.md", "report.html", "j.xml"):
        assert said in (tmp_path / name).read_text(encoding="utf-8"), name
