"""Invariants that compare the loaded tensors with the right ones: with the case's own, the upstream forward, the reference."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from math import tau

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ..cases.case import VARIED
from ..trials import bounds
from ..trials.acceptance import fits
from ..trials.loaded import Blocked
from ..trials.problems import Problem, exact_differences, raised
from ..trials.trial import Trial
from .registry import both, few_blocks, invariant, unless

# Attention is quadratic: three float64 passes over the 1369 tokens of DINOv2's native grid take as long as fifty cases.
TOKENS = 600
# torch's antialiased CPU kernel is wrong when the result is one pixel wide; other invariants and a probe say so.
TO_COLUMN = {"patch-to-column", "grid-to-column"}
# Errors may add up in a way that random ones do not.
_LUCK = 16

_NATIVE = unless(lambda t: t.case.native, "holds at the native geometry only")
COMPARABLE = both(
    unless(
        lambda t: t.case.native and t.case.contents.kind in VARIED and t.case.source.tokens <= TOKENS,
        "needs the native geometry, tokens that vary (LayerNorm divides by their variance), and no more than 600 of them",
    ),
    both(few_blocks, lambda t: t.family.no_output(t.case)),
)


@invariant(
    statement="At the native geometry, loading gives back the encoded state bit for bit, square or not.",
    catches="tensors swapped, transposed, fused in the wrong order, dropped, rounded or resampled without need.",
    regimes=(
        "native",
        "destination-grid-non-square",
        "patch-non-square",
        "half-precision",
        "declared-absent",
        "many-blocks",
    ),
    applies=_NATIVE,
)
def native_identity(trial: Trial) -> Iterator[Problem]:
    got = {k: v.cpu() for k, v in trial.state.items()}
    # Tensors that the checkpoint does not hold have no dtype there. dtype-kept judges them.
    filled = {
        k: v.to(got[k].dtype) for k, v in trial.truth.items() if k in trial.family.implied(trial.case.arch) & got.keys()
    }
    yield from exact_differences({**trial.truth, **filled}, got)


@invariant(
    statement="At the native geometry, the loaded model computes what the upstream model computes from the same tensors.",
    catches="conversions that are self-consistent but mean something else: wrong token order, norm, gate or bias.",
    regimes=("native", "prefix-0", "prefix-1", "prefix-1+R"),
    applies=COMPARABLE,
)
def native_forward(trial: Trial) -> Iterator[Problem]:
    yield from same_outputs(trial)


def same_outputs(
    trial: Trial,
    right: Callable[[Tensor], Tensor] | None = None,
    computed: Callable[[nn.Module, Mapping[str, Tensor], Tensor], Tensor] | None = None,
    images: int = 2,
) -> Iterator[Problem]:
    """Problems of the loaded model's output on ``images`` random images, in float64.

    ``right`` computes the correct output of an image, by default the upstream forward. ``computed`` runs the model, with the
    arguments of :func:`output`, its default.
    """
    model = trial.model()
    if not fits(model, trial.raw):
        raise Blocked("the state dict does not fit the model")
    generator = torch.Generator().manual_seed(trial.case.contents.seed)
    arch = trial.case.arch
    size = (images, arch.get("in_chans", 3), *trial.family.img_size(arch, trial.case.source))
    image = torch.randn(size, generator=generator, dtype=torch.float64)
    exact = trial.upstream_output(image)
    sensitivity = _sensitivity(trial, image, exact, generator)
    want = right(image) if right else exact
    try:
        got = (computed or output)(model, trial.raw, image)
    except Exception as error:
        yield raised(error, "the loaded model's forward")
        return
    bound = bounds.forward(want, _operations(trial), sensitivity, _largest_angle(trial))
    yield from trial.compare("output", got, want, bound, "output")


def resized_output(trial: Trial, image: Tensor, off: Mapping[str, Tensor]) -> tuple[Tensor, float]:
    """The upstream output of a native trial on an image, and the bound for a model whose tensors may be off by ``off``."""
    generator = torch.Generator().manual_seed(trial.case.contents.seed)
    exact = trial.upstream_output(image)
    bound = bounds.forward(
        exact, _operations(trial), _sensitivity(trial, image, exact, generator), _largest_angle(trial)
    )
    other = Trial(trial.family, trial.case, trial.loader, trial.device)
    signs = {k: torch.randn(trial.truth[k].shape, generator=generator).sign() for k in off}
    other.truth = {**trial.truth, **{k: trial.truth[k].to(torch.float64) + v * signs[k] for k, v in off.items()}}
    change = other.upstream_output(image) - exact
    return exact, bound + _LUCK * float(change.abs().max())


def output(model: nn.Module, raw: Mapping[str, Tensor], image: Tensor | Mapping[str, Tensor]) -> Tensor:
    """Output of a model with the tensors of a state dict on an image. It is computed in float64 on the model's device.

    A NaFlexViT takes patches and their coordinates in place of an image.

    Returns a tensor on the CPU. Buffers that a state dict does not hold are the model's own. Those of a rotary embedding keep
    their dtype, since it works in float32.
    """
    device, own = next(model.parameters()).device, dict(model.named_buffers())
    given = {**{k: v for k, v in own.items() if not k.startswith("rope.")}, **raw}
    state = {k: v.to(device, torch.float64 if v.is_floating_point() else v.dtype) for k, v in given.items()}
    given_to = image.to(device) if isinstance(image, Tensor) else {k: v.to(device) for k, v in image.items()}
    with torch.no_grad():
        return functional_call(model, own | state, (given_to,), strict=True).cpu()


def _operations(trial: Trial) -> int:
    """Upper estimate of the longest chain of accumulated products in the forward pass: every inner dimension once per block."""
    arch, source = trial.case.arch, trial.case.source
    dim, (ph, pw) = arch["embed_dim"], source.patch_size
    inner = 3 * ph * pw + (arch["depth"] + 2) * (source.tokens + 4 * dim + 2 * dim * arch["mlp_ratio"])
    return int(inner * dim)


def _sensitivity(trial: Trial, image: Tensor, exact: Tensor, generator: torch.Generator) -> float:
    """Relative change of the output for a relative change of the tensors: a rounded product equals one of changed tensors.

    The tensors change, not the image. A change of the image may vanish where one of a layer does not: behind a kernel of ramps
    every token is nearly a multiple of one vector. With a rotary embedding it is the largest of three tries, since its angles
    turn only a few numbers.
    """
    step = 2.0**-20

    def nudged(tensor: Tensor) -> Tensor:
        return tensor + tensor * step * torch.randn(tensor.shape, generator=generator, dtype=torch.float64).sign()

    changes = [trial.upstream_output(image, nudged) - exact for _ in range(3 if _largest_angle(trial) else 1)]
    return max(float(change.norm()) for change in changes) / (float(exact.norm()) * step + 1e-300)


def _largest_angle(trial: Trial) -> float:
    """Upper estimate of a rotary embedding's angles in radians: the last row or column, at least a full turn; 0 without one."""
    return max(tau, *trial.case.source.grid_size) if trial.case.arch.get("rope") else 0.0


@invariant(
    statement="Every loaded tensor agrees with the reference loader's, within what float32 rounding allows.",
    catches="another interpolation, antialias off, height and width swapped, a wrong source grid, a lost tensor.",
    regimes=(
        "native",
        "patch-grow",
        "patch-shrink",
        "patch-mixed",
        "grid-grow",
        "grid-shrink",
        "grid-mixed",
        "equal-count-other-shape",
        "source-grid-non-square",
        "square-count-non-square",
        "destination-grid-non-square",
        "half-precision",
    ),
)
def reference_agreement(trial: Trial) -> Iterator[Problem]:
    yield from trial.compare_all(trial.state, trial.expected, trial.bound)
