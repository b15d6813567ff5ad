"""What a family is: one upstream checkpoint format, the architectures it comes in, the timm models that load it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hypothesis.strategies import SearchStrategy
from packaging.version import Version

from ..cases import Case, Geometry, Size

if TYPE_CHECKING:  # the command line reads this registry without importing torch
    from reference import Resampling

Arch = Mapping[str, Any]
Shapes = dict[str, tuple[int, ...]]


def _nothing(arch: Arch) -> Shapes:
    return {}


def _no_tags(case: Case) -> frozenset[str]:
    return frozenset()


def _decidable(case: Case) -> str | None:
    return None


@dataclass(frozen=True)
class Family:
    """One checkpoint format and everything the suite needs to generate, load and judge it.

    name            family name, also the name of its ``reference`` format
    source          upstream repository and file, for the documentation
    first_release   first timm release that converts the format in full
    architectures   strategy for ``arch``, a flat JSON-able dict of options
    shapes          timm-layout tensor shapes of a checkpoint of ``arch`` at a geometry
    num_prefix_tokens  class and register tokens of ``arch``
    model_kwargs    constructor arguments of the destination model; ``"module:name"`` strings name objects of the target
    models          globs over registered timm model names that use this format, ``not_models`` the exceptions
    forward_arch    hyperparameters of the upstream forward, beyond ``arch`` itself
    implied         model tensors the format has no word for: zero in the model, absent from the checkpoint
    foreign         shapes of tensors such checkpoints carry that are not the image encoder's
    resampling      how the format's kernel and grid are resampled, None for antialiased bicubic
    tags            regimes of a case beyond the common ones; ``own_regimes`` lists all a family can produce
    undecidable     why no loader could know the answer for a case, or None
    unreachable     regimes no case of the family can be in
    square_source_patch  whether a resampled kernel must come from a square patch for its size to be known
    """

    name: str
    source: str
    first_release: str
    architectures: SearchStrategy[dict[str, Any]]
    shapes: Callable[[Arch, Geometry], Shapes]
    num_prefix_tokens: Callable[[Arch], int]
    model_kwargs: Callable[[Arch], dict[str, Any]]
    models: tuple[str, ...]
    not_models: tuple[str, ...] = ()
    module: str = "vision_transformer"
    model_class: str = "VisionTransformer"
    forward_arch: Callable[[Case], dict[str, Any]] = lambda case: {}
    implied: Callable[[Arch], frozenset[str]] = lambda arch: frozenset()
    foreign: Callable[[Arch], Shapes] = _nothing
    resampling: Resampling | None = None
    tags: Callable[[Case], frozenset[str]] = _no_tags
    own_regimes: frozenset[str] = frozenset()
    undecidable: Callable[[Case], str | None] = _decidable
    square_source_patch: bool = False
    unreachable: frozenset[str] = frozenset()
    wrappers: tuple[str, ...] = ("bare", "model", "state_dict", "model.state_dict")

    def supported_by(self, release: Version) -> bool:
        """Whether a timm release knows this format."""
        return release >= Version(self.first_release)


def undecidable_grid(source: Geometry, destination: Geometry, declared: str, default_input_size: Size) -> str | None:
    """Why no loader could know the source grid, or None when it can.

    A position grid stored as a list of tokens does not say its shape. What a loader may use: the declared input size
    when it accounts for every token; otherwise as many tokens as the model has means the model's grid, and a square
    number means a square. A declaration that accounts for every token and is false misleads any honest loader.
    """
    if declared == "true":
        return None
    if declared == "default":
        (h, w), (ph, pw) = default_input_size, source.patch_size
        claimed = (h // ph, w // pw)
        if claimed[0] * claimed[1] == source.tokens:
            return None if claimed == source.grid_size else "the declared input size is false and fits the token count"
    if source.tokens == destination.tokens:
        same = source.grid_size == destination.grid_size
        return None if same else "as many tokens as the model has, in another grid, and no input size declared"
    if source.grid_size[0] == source.grid_size[1]:
        return None
    return "a non-square grid and no input size declared"
