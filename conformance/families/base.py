"""A family: one upstream checkpoint format, the architectures that use it, and the timm models that load it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import isqrt, prod
from typing import TYPE_CHECKING, Any

from hypothesis.strategies import SearchStrategy
from packaging.version import Version

from ..cases.case import CONTAINERS, DOORS, FORWARD_DOORS, NPZ, Case, Geometry, Size

if TYPE_CHECKING:  # the command line reads this registry without importing torch
    from torch import Tensor

    from ..reference import Resampling

Arch = Mapping[str, Any]
Shapes = dict[str, tuple[int, ...]]
Windows = dict[str, tuple[int, ...]]
State = dict[str, "Tensor"]

KERNEL = "patch_embed.proj.weight"
# The ``known_since`` of a format that no timm release reads: a release that does not exist.
NO_RELEASE = "9999"
# Sizes that timm takes as one number too, if they are square.
PIXELS = ("img_size", "patch_size")


def _nothing(arch: Arch) -> dict[str, Any]:
    return {}


def no_tables(arch: Arch, geometry: Geometry) -> Windows:
    """The ``tables`` of a family without relative position tables."""
    return {}


def _with_blocks(arch: Arch, count: int) -> dict[str, Any]:
    return {**arch, "depth": count}


def _unchanged(case: Case, state: State) -> State:
    return state


def _no_tags(case: Case) -> frozenset[str]:
    return frozenset()


def _decidable(case: Case) -> str | None:
    return None


@dataclass(frozen=True)
class Family:
    """One checkpoint format, and all that the suite needs to generate, load and judge its checkpoints.

    The format:

    name            family name
    source          upstream repository and file, for the documentation
    shares_format   name of the ``reference`` format, if it is not the family's own name
    classic         family that loads the same checkpoints into the model they were made for, if ``module`` is another model's
    ambiguity       what a file of the format does not say, the upstream rule for it, and who follows it; for the documentation
    known_since     first timm release in which some code takes the format, however badly: a branch that looks for its keys, or
                    a loader of the models it is for; ``NO_RELEASE`` if none does, so that only the reference and loaders of
                    a user's are judged; the first release of all if the format is ``unread``
    complete_since  first timm release that converts the format in full, if that is a later one. What releases
                    between the two get wrong stands in the ledger
    unread          whether the family is for refusals alone: a release reads none of its files, and has to refuse them
    models          globs over registered timm model names that use this format; ``not_models`` are exceptions
    module          timm module of the loader; ``model_class`` is the class of its models
    models_module   timm module of the registered models, if they build ``model_class`` only with ``use_naflex``

    The checkpoints:

    architectures   strategy for ``arch``, a flat dict of options that JSON can hold
    with_blocks     ``arch`` with so many blocks
    by_model        options that follow from a registered model's name
    shapes          timm-layout tensor shapes of a checkpoint of ``arch`` at a geometry
    num_prefix_tokens  number of class, distillation and register tokens of ``arch``
    implied         model tensors that the format does not store: absent from the checkpoint, zero in the model
    foreign         shapes of tensors in such checkpoints that do not belong to the image encoder
    wrappers        how such checkpoints are nested or prefixed, as far as the loader's function opens them: it removes no
                    ``module.`` or ``_orig_mod.``, which is the file reader's (``Case.saved``); ``wrapper_since`` gives the
                    first release of later ones
    stored          converts tensors from VisionTransformer's layout, which the suite uses, to the way the checkpoint holds them
    written         converts tensors from the names that the format's rules write to others that they read as well
    containers      file formats of such checkpoints
    stride          image pixels for each pixel of the patch kernel, above 1 behind a convolutional stem
    max_patch       largest patch side to draw; 1 if the format has no patch kernel of its own
    square_patch    whether the format itself implies a square patch: "always", or only if "resampled"
    square_source_grid  whether the format itself implies a square position grid
    square_grids    whether such models have square grids: "always", or "often" (half of those drawn)
    grid_multiple   number that divides the sides of every grid, for models whose stages halve it
    grid_stored     whether positions are stored as a grid and not as a list of tokens
    misread_tokens  number of grid tokens that a loader finds if it mistakes rows of prefix tokens for grid tokens, or the
                    other way round; None if it cannot
    tables          windows of the relative position tables at a geometry, by tensor name: ``(h, w)``, or ``(s,)`` for
                    SAM's tables of one axis

    Loading:

    model_kwargs    constructor arguments of the destination model; a string ``"module:name"`` names an object of the
                    target's timm, a pair of such a string and a dict names it with these arguments bound
    more_sizes      arguments of the registered model's function that follow from the geometry, beside ``img_size`` and
                    ``patch_size``
    filters         names of the loader's function in timm's releases, newest first; "module:name" for another module
    canonical       converts a loaded state to VisionTransformer's names and layout: the inverse of the model's own
    created_kwargs  arguments of the registered model's function, if they differ from ``model_kwargs``
    filter_kwargs   arguments that timm's model function passes to the loader for ``arch``
    resampling      how kernel and grid are resampled, if that differs from the format's own way
    asks            what users ask of the model apart from ``arch``: dicts of options that replace some of ``arch``
    first_conv      name of the convolution that reads the image
    forward_arch    hyperparameters of the upstream forward that ``arch`` lacks

    Judging:

    needs           first release that supports a special case, and what is special about it, or None
    tags            regimes of a case beyond the common ones; ``own_regimes`` lists all that the family can produce
    undecidable     why no loader could know the answer for a case, or None
    no_output       why the upstream forward is not defined for a case, or None
    unreachable     regimes that no case of the family is in; ``invariant:regime`` if only that invariant cannot judge them
    in_forward      doors by which its models resize in a forward, if their output has to be that of a model made at that size
    weight          share of a profile's cases to draw: less if the family shares its code path with another
    """

    name: str
    source: str
    known_since: str
    architectures: SearchStrategy[dict[str, Any]]
    shapes: Callable[[Arch, Geometry], Shapes]
    num_prefix_tokens: Callable[[Arch], int]
    model_kwargs: Callable[[Arch], dict[str, Any]]
    models: tuple[str, ...]
    not_models: tuple[str, ...] = ()
    complete_since: str = ""
    ambiguity: str = ""
    unread: bool = False
    shares_format: str = ""
    classic: str = ""
    module: str = "vision_transformer"
    model_class: str = "VisionTransformer"
    models_module: str = ""
    with_blocks: Callable[[Arch, int], dict[str, Any]] = _with_blocks
    by_model: Callable[[str], dict[str, Any]] = lambda name: {}
    implied: Callable[[Arch], frozenset[str]] = lambda arch: frozenset()
    foreign: Callable[[Arch], Shapes] = _nothing
    wrappers: tuple[str, ...] = ("bare", "model", "state_dict", "model.state_dict")
    wrapper_since: Mapping[str, str] = field(default_factory=dict)
    stored: Callable[[Case, State], State] = _unchanged
    written: Callable[[Case, State], State] = _unchanged
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
    more_sizes: Callable[[Geometry], dict[str, Size]] = lambda geometry: {}
    canonical: Callable[[Case, State], State] = _unchanged
    created_kwargs: Callable[[Arch], dict[str, Any]] | None = None
    filter_kwargs: Callable[[Arch], dict[str, Any]] = _nothing
    resampling: Callable[[Arch], Resampling | None] = lambda arch: None
    asks: Callable[[Arch], tuple[dict[str, Any], ...]] = lambda arch: ()
    first_conv: Callable[[Arch], str] = lambda arch: KERNEL
    forward_arch: Callable[[Case], dict[str, Any]] = lambda case: {}
    needs: Callable[[Case], tuple[str, str] | None] = lambda case: None
    tags: Callable[[Case], frozenset[str]] = _no_tags
    own_regimes: frozenset[str] = frozenset()
    undecidable: Callable[[Case], str | None] = _decidable
    no_output: Callable[[Case], str | None] = _decidable
    unreachable: frozenset[str] = frozenset()
    in_forward: tuple[str, ...] = ("dynamic-img-size", "dynamic-img-pad")
    weight: float = 1.0

    @property
    def format(self) -> str:
        """Name of the family's ``reference`` format."""
        return self.shares_format or self.name

    @property
    def in_place(self) -> bool:
        """Whether timm reads the file (``.npz``) straight into a model's parameters, without ``checkpoint_filter_fn``."""
        return self.containers == NPZ

    @property
    def naflex(self) -> bool:
        """Whether the family's models are NaFlexViTs, which take images and patches of any size."""
        return self.model_class == "NaFlexVit"

    @property
    def in_no_release(self) -> bool:
        """Whether no timm release reads the format, so that none is judged on the family."""
        return self.known_since == NO_RELEASE

    @property
    def first_complete(self) -> str:
        """First timm release that converts the format in full."""
        return self.complete_since or self.known_since

    def supported_by(self, release: Version) -> bool:
        """Whether some code of a timm release takes this format."""
        return release >= Version(self.known_since)

    def reaches(self, regime: str, invariant: str) -> bool:
        """Whether an invariant can meet a regime in the cases of this family. Training scripts save .pth files."""
        if regime.startswith("door-") and regime.removeprefix("door-") not in self.doors:
            return False
        if regime.startswith("saved-") and "pth" not in self.containers:
            return False
        return not {regime, f"{invariant}:{regime}"} & self.unreachable

    @property
    def doors(self) -> tuple[str, ...]:
        """The ways in which a file of the format can be loaded: none without files, no dict of an ``.npz`` file's arrays."""
        if self.containers == ("memory",) or self.unread:
            return ()
        closed = {regime.removeprefix("door-") for regime in self.unreachable} | {*FORWARD_DOORS} - {*self.in_forward}
        closed |= {"state-dict", "local-dir"} if self.in_place else set()
        closed |= {"set-input-size"} if self.naflex else set()
        return tuple(door for door in DOORS if door not in closed)

    def unsupported(self, case: Case, release: Version) -> str | None:
        """Why a release that knows the format does not support a case, or None."""
        needed = self.needs(case)
        if needed is None and case.wrapper in self.wrapper_since:
            needed = self.wrapper_since[case.wrapper], f"the prefix or wrapper {case.wrapper!r}"
        if needed is None or release >= Version(needed[0]):
            return None
        return f"timm {release} does not know {needed[1]} (known since {needed[0]})"

    def img_size(self, arch: Arch, geometry: Geometry) -> Size:
        """Image size in pixels of a model of ``arch`` at ``geometry``, ``(height, width)``."""
        (h, w), stride = geometry.img_size, self.stride(arch)
        return h * stride, w * stride

    def sizes(self, arch: Arch, geometry: Geometry) -> dict[str, Size]:
        """The arguments ``img_size`` and ``patch_size`` of a model of ``arch`` at ``geometry``."""
        return {"img_size": self.img_size(arch, geometry), "patch_size": geometry.patch_size}

    def created_sizes(self, arch: Arch, geometry: Geometry) -> dict[str, Size]:
        """All arguments of the registered model's function that follow from ``geometry``."""
        return self.sizes(arch, geometry) | self.more_sizes(geometry)

    def undecidable_grid(self, case: Case, default_input_size: Size) -> str | None:
        """Why no loader could know the source grid, or None if a loader can.

        A position grid that is stored as a list of tokens does not say its shape. A loader may use these rules, in order:

        1. the format, if its grids are square by definition;
        2. the declared input size, if it accounts for every token;
        3. the model's grid, if it has as many tokens;
        4. a square, if the number of tokens is square.

        A false declaration that accounts for every token misleads any correct loader. If the list may or may not begin with
        rows of prefix tokens, each rule has to separate the two readings.
        """
        if case.declared == "true" or self.square_source_grid:
            return None
        claimed: Size | None = None
        if case.declared == "default":
            stride = self.stride(case.arch)
            (height, width), (ph, pw) = default_input_size, case.source.patch_size
            claimed = height // (ph * stride), width // (pw * stride)
        counts: list[Callable[[Size], int]] = []
        if not self.grid_stored and case.arch.get("pos_embed") != "none":
            counts.append(prod)
            misread = self.misread_tokens(case)
            if misread is not None and _misled(misread, case, claimed):
                return "the rows of prefix tokens may or may not be among the positions, and no input size tells"
        if any(len(window) == 2 for window in self.tables(case.arch, case.source).values()):
            counts.append(_offsets)
        return next(filter(None, (_undecidable(count, case, claimed) for count in counts)), None)


def _offsets(window: Size) -> int:
    """Number of offsets between two tokens of a window, which is the number of rows of its relative position table."""
    return (2 * window[0] - 1) * (2 * window[1] - 1)


def _misled(misread: int, case: Case, claimed: Size | None) -> bool:
    """Whether the first rule that accepts one of the two token counts accepts the wrong one, or both."""
    rules = (
        lambda n: claimed is not None and prod(claimed) == n,
        lambda n: case.destination.tokens == n,
        lambda n: isqrt(n) ** 2 == n,
    )
    right = next((n for n, rule in enumerate(rules) if rule(case.source.tokens)), len(rules))
    wrong = next((n for n, rule in enumerate(rules) if rule(misread)), len(rules))
    return wrong <= right and wrong < len(rules)


def _undecidable(count: Callable[[Size], int], case: Case, claimed: Size | None) -> str | None:
    """Why no loader could know the source grid if only ``count`` of it is stored and ``claimed`` is declared, or None."""
    source, destination = case.source.grid_size, case.destination.grid_size
    if claimed is not None and count(claimed) == count(source):
        return None if claimed == source else "the declared input size is false and fits the token count"
    if count(source) == count(destination):
        same = source == destination
        return None if same else "as many tokens as the model has, in another grid, and no input size declared"
    return None if source[0] == source[1] else "a non-square grid and no input size declared"
