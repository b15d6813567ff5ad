"""Every format's forward against the models of timm that load it, on more architectures than a gate draws."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from packaging.version import Version

from timm_conformance.cases.case import Case, Contents
from timm_conformance.cases.profiles import profile
from timm_conformance.drawing.drawing import Drawing
from timm_conformance.drawing.strategies import cases, strata_of
from timm_conformance.engine.explorer import Explorer
from timm_conformance.engine.judging import judge
from timm_conformance.families import FAMILIES, READ, Family
from timm_conformance.invariants import INVARIANTS
from timm_conformance.ledger.entries import DEFAULT_LEDGER, load_ledger
from timm_conformance.reference import forward
from timm_conformance.targets.loader import Loader
from timm_conformance.targets.target import MODEL_RELEASE, parse_target
from timm_conformance.trials.trial import Trial

_TOKENS = 36
# No release loads these, as the ledger has it. Their forward is that of timm_native, openai_clip or eva_openclip_trunk.
_UNLOADED = ("ijepa_without_ddp", "mae_pretraining", "openclip_tower", "eva_openclip_projection")


# The release the gate takes models from, and what is known of it.
_RELEASE = parse_target(f"timm=={MODEL_RELEASE}")


@pytest.fixture(scope="module")
def explorer() -> Explorer:
    drawing = Drawing(profile("smoke"), 0, focused=False)
    return Explorer(Loader(_RELEASE), load_ledger(DEFAULT_LEDGER), INVARIANTS.values(), drawing)


def _native(family: Family) -> st.SearchStrategy[Case]:
    """Random tensors at the geometry of the checkpoint, which is small."""

    def small(case: Case) -> Case:
        return replace(case, destination=case.source, contents=Contents("normal", case.contents.seed), in_chans=None)

    return cases(family, strata_of(family)[0]).filter(lambda case: case.source.tokens <= _TOKENS).map(small)


@pytest.mark.parametrize(
    "name", [n for n, f in READ.items() if n not in _UNLOADED and f.supported_by(Version(MODEL_RELEASE))]
)
def test_a_forward_computes_what_timms_model_computes(name: str, explorer: Explorer) -> None:
    """Or what the ledger says of it; and detected as any checkpoint, it is the same forward."""
    family, invariant, passed = FAMILIES[name], INVARIANTS["native-forward"], []

    @settings(
        max_examples=30,
        phases=[Phase.generate],
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(_native(family))
    def check(case: Case) -> None:
        trial = Trial(family, case, explorer.loader)
        judgement = judge(invariant, trial)
        assume(judgement.outcome not in ("blocked", "not-applicable"))
        new = [p for p in judgement.problems if explorer.attribute(trial, invariant, p) is None]
        assert judgement.outcome != "error", judgement.reason
        assert not new, case
        if judgement.outcome == "pass":
            passed.append(case)
            state = {k: v.double() if v.is_floating_point() else v for k, v in trial.upstream.items()}
            image = torch.randn(1, case.arch.get("in_chans", 3), *family.img_size(case.arch, case.source)).double()
            found = forward(state, image, {**case.arch, **family.forward_arch(case)})
            assert torch.equal(found, trial.upstream_output(image))

    check()
    assert len(passed) > 10
