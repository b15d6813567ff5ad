"""What a family is: one upstream checkpoint format, the architectures it comes in, the timm models that load it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import isqrt, prod
from typing import TYPE_CHECKING, Any

from hypothesis.strategies import SearchStrategy
from packaging.version import Version

from ..cases.case import CONTAINERS, NPZ, Case, Geometry, Size

if TYPE_CHECKING:  # the command line reads this registry without importing torch
    from torch import Tensor

    from ..reference import Resampling

Arch = Mapping[str, Any]
Shapes = dict[str, tuple[int, ...]]
Windows = dict[str, tuple[int, ...]]
State = dict[str, "Tensor"]

KERNEL = "patch_embed.proj.weight"


def _nothing(arch: Arch) -> dict[str, Any]:
    return {}


def no_tables(arch: Arch, geometry: Geometry) -> Windows:
    """The windows of a family without relative positions."""
    return {}


def _unchanged(case: Case, state: State) -> State:
    return state


def _no_tags(case: Case) -> frozenset[str]:
    return frozenset()


def _decidable(case: Case) -> str | None:
    return None


@dataclass(frozen=True)
class Family:
    """One checkpoint format and everything the suite needs to generate, load and judge it.

    What the format is:

    name            family name
    source          upstream repository and file, for the documentation
    shares_format   family whose ``reference`` format it has, where that is not its own
    classic         family that loads the same checkpoints into the model they were made for, where ``module`` has another
    first_release   first timm release that converts the format in full
    models          globs over registered timm model names that use this format, ``not_models`` the exceptions
    module          timm module of the loader, ``model_class`` the class of its models
    models_module   timm module of the registered models, where those build ``model_class`` when told to (``use_naflex``)

    What its checkpoints hold:

    architectures   strategy for ``arch``, a flat JSON-able dict of options
    by_model        options that follow from a registered model's name
    shapes          timm-layout tensor shapes of a checkpoint of ``arch`` at a geometry
    num_prefix_tokens  class, distillation and register tokens of ``arch``
    implied         model tensors the format has no word for: zero in the model, absent from the checkpoint
    foreign         shapes of tensors such checkpoints carry that are not the image encoder's
    wrappers        how such checkpoints are nested or prefixed, ``wrapper_since`` the releases that learnt some later
    stored          the checkpoint's own way to hold tensors that the suite knows in timm's VisionTransformer layout
    containers      file formats they come in
    stride          pixels that one pixel of the patch kernel stands for, above 1 behind a convolutional stem
    max_patch       largest patch side to draw; 1 where the format has no patch kernel of its own
    square_patch    when the format itself says that a patch is square: "always", or only where "resampled"
    square_source_grid  whether the format itself says that the position grid is square
    square_grids    whether such models have square grids "always", or so "often" that half of those drawn are
    grid_multiple   what the sides of a grid are multiples of, where stages halve it
    grid_stored     whether positions are stored as a grid, and not as a list of tokens
    misread_tokens  how many tokens a grid would have if rows of prefix tokens were mistaken for it or it for them, or None
    tables          windows of the relative position tables at a geometry, by tensor name: ``(h, w)``, or ``(s,)`` for
                    SAM's tables of one axis

    How it loads:

    model_kwargs    constructor arguments of the destination model; ``"module:name"`` strings name objects of the target,
                    with a dict of arguments beside them to be given when they are called
    filters         the loader's function, by the names releases gave it, newest first; "module:name" in another module
    canonical       what a loaded state is by VisionTransformer's names and in its layout, the inverse of the model's own
    created_kwargs  arguments of the registered model's function where they differ from those
    filter_kwargs   arguments timm's model function passes to the loader for ``arch``
    resampling      how kernel and grid are resampled where that differs from the format's own
    first_conv      name of the convolution that meets the image
    forward_arch    hyperparameters of the upstream forward, beyond ``arch`` itself

    How it is judged:

    needs           first release that knows what is special about a case, and what that is, or None
    tags            regimes of a case beyond the common ones; ``own_regimes`` lists all a family can produce
    undecidable     why no loader could know the answer for a case, or None
    unreachable     regimes no case of the family can be in; ``invariant:regime`` where that invariant cannot judge such a case
    weight          share of a profile's cases to draw: less where a family shares its code path with another
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
    shares_format: str = ""
    classic: str = ""
    module: str = "vision_transformer"
    model_class: str = "VisionTransformer"
    models_module: str = ""
    by_model: Callable[[str], dict[str, Any]] = lambda name: {}
    implied: Callable[[Arch], frozenset[str]] = lambda arch: frozenset()
    foreign: Callable[[Arch], Shapes] = _nothing
    wrappers: tuple[str, ...] = ("bare", "model", "state_dict", "model.state_dict")
    wrapper_since: Mapping[str, str] = field(default_factory=dict)
    stored: Callable[[Case, State], State] = _unchanged
    containers: tuple[str, ...] = CONTAINERS
    stride: Callable[[Arch], int] = lambda arch: 1
    max_patch: int = 32
    square_patch: str = ""
    square_source_grid: bool = False
    square_grids: str = ""
    grid_multiple: int = 1
    grid_stored: bool = False
    misread_tokens: Callable[[Case], int | None] = lambda case: None
    tables: Callable[[Arch, Geometry], Windows] = no_tables
    filters: tuple[str, ...] = ("checkpoint_filter_fn",)
    canonical: Callable[[Case, State], State] = _unchanged
    created_kwargs: Callable[[Arch], dict[str, Any]] | None = None
    filter_kwargs: Callable[[Arch], dict[str, Any]] = _nothing
    resampling: Callable[[Arch], Resampling | None] = lambda arch: None
    first_conv: Callable[[Arch], str] = lambda arch: KERNEL
    forward_arch: Callable[[Case], dict[str, Any]] = lambda case: {}
    needs: Callable[[Case], tuple[str, str] | None] = lambda case: None
    tags: Callable[[Case], frozenset[str]] = _no_tags
    own_regimes: frozenset[str] = frozenset()
    undecidable: Callable[[Case], str | None] = _decidable
    unreachable: frozenset[str] = frozenset()
    weight: float = 1.0

    @property
    def format(self) -> str:
        """Name of its ``reference`` format."""
        return self.shares_format or self.name

    @property
    def in_place(self) -> bool:
        """Whether timm reads the file itself, straight into a model's parameters (``.npz``), past ``checkpoint_filter_fn``."""
        return self.containers == NPZ

    def supported_by(self, release: Version) -> bool:
        """Whether a timm release knows this format."""
        return release >= Version(self.first_release)

    def reaches(self, regime: str, invariant: str) -> bool:
        """Whether an invariant can meet a regime in cases of this family alone."""
        return not {regime, f"{invariant}:{regime}"} & self.unreachable

    def lacking(self, case: Case, release: Version) -> str | None:
        """What a release that knows the format does not know yet about a case, or None."""
        needed = self.needs(case)
        if needed is None and case.wrapper in self.wrapper_since:
            needed = self.wrapper_since[case.wrapper], f"the prefix or wrapper {case.wrapper!r}"
        if needed is None or release >= Version(needed[0]):
            return None
        return f"timm {release} does not know {needed[1]} (first release: {needed[0]})"

    def img_size(self, arch: Arch, geometry: Geometry) -> Size:
        """Image size in pixels of a model of ``arch`` at ``geometry``, ``(height, width)``."""
        (h, w), stride = geometry.img_size, self.stride(arch)
        return h * stride, w * stride

    def sizes(self, arch: Arch, geometry: Geometry) -> dict[str, Size]:
        """What a model of ``arch`` at ``geometry`` is asked for: its ``img_size`` and ``patch_size``."""
        return {"img_size": self.img_size(arch, geometry), "patch_size": geometry.patch_size}

    def undecidable_grid(self, case: Case, default_input_size: Size) -> str | None:
        """Why no loader could know the source grid, or None when it can.

        A position grid stored as a list of tokens does not say its shape. What a loader may use: the format, when its
        grids are square by definition; the declared input size when it accounts for every token; otherwise as many tokens
        as the model has means the model's grid, and a square number means a square. A declaration that accounts for every
        token and is false misleads any honest loader. Where it is not known either whether the list begins with rows of
        prefix tokens, each rule has to tell the two readings apart.
        """
        if case.declared == "true" or self.square_source_grid:
            return None
        claimed = None
        if case.declared == "default":
            stride = self.stride(case.arch)
            claimed = tuple(n // (p * stride) for n, p in zip(default_input_size, case.source.patch_size))
        counts = []
        if not self.grid_stored and case.arch.get("pos_embed") != "none":
            counts.append(prod)
            misread = self.misread_tokens(case)
            if misread is not None and _misled(misread, case, claimed):
                return "the rows of prefix tokens may or may not be among the positions, and no input size tells"
        if any(len(window) == 2 for window in self.tables(case.arch, case.source).values()):
            counts.append(_offsets)
        return next(filter(None, (_undecidable(count, case, claimed) for count in counts)), None)


def _offsets(window: Size) -> int:
    """Offsets between two tokens of a window: rows of its relative position table."""
    return (2 * window[0] - 1) * (2 * window[1] - 1)


def _misled(misread: int, case: Case, claimed: Size | None) -> bool:
    """Whether the first rule that takes one of two token counts for a grid's takes the wrong one, or both."""
    rules = (
        lambda n: claimed is not None and prod(claimed) == n,
        lambda n: case.destination.tokens == n,
        lambda n: isqrt(n) ** 2 == n,
    )
    right = next((n for n, rule in enumerate(rules) if rule(case.source.tokens)), len(rules))
    wrong = next((n for n, rule in enumerate(rules) if rule(misread)), len(rules))
    return wrong <= right and wrong < len(rules)


def _undecidable(count: Callable[[Size], int], case: Case, claimed: Size | None) -> str | None:
    """Why no loader could know the source grid of which ``count`` is stored, told that it is ``claimed``."""
    source, destination = case.source.grid_size, case.destination.grid_size
    if claimed is not None and count(claimed) == count(source):
        return None if claimed == source else "the declared input size is false and fits the token count"
    if count(source) == count(destination):
        same = source == destination
        return None if same else "as many tokens as the model has, in another grid, and no input size declared"
    return None if source[0] == source[1] else "a non-square grid and no input size declared"
