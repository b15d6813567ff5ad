"""Images of other channels than three: the first convolution adapted, by the law and through a load."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.small_vit import ARCH, GEOMETRY, OPTIONS, WITHOUT_KERNEL, Model, geometry_of, image_encoder, model
from timm_conformance.cases.case import Geometry
from timm_conformance.checkpoints import state_dicts
from timm_conformance.families import FAMILIES
from timm_conformance.reference import load_state_dict
from timm_conformance.reference.embeddings import adapt_input_channels
from timm_conformance.trials.problems import exact_differences

KERNEL = "patch_embed.proj.weight"


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


@pytest.mark.parametrize(("channels", "asked"), [(3, 1), (3, 7), (7, 5)])
def test_the_answer_is_that_of_float64_rounded_once(channels: int, asked: int) -> None:
    """2 ** 24 + 1 + 1 is 2 ** 24 in float32, and 3 / 7 no float32."""
    weight = kernel(channels)
    weight[0, :3, 0, 0] = torch.tensor([2.0**24, 1.0, 1.0])
    want = adapt_input_channels(weight.double(), asked)
    assert torch.equal(adapt_input_channels(weight, asked), want.float())
    exact = weight.double()
    whole = exact.sum(1, keepdim=True) if asked == 1 else exact[:, [n % channels for n in range(asked)]]
    assert torch.equal(want, whole if asked == 1 else whole * (channels / asked))


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
    truth = state_dicts.truth(FAMILIES[family], case)
    first = FAMILIES[family].first_conv(case.arch)
    destination = of_channels(family, channels, geometry)
    state = load_state_dict(upstream, destination)
    want = truth | {first: by_definition(truth[first], channels)}
    assert torch.allclose(state[first], want[first], rtol=1e-6, atol=1e-7)
    assert not exact_differences(want | {first: state[first]}, state)
    destination.load_state_dict(state, strict=True)


@pytest.mark.parametrize("family", [name for name in OPTIONS if name not in WITHOUT_KERNEL])
def test_a_resampled_kernel_is_adapted_as_well(family: str) -> None:
    upstream, _ = image_encoder(GEOMETRY, family, **OPTIONS[family])
    larger = Geometry((6, 6), (2, 2))
    plain = load_state_dict(upstream, of_channels(family, 3, larger))
    state = load_state_dict(upstream, of_channels(family, 4, larger))
    first = FAMILIES[family].first_conv(ARCH | OPTIONS[family])
    assert torch.allclose(state[first], by_definition(plain[first], 4), rtol=1e-6, atol=1e-7)
    assert not exact_differences({**plain, first: state[first]}, state)


@pytest.mark.parametrize("channels", [1, 4])
def test_a_linear_kernel_of_the_models_own_channels_is_not_adapted(channels: int) -> None:
    """Sixteen or sixty-four columns are no three channels of a square patch, so they are the model's."""
    upstream, case = image_encoder(GEOMETRY, "legacy_linear", in_chans=channels)
    truth = state_dicts.truth(FAMILIES["legacy_linear"], case)
    assert upstream[KERNEL].shape == (8, 16 * channels)
    assert not exact_differences(truth, load_state_dict(upstream, of_channels("legacy_linear", channels, GEOMETRY)))


def test_columns_are_read_as_three_channels_before_as_many_as_the_models() -> None:
    """Forty-eight columns are three channels of 4x4, though one channel of the model's 4x12 has as many pixels."""
    upstream, _ = image_encoder(GEOMETRY, "legacy_linear")
    wide = Geometry((4, 12), (2, 2))
    colour = load_state_dict(upstream, of_channels("legacy_linear", 3, wide))[KERNEL]
    grey = load_state_dict(upstream, of_channels("legacy_linear", 1, wide))[KERNEL]
    assert torch.allclose(grey, by_definition(colour, 1), rtol=1e-6, atol=1e-6)
