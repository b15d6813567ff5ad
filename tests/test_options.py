"""What a caller may ask of the reference beyond loading: other channels, other classes, another resampling. And who checks."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import reference
from conformance import checkpoints
from conformance.cases import Case, Geometry
from conformance.catalogue import models_of
from conformance.families import FAMILIES
from conformance.invariants import INVARIANTS
from conformance.judging import Judgement, judge
from conformance.loaders import Loader
from conformance.problems import same
from conformance.targets import parse_target
from conformance.trial import Trial
from reference import BICUBIC_ANTIALIAS, BILINEAR, FORMATS, Resampling, load_state_dict
from reference.embeddings import adapt_input_channels
from tests.small_vit import ARCH, Model, image_encoder, model, refusal

KERNEL = "patch_embed.proj.weight"
GEOMETRY = Geometry((4, 4), (2, 2))


# -- the first convolution and the image's channels ----------------------------------------------------------------


def kernel(channels: int = 3, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(5, channels, 2, 3, generator=torch.Generator().manual_seed(0)).to(dtype)


PLANE = torch.randn(6, 6, generator=torch.Generator().manual_seed(1))


def answer(weight: Tensor) -> Tensor:
    """What a kernel makes of an image whose channels are all the same."""
    image = PLANE.expand(1, weight.shape[1], *PLANE.shape)
    return F.conv2d(image.double(), weight.double())


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_grey_image_gets_the_answer_of_an_image_of_equal_channels(channels: int) -> None:
    weight = kernel(channels)
    grey = adapt_input_channels(weight, 1)
    assert grey.shape == (5, 1, 2, 3)
    assert torch.allclose(answer(grey), answer(weight), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("channels", "asked"), [(1, 2), (1, 3), (1, 7), (2, 4), (3, 6), (3, 12)])
def test_equal_channels_get_the_same_answer_from_any_number_of_whole_turns(channels: int, asked: int) -> None:
    weight = kernel(channels)
    more = adapt_input_channels(weight, asked)
    assert more.shape == (5, asked, 2, 3)
    assert torch.allclose(answer(more), answer(weight), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("channels", "asked"), [(3, 2), (3, 4), (3, 5), (4, 3)])
def test_a_kernel_of_equal_channels_answers_alike_over_any_number_of_channels(channels: int, asked: int) -> None:
    weight = kernel(1).repeat(1, channels, 1, 1)
    other = adapt_input_channels(weight, asked)
    assert torch.allclose(answer(other), answer(weight), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("channels", "asked"), [(3, 2), (3, 4), (3, 7), (4, 3), (1, 4)])
def test_channels_repeat_in_turn(channels: int, asked: int) -> None:
    weight = kernel(channels)
    other = adapt_input_channels(weight, asked)
    for n in range(asked):
        assert torch.allclose(other[:, n] * asked, weight[:, n % channels] * channels, rtol=1e-6, atol=0), n


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_as_many_channels_are_the_same_tensor(channels: int) -> None:
    weight = kernel(channels)
    assert adapt_input_channels(weight, channels) is weight


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("asked", [1, 4])
def test_an_adapted_kernel_is_rounded_once_to_its_own_dtype(dtype: torch.dtype, asked: int) -> None:
    weight = kernel(dtype=dtype)
    weight[0, :, 0, 0] = torch.tensor([2048.0, 1.0, 1.0]) if dtype != torch.bfloat16 else torch.tensor([256.0, 1, 1])
    before, other = weight.clone(), adapt_input_channels(weight, asked)
    exact = weight.double()
    want = exact.sum(1, keepdim=True) if asked == 1 else exact[:, [0, 1, 2, 0]] * 0.75
    assert other.dtype == dtype
    assert torch.equal(other, want.to(dtype))
    assert torch.equal(weight, before)


# What the smallest models of these families need beyond ARCH.
OPTIONS: dict[str, dict[str, Any]] = {
    "timm_native": {},
    "legacy_linear": {},
    "openai_clip": {"pre_norm": True},
    "dinov2": {"num_classes": 0, "layer_scale": True},
    "radio": {
        "num_classes": 0,
        "reg_tokens": 2,
        "no_embed_class": True,
        "final_norm": False,
        "align_corners": False,
    },
    "aimv2": {
        "class_token": False,
        "num_classes": 0,
        "global_pool": "avg",
        "fc_norm": False,
        "qkv_bias": False,
        "proj_bias": False,
        "rms_norm": True,
        "embed_norm": True,
        "swiglu": "split",
    },
    "deit_distilled": {"dist_token": True},
    "google_npz": {"fc_norm": False},
    "google_npz_stem": {"fc_norm": False, "stages": 0},
    "google_npz_resnet": {"fc_norm": False, "stages": 2},
    "hybrid_resnet": {"stages": 0},
    "mobileclip": {"no_embed_class": True},
    "hybrid_convstem": {"no_embed_class": True},
}
WITHOUT_KERNEL = {"mobileclip", "hybrid_convstem"}


def geometry_of(family: str) -> Geometry:
    return Geometry((1, 1), (2, 2)) if family in WITHOUT_KERNEL else GEOMETRY


def of_channels(family: str, channels: int, geometry: Geometry) -> Model:
    """A destination model whose first convolution meets images of ``channels`` channels."""
    made = model(geometry, family, **OPTIONS[family])
    *path, leaf = FAMILIES[family].first_conv(ARCH | OPTIONS[family]).split(".")
    module = made.get_submodule(".".join(path))
    rows, _, *size = getattr(module, leaf).shape
    setattr(module, leaf, nn.Parameter(torch.zeros(rows, channels, *size)))
    return made


def by_definition(weight: Tensor, channels: int) -> Tensor:
    if channels == 1:
        return sum(c for c in weight.double().split(1, dim=1)).to(weight.dtype)
    return (torch.stack([weight[:, n % 3] for n in range(channels)], dim=1) * (3 / channels)).to(weight.dtype)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("family", OPTIONS)
def test_the_convolution_that_meets_the_image_is_adapted_and_nothing_else(family: str, channels: int) -> None:
    geometry = geometry_of(family)
    upstream, case = image_encoder(geometry, family, **OPTIONS[family])
    truth = checkpoints.truth(FAMILIES[family], case)
    first = FAMILIES[family].first_conv(case.arch)
    destination = of_channels(family, channels, geometry)
    state = load_state_dict(upstream, destination)
    want = truth | {first: by_definition(truth[first], channels)}
    assert torch.allclose(state[first], want[first], rtol=1e-6, atol=1e-7)
    assert not same(want | {first: state[first]}, state)
    destination.load_state_dict(state, strict=True)


@pytest.mark.parametrize("family", [name for name in OPTIONS if name not in WITHOUT_KERNEL])
def test_a_resampled_kernel_is_adapted_as_well(family: str) -> None:
    upstream, _ = image_encoder(GEOMETRY, family, **OPTIONS[family])
    larger = Geometry((6, 6), (2, 2))
    plain = load_state_dict(upstream, of_channels(family, 3, larger))
    state = load_state_dict(upstream, of_channels(family, 4, larger))
    first = FAMILIES[family].first_conv(ARCH | OPTIONS[family])
    assert torch.allclose(state[first], by_definition(plain[first], 4), rtol=1e-6, atol=1e-7)
    assert not same({**plain, first: state[first]}, state)


@pytest.mark.parametrize("channels", [1, 4])
def test_a_linear_kernel_of_the_models_own_channels_is_not_adapted(channels: int) -> None:
    """Sixteen or sixty-four columns are no three channels of a square patch, so they are the model's."""
    upstream, case = image_encoder(GEOMETRY, "legacy_linear", in_chans=channels)
    truth = checkpoints.truth(FAMILIES["legacy_linear"], case)
    assert upstream[KERNEL].shape == (8, 16 * channels)
    assert not same(truth, load_state_dict(upstream, of_channels("legacy_linear", channels, GEOMETRY)))


def test_columns_are_read_as_three_channels_before_as_many_as_the_models() -> None:
    """Forty-eight columns are three channels of 4x4, though one channel of the model's 4x12 has as many pixels."""
    upstream, _ = image_encoder(GEOMETRY, "legacy_linear")
    wide = Geometry((4, 12), (2, 2))
    colour = load_state_dict(upstream, of_channels("legacy_linear", 3, wide))[KERNEL]
    grey = load_state_dict(upstream, of_channels("legacy_linear", 1, wide))[KERNEL]
    assert torch.allclose(grey, by_definition(colour, 1), rtol=1e-6, atol=1e-6)


# -- the classifier ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["timm_native", "openai_clip", "deit_distilled", "google_npz", "mobileclip"])
@pytest.mark.parametrize("classes", [7, 3])
def test_a_model_may_keep_its_own_classifier(family: str, classes: int) -> None:
    geometry, options = geometry_of(family), OPTIONS[family]
    upstream, case = image_encoder(geometry, family, **options)
    truth = checkpoints.truth(FAMILIES[family], case)
    destination = model(geometry, family, **(options | {"num_classes": classes}))
    heads = [k for k in destination.state_dict() if k.startswith("head")]
    assert len(heads) == (4 if family == "deit_distilled" else 2)
    for n, name in enumerate(heads):
        destination.get_parameter(name).detach().fill_(n + 5.0)
    own = {k: v.clone() for k, v in destination.state_dict().items() if k in heads}
    state = load_state_dict(upstream, destination, keep_classifier=True)
    assert not same({k: v for k, v in truth.items() if k not in heads} | own, state)
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
    assert not same({k: v for k, v in upstream.items() if not k.startswith("head.")}, state)


def test_nothing_of_the_checkpoints_classifier_stays_beside_the_models_own() -> None:
    upstream, _ = image_encoder(GEOMETRY)
    unbiased = model(GEOMETRY)
    del unbiased.head._parameters["bias"]
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
    truth = checkpoints.truth(FAMILIES[family], case)
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
    equal = [torch.allclose(a, b, rtol=0, atol=1e-3) for a, b in pairs]
    # Antialias is for shrinking: a bilinear resize that grows is the same without.
    assert sum(equal) == 1
    assert {f: FORMATS[f].resampling for f in DEFAULTS} == DEFAULTS


# -- create-model sees all of it -----------------------------------------------------------------------------------


@cache
def loader() -> Loader:
    return Loader(parse_target("reference"))


def judged(family: str, **asked: int | None) -> Judgement:
    """The create-model invariant on the reference for a small case that asks for other channels or classes."""
    geometry = geometry_of(family)
    case = Case(
        family,
        ARCH | OPTIONS[family],
        geometry,
        geometry,
        wrapper=FAMILIES[family].wrappers[0],
        container=FAMILIES[family].containers[0],
        model_name=models_of(FAMILIES[family])[0].name,
        **asked,
    )
    return judge(INVARIANTS["create-model"], Trial(FAMILIES[family], case, loader()))


ASKING = ["openai_clip", "deit_distilled", "google_npz", "mobileclip"]


def _unscaled(weight: Tensor, channels: int) -> Tensor:
    return weight[:, [n % weight.shape[1] for n in range(channels)]]


def _averaged(weight: Tensor, channels: int) -> Tensor:
    return weight.mean(1, keepdim=True).expand(-1, channels, -1, -1)


def _padded(weight: Tensor, channels: int) -> Tensor:
    return F.pad(weight, (0, 0, 0, 0, 0, channels - weight.shape[1]))


@pytest.mark.parametrize("family", ASKING)
@pytest.mark.parametrize("asked", [{"in_chans": 1}, {"in_chans": 4}, {"num_classes": 0}, {"num_classes": 7}], ids=str)
def test_create_model_passes_what_is_adapted_as_asked(family: str, asked: dict[str, int]) -> None:
    result = judged(family, **asked)
    assert result.outcome == "pass", result


@pytest.mark.parametrize("family", ASKING)
@pytest.mark.parametrize(
    ("wrong", "channels"),
    [(_unscaled, 4), (_unscaled, 1), (_averaged, 4), (_averaged, 1), (_padded, 4)],
    ids=lambda v: getattr(v, "__name__", str(v)),
)
def test_create_model_catches_a_wrong_adaptation(
    family: str, wrong: Callable[[Tensor, int], Tensor], channels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reference.loader.adapt_input_channels", wrong)
    result = judged(family, in_chans=channels)
    assert result.outcome == "fail", result
    first = FAMILIES[family].first_conv(ARCH | OPTIONS[family])
    assert {(p.kind, p.tensor) for p in result.problems} == {("value", first.replace(".0.", ".*."))}


def test_create_model_catches_a_classifier_that_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    load = reference.load_state_dict

    def forgetful(checkpoint, model, keep_classifier=False, **options):
        return load(checkpoint, model, **options)

    monkeypatch.setattr(reference, "load_state_dict", forgetful)
    result = judged("openai_clip", num_classes=7)
    assert result.outcome == "fail", result
    assert [p.kind for p in result.problems] == ["raises-LoadError"]


@pytest.mark.parametrize("asked", [0, 7])
def test_create_model_catches_a_model_of_other_classes_than_asked(asked: int, monkeypatch: pytest.MonkeyPatch) -> None:
    loader()
    import timm

    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda *args, **kw: create(*args, **(kw | {"num_classes": 5})))
    result = judged("openai_clip", num_classes=asked)
    assert result.outcome == "fail", result
    assert {(p.kind, p.tensor) for p in result.problems} == {("classes", "head.weight"), ("classes", "head.bias")}
    assert f"has 5 classes, {asked} were asked for" in result.problems[0].message


def test_create_model_catches_a_classifier_unfit_for_training(monkeypatch: pytest.MonkeyPatch) -> None:
    loader()
    import timm

    create = timm.create_model

    def unfit(*args, **kwargs):
        made = create(*args, **kwargs)
        made.head.weight.detach().fill_(float("nan"))
        return made

    monkeypatch.setattr(timm, "create_model", unfit)
    result = judged("openai_clip", num_classes=7)
    assert {p.kind for p in result.problems} == {"not-finite"}
