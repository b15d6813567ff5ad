"""What the reference computes stays on the device it is given, shown without one: fake tensors have devices and no values.

Two of different devices in one operation raise, as on CUDA; what values show is for :mod:`tests.test_pretend_cuda`.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from tests.small_vit import image_encoder
from tests.torch_internals import FakeTensorMode
from timm_conformance.cases.case import Geometry
from timm_conformance.cases.profiles import profile
from timm_conformance.drawing.drawing import Drawing
from timm_conformance.drawing.strategies import STRATA
from timm_conformance.families import FAMILIES, READ
from timm_conformance.reference import forward
from timm_conformance.reference.embeddings import (
    adapt_input_channels,
    resample_patch_kernel,
    resample_position_grid,
    resample_position_window,
)
from timm_conformance.reference.relative import (
    attention_bias,
    resize_axis_table,
    resize_bias_table,
    transpose_bias_table,
)
from timm_conformance.reference.resize import BICUBIC_ANTIALIAS
from timm_conformance.targets.caches import cache_clearers
from timm_conformance.trials.expectation import Expectation

# A GPU's own name would want a torch that is built for it.
ELSEWHERE = torch.device("lazy")


@pytest.fixture(autouse=True)
def _forget():
    """What is remembered meanwhile may be fake."""
    yield
    for forget in cache_clearers("timm_conformance.reference"):
        forget()


def _fake() -> FakeTensorMode:
    """Tensors made meanwhile are fake; matrices made before are taken for what they are."""
    return FakeTensorMode(allow_non_fake_inputs=True)


@pytest.mark.parametrize(
    ("resample", "shape", "becomes"),
    [
        (lambda t: resample_patch_kernel(t, (2, 3)), (8, 3, 4, 4), (8, 3, 2, 3)),
        (lambda t: resample_position_grid(t, (2, 2), (3, 1), 1), (1, 5, 8), (1, 4, 8)),
        (lambda t: resample_position_window(t, (2, 2), (3, 1), BICUBIC_ANTIALIAS), (1, 4, 8), (1, 3, 8)),
        (lambda t: resize_bias_table(t, (2, 2), (3, 1)), (9 + 3, 2), (5 + 3, 2)),
        (lambda t: resize_axis_table(t, 3), (3, 8), (5, 8)),
        (lambda t: transpose_bias_table(t, (2, 3)), (15, 2), (15, 2)),
        (lambda t: attention_bias(t, (2, 2)), (9, 2), (2, 4, 4)),
        (lambda t: adapt_input_channels(t, 4), (8, 3, 4, 4), (8, 4, 4, 4)),
    ],
    ids=["kernel", "grid", "window", "table", "axis", "transposed", "bias", "channels"],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=["float32", "float16"])
def test_resampling_keeps_device_and_dtype(
    resample: Callable, shape: tuple, becomes: tuple, dtype: torch.dtype
) -> None:
    assert resample(torch.zeros(shape, dtype=dtype)).device.type == "cpu"  # and the matrices are made
    with _fake():
        got = resample(torch.zeros(shape, dtype=dtype, device=ELSEWHERE))
    assert (got.device, got.dtype, tuple(got.shape)) == (ELSEWHERE, dtype, becomes)


def test_the_identity_in_place_of_a_classifier_is_made_on_the_device() -> None:
    state, case = image_encoder(Geometry((1, 1), (2, 2)), "hybrid_convstem", no_embed_class=True, num_classes=0)
    with _fake() as mode:
        held = {k: mode.from_tensor(v).to(ELSEWHERE) for k, v in state.items()}
        image = torch.zeros(1, 3, *FAMILIES["hybrid_convstem"].img_size(case.arch, case.source), device=ELSEWHERE)
        assert forward(held, image, case.arch).device == ELSEWHERE


@pytest.mark.parametrize("name", READ)
def test_a_forward_keeps_the_device(name: str) -> None:
    """Of each family's checkpoints."""
    family = FAMILIES[name]
    native = next(s for s in STRATA if s.native)
    for case in Drawing(profile("gate"), 0, focused=False).cases(family)[native]:
        whole = Expectation(family, case)
        with _fake() as mode:
            held = {k: mode.from_tensor(v).to(ELSEWHERE) for k, v in whole.upstream.items()}
            held = {k: v.float() if v.is_floating_point() else v for k, v in held.items()}
            image = torch.zeros(
                1, case.arch.get("in_chans", 3), *family.img_size(case.arch, case.source), device=ELSEWHERE
            )
            out = whole.format.forward(held, image, {**case.arch, **family.forward_arch(case)})
            assert out.device == ELSEWHERE
