"""The loaded tensors are the right ones: by the encode/decode law, by the upstream forward, by the reference."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from math import tau

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ..cases.case import VARIED
from ..trials import bounds
from ..trials.problems import Problem, raised, same
from ..trials.trial import Blocked, Trial
from .registry import invariant, unless

# Attention is quadratic: three float64 passes over the 1369 tokens of DINOv2's native grid would cost as much as fifty cases.
_TOKENS = 600

_NATIVE = unless(lambda t: t.case.native, "holds at the native geometry only")
COMPARABLE = unless(
    lambda t: t.case.native and t.case.contents.kind in VARIED and t.case.source.tokens <= _TOKENS,
    "needs the native geometry, tokens that vary (LayerNorm divides by their variance), and no more than 600 of them",
)


@invariant(
    statement="At the native geometry, loading gives back the encoded state bit for bit, square or not.",
    catches="tensors swapped, transposed, fused in the wrong order, dropped, rounded or resampled without need.",
    regimes=("native", "destination-grid-non-square", "patch-non-square", "half-precision", "declared-absent"),
    applies=_NATIVE,
)
def native_identity(trial: Trial) -> Iterator[Problem]:
    got = {k: v.cpu() for k, v in trial.state.items()}
    # Tensors the checkpoint does not hold have no dtype of their own there: dtype-kept judges them.
    filled = {
        k: v.to(got[k].dtype) for k, v in trial.truth.items() if k in trial.family.implied(trial.case.arch) & got.keys()
    }
    yield from same({**trial.truth, **filled}, got)


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
    """Compare what the loaded model makes of ``images``, in float64, with what is ``right``, by default the upstream forward.

    ``computed`` runs the model in place of :func:`output`, with its arguments.
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
    bound = bounds.forward(want, _operations(trial), sensitivity, _turns(trial))
    yield from trial.compare("output", got, want, bound, "output")


def fits(model: nn.Module, state: Mapping[str, Tensor]) -> bool:
    """Whether a state dict has just a model's tensors, in their shapes."""
    return {k: v.shape for k, v in model.state_dict().items()} == {k: v.shape for k, v in state.items()}


def output(model: nn.Module, raw: Mapping[str, Tensor], image: Tensor) -> Tensor:
    """What a model makes of an image with the tensors of a state dict, all in float64 on the model's device; on the CPU.

    Buffers that are never stored are the model's own. Those of a rotary embedding stay as they are: it works in float32.
    """
    device, own = next(model.parameters()).device, dict(model.named_buffers())
    given = {**{k: v for k, v in own.items() if not k.startswith("rope.")}, **raw}
    state = {k: v.to(device, torch.float64 if v.is_floating_point() else v.dtype) for k, v in given.items()}
    with torch.no_grad():
        return functional_call(model, own | state, (image.to(device),), strict=True).cpu()


def _operations(trial: Trial) -> int:
    """Longest chain of accumulated products in the forward pass, generously: every inner dimension once a block."""
    arch, source = trial.case.arch, trial.case.source
    dim, (ph, pw) = arch["embed_dim"], source.patch_size
    inner = 3 * ph * pw + (arch["depth"] + 2) * (source.tokens + 4 * dim + 2 * dim * arch["mlp_ratio"])
    return int(inner * dim)


def _sensitivity(trial: Trial, image: Tensor, exact: Tensor, generator: torch.Generator) -> float:
    """How many times larger a relative change of the tensors comes out: a rounded product is one of tensors that are off.

    Not of the image, whose changes may vanish where those of a layer do not: behind a kernel of ramps every token is nearly the
    same multiple of one vector. With a rotary embedding the largest of three, for its angles turn a few numbers only.
    """
    step = 2.0**-20

    def nudged(tensor: Tensor) -> Tensor:
        return tensor + tensor * step * torch.randn(tensor.shape, generator=generator, dtype=torch.float64).sign()

    changes = [trial.upstream_output(image, nudged) - exact for _ in range(3 if _turns(trial) else 1)]
    return max(float(change.norm()) for change in changes) / (float(exact.norm()) * step + 1e-300)


def _turns(trial: Trial) -> float:
    """Largest angle of a rotary embedding, in radians: the last row or column, or a full turn; 0 where there is none."""
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
