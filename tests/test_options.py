"""What a caller may ask of a load: the model's own classifier, another resampling."""

from __future__ import annotations

from functools import cache

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.small_vit import GEOMETRY, OPTIONS, geometry_of, image_encoder, model, refusal
from timm_conformance.cases.case import Geometry
from timm_conformance.checkpoints import state_dicts
from timm_conformance.families import FAMILIES
from timm_conformance.reference import BICUBIC_ANTIALIAS, BILINEAR, FORMATS, Resampling, load_state_dict
from timm_conformance.trials.problems import exact_differences

KERNEL = "patch_embed.proj.weight"


# -- the classifier ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["timm_native", "openai_clip", "deit_distilled", "google_npz", "mobileclip"])
@pytest.mark.parametrize("classes", [7, 3])
def test_a_model_may_keep_its_own_classifier(family: str, classes: int) -> None:
    geometry, options = geometry_of(family), OPTIONS[family]
    upstream, case = image_encoder(geometry, family, **options)
    truth = state_dicts.truth(FAMILIES[family], case)
    destination = model(geometry, family, **(options | {"num_classes": classes}))
    heads = [k for k in destination.state_dict() if k.startswith("head")]
    assert len(heads) == (4 if family == "deit_distilled" else 2)
    for n, name in enumerate(heads):
        destination.get_parameter(name).detach().fill_(n + 5.0)
    own = {k: v.clone() for k, v in destination.state_dict().items() if k in heads}
    state = load_state_dict(upstream, destination, keep_classifier=True)
    assert not exact_differences({k: v for k, v in truth.items() if k not in heads} | own, state)
    destination.load_state_dict(state, strict=True)


@pytest.mark.parametrize("family", ["timm_native", "deit_distilled"])
def test_a_classifier_of_other_classes_is_refused_unless_the_model_keeps_its_own(family: str) -> None:
    upstream, _ = image_encoder(GEOMETRY, family, **OPTIONS[family])
    other = model(GEOMETRY, family, **(OPTIONS[family] | {"num_classes": 7}))
    text = refusal(upstream, other)
    assert "does not fit the model: head.weight is (3, 8), the model has (7, 8)" in text
    assert ("head_dist.weight is (3, 8), the model has (7, 8)" in text) == (family == "deit_distilled")


def test_a_model_keeps_its_classifier_where_the_checkpoint_has_none_and_goes_without_where_it_has_none() -> None:
    headless, _ = image_encoder(GEOMETRY, num_classes=0)
    assert "missing: head.weight, head.bias" in refusal(headless, model(GEOMETRY))
    assert load_state_dict(headless, model(GEOMETRY), keep_classifier=True)["head.weight"].shape == (3, 8)
    upstream, _ = image_encoder(GEOMETRY)
    state = load_state_dict(upstream, model(GEOMETRY, num_classes=0), keep_classifier=True)
    assert not exact_differences({k: v for k, v in upstream.items() if not k.startswith("head.")}, state)


def test_nothing_of_the_checkpoints_classifier_stays_beside_the_models_own() -> None:
    upstream, _ = image_encoder(GEOMETRY)
    unbiased = model(GEOMETRY)
    unbiased.head.register_parameter("bias", None)
    assert "unexpected: head.bias" in refusal(upstream, unbiased)
    assert load_state_dict(upstream, unbiased, keep_classifier=True).keys() == upstream.keys() - {"head.bias"}


def test_keeping_the_classifier_keeps_nothing_else() -> None:
    """Another width is another model, not another classifier."""
    upstream, _ = image_encoder(GEOMETRY)
    assert "cls_token is (1, 1, 8)" in refusal(
        upstream, model(GEOMETRY, embed_dim=16, num_classes=7), keep_classifier=True
    )


# -- resampling ----------------------------------------------------------------------------------------------------

ALIGNED = Resampling("bilinear", antialias=False, align_corners=True)
HOWS = (BICUBIC_ANTIALIAS, BILINEAR, ALIGNED, Resampling("bilinear"), Resampling(antialias=False))
DEFAULTS = {
    "timm_native": BICUBIC_ANTIALIAS,
    "openai_clip": BICUBIC_ANTIALIAS,
    "dinov2": BICUBIC_ANTIALIAS,
    "aimv2": BICUBIC_ANTIALIAS,
    "radio": BILINEAR,
    "google_npz": BILINEAR,
    "google_npz_stem": BILINEAR,
}


def by_torch(image: Tensor, size: tuple[int, int], how: Resampling) -> Tensor:
    """torch's own interpolation of ``(batch, channels, height, width)``."""
    return F.interpolate(
        image.double(), size, mode=how.mode, antialias=how.antialias, align_corners=how.align_corners or None
    )


@cache
def pixels_by_torch(old: tuple[int, int], new: tuple[int, int], how: Resampling) -> Tensor:
    """Matrix ``(old pixels, new pixels)`` whose rows are the resized unit images."""
    units = torch.eye(old[0] * old[1], dtype=torch.float64).unflatten(1, old)[:, None]
    half_pixel = Resampling(how.mode, how.antialias)
    return by_torch(units, new, half_pixel).flatten(1)


@pytest.mark.parametrize("asked", [None, *HOWS], ids=str)
@pytest.mark.parametrize("family", DEFAULTS)
def test_kernel_and_grid_are_resampled_as_the_format_says_unless_asked_otherwise(
    family: str, asked: Resampling | None
) -> None:
    source, destination = Geometry((4, 4), (3, 3)), Geometry((6, 6), (4, 5))
    upstream, case = image_encoder(source, family, **OPTIONS[family])
    truth = state_dicts.truth(FAMILIES[family], case)
    state = load_state_dict(upstream, model(destination, family, **OPTIONS[family]), resampling=asked)
    how = asked or DEFAULTS[family]

    resized = pixels_by_torch((4, 4), (6, 6), how)
    want = truth[KERNEL].double().flatten(2) @ torch.linalg.pinv(resized).T
    assert torch.allclose(state[KERNEL].double().flatten(2), want, rtol=0, atol=1e-5)

    rows = truth["pos_embed"].shape[1] - source.tokens
    square = (5, 5) if family == "radio" else destination.grid_size
    grid = truth["pos_embed"][:, rows:].unflatten(1, source.grid_size).permute(0, 3, 1, 2)
    image = by_torch(grid, square, how)[..., :4, :5].permute(0, 2, 3, 1).flatten(1, 2)
    assert torch.allclose(state["pos_embed"][:, rows:].double(), image, rtol=0, atol=1e-5)
    assert torch.equal(state["pos_embed"][:, :rows], truth["pos_embed"][:, :rows])


def test_every_way_of_resampling_is_told_apart() -> None:
    """Else the test above could not fail."""
    grid = torch.randn(1, 2, 3, 3, generator=torch.Generator().manual_seed(0))
    images = [by_torch(grid, (4, 5), how) for how in HOWS]
    pairs = [(a, b) for n, a in enumerate(images) for b in images[:n]]
    rounding = 64 * torch.finfo(torch.float64).eps  # both are computed in float64
    equal = [torch.allclose(a, b, rtol=0, atol=rounding) for a, b in pairs]
    # Antialias is for shrinking: a bilinear resize that grows is the same without.
    assert sum(equal) == 1
    assert {f: FORMATS[f].resampling for f in DEFAULTS} == DEFAULTS
