"""One check, in a process with the target's timm: read, load by the reference and by the target, compare, run both.

No more than two copies of the checkpoint are in memory at a time: what was read and what the target loaded. The tensors of a
``.npz`` file are none that either could use as they are, so they are let go once converted, and read again to be run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
from torch import Tensor, nn

from ..cases.case import Case, Geometry
from ..errors import EXIT_EXPECTED, EXIT_FAILURE, EXIT_USAGE, UserError
from ..families import FAMILIES, Family
from ..ledger.entries import DEFAULT_LEDGER, load_ledger
from ..reference import Format, LoadError, unwrap
from ..reference.destination import FIRST, Destination
from ..reference.loader import Source
from ..targets.loader import Loader
from ..targets.target import parse_target
from ..trials.problems import Problem
from . import advice, fix
from .comparison import Checked, grouped
from .detection import evidence, families_of, recognised
from .hyperparameters import TAKEN, hyperparameters
from .loading import Checkpoint, Loaded, Wanted, create, known_model, load
from .protocol import Answer, Difference, Forward, Request
from .reading import kind, read
from .sanity import sane

_HEADS = ("head.weight", "head.fc.weight")


def judged(request: Request) -> Answer:
    """The answer to a request. Raises :class:`UserError` for a file that cannot be read, and for impossible arguments."""
    return _Check(request).answered()


@dataclass(frozen=True)
class _Own:
    """What a checkpoint is, before any geometry: its format and families, what it was trained for, what its keys are."""

    form: Format
    families: list[Family]
    num_classes: int
    in_chans: int

    @property
    def family(self) -> Family:
        """The likeliest family; where none has such models, one of the format."""
        return self.families[0] if self.families else next(f for f in FAMILIES.values() if f.format == self.form.name)


class _Check:
    def __init__(self, request: Request) -> None:
        self.request = request
        self.path = Path(request.path)
        self.result = Answer(target=request.target, model=request.model, container=kind(self.path))
        self.loader = Loader(parse_target(request.target))
        self.module = known_model(self.loader, request.model)
        self.ledger = load_ledger(request.ledger or DEFAULT_LEDGER)
        # timm builds a model at the input size that it is told, where no other is asked for.
        self.wanted = Wanted(request.model, request.patch_size, request.img_size or request.input_size)
        self.default = create(self.wanted)
        try:
            self.usual = Destination.of(self.default)
        except LoadError as error:
            raise UserError(f"--model {request.model}: {error}") from None
        self.content: Mapping[str, Any] | None = read(self.path)
        self.names = frozenset(self.content)
        self.own: _Own | None = None

    def answered(self) -> Answer:
        result = self.result
        try:
            self.own = self._recognised()
            trial = self._compared(self.own)
            trial = trial.native()  # what was compared is gone before anything else is loaded
            judged_already = trial.outcome.model is not None
            result.forward = self._run(trial, self.own)
        except LoadError as error:
            self._refused(str(error))
            return result
        result.exit_code = EXIT_FAILURE if result.error or result.differences else EXIT_EXPECTED
        self._advise(judged_already)
        return result

    def _converted(self) -> None:
        """The file's tensors are no longer needed; those of a mapped file take no memory."""
        if self.result.container == "npz":
            self.content = None

    # -- what it is --------------------------------------------------------------------------------------------------

    def _recognised(self) -> _Own:
        state = unwrap(self.content)
        try:
            form = recognised(state, self.usual.shapes, self.request.model, self.module)
        except LoadError:
            _look(state)  # it has more to say of some
            raise
        families = families_of(form, self.request.model, self.module)
        self.result.format = form.name
        self.result.evidence = evidence(form, state)
        self.result.families = [f.name for f in families]
        _look(state)
        shapes = form.decode({k: v.to("meta") for k, v in state.items()}, self.usual.facts)
        classes = next((len(shapes[k]) for k in _HEADS if k in shapes), 0)
        first = next((shapes[k] for k in reversed(FIRST) if k in shapes), None)
        return _Own(form, families, classes, self.usual.facts.in_chans if first is None else first.shape[1])

    def _asked(self, own: _Own) -> Wanted:
        """The model asked for, with the checkpoint's classes and channels where nothing is said."""
        counts = {"num_classes": own.num_classes, "in_chans": own.in_chans}
        given = {k: n if getattr(self.request, k) is None else getattr(self.request, k) for k, n in counts.items()}
        self.result.classes = own.num_classes, given["num_classes"]
        self.result.in_chans = own.in_chans, given["in_chans"]
        return replace(self.wanted, **self._counted(given))

    def _counted(self, counts: Mapping[str, int]) -> dict[str, int | None]:
        """Numbers of classes and channels that differ from the registered model's; the others need not be said."""
        usual = {"num_classes": self.default.num_classes, "in_chans": self.usual.facts.in_chans}
        return {k: None if n == usual[k] else n for k, n in counts.items()}

    # -- tensor by tensor --------------------------------------------------------------------------------------------

    def _compared(self, own: _Own) -> Checked:
        """Load by the reference and by the target. Raises :class:`LoadError` where the reference refuses."""
        request, result, family = self.request, self.result, own.family
        asked = self._asked(own)
        self.wanted = asked
        model = create(asked)
        resampling = family.resampling(family.by_model(request.model))
        other_classes = request.num_classes not in (None, own.num_classes)
        options = {"input_size": request.input_size, "resampling": resampling, "keep_classifier": other_classes}
        source = Source.of(self.content, model, **options)
        right, destination = source.fitted(model), Destination.of(model)
        case = self._case(own, model, source, destination)
        result.source, result.destination, result.stride = case.source, case.destination, destination.stride
        old, new = (next(iter(windows.values()), None) for windows in (source.windows, destination.windows))
        result.windows = None if new in (None, destination.grid_size) else (old, new)
        if request.fix:
            made = {"format": own.form.name, **msgspec.to_builtins(asked), "source": str(case.source)}
            fix.write(Path(request.fix), right, made)
            result.fixed = request.fix
        self._converted()
        loaded = self._loaded(asked, own)
        trial = Checked(family, case, self.loader, source, destination, right, loaded)
        result.loaded = loaded.failure is None
        problems = [] if loaded.given else [loaded.failure]
        result.error = "" if loaded.failure is None else loaded.failure.message
        result.differences = self._explained(trial, trial.differences() if loaded.given else problems)
        result.tensors, result.fraction = len(trial.created), max(trial.fractions, default=0.0)
        return trial

    def _case(self, own: _Own, model: nn.Module, source: Source, destination: Destination) -> Case:
        """What is checked, as the suite knows it: invariants and the ledger speak of cases."""
        request, upstream = self.request, unwrap(self.content)
        (chans, asked_chans), (classes, asked_classes) = self.result.in_chans, self.result.classes
        arch = hyperparameters(model, upstream, source.state) | own.family.by_model(request.model)
        grids = (old for k, old in source.windows.items() if destination.windows[k] == destination.grid_size)
        return Case(
            family=own.family.name,
            arch=arch | {"in_chans": chans},
            source=Geometry(source.patch_size, source.grid_size or next(grids, destination.grid_size)),
            destination=Geometry(destination.patch_size, destination.grid_size),
            dtype=_dtype(source.state),
            wrapper="bare" if upstream.keys() == self.content.keys() else "model",
            declared="true" if request.input_size else "default",
            container=self.result.container,
            model_name=request.model,
            in_chans=None if chans == asked_chans else asked_chans,
            num_classes=None if classes == asked_classes else asked_classes,
        )

    def _loaded(self, wanted: Wanted, own: _Own | None) -> Loaded:
        """The checkpoint in the target; one of no known format is said to have the model's classes and channels."""
        family = own.family if own else FAMILIES["timm_native"]
        counts = (own.num_classes, own.in_chans) if own else (self.default.num_classes, 3)
        arch = family.by_model(self.request.model)
        file = (self.path, self.result.container, self.names)
        checkpoint = Checkpoint(*file, family, arch, *counts, self.request.input_size)
        return load(self.loader, wanted, checkpoint, partial(read, self.path))

    def _explained(self, trial: Checked, problems: Any) -> list[Difference]:
        families = self.result.families or [trial.family.name]

        def explain(problem: Problem) -> list[str]:
            return advice.explaining(self.ledger, self.loader.release, families, problem, trial.regimes)

        return grouped(problems, explain)

    # -- what it computes --------------------------------------------------------------------------------------------

    def _run(self, trial: Checked, own: _Own) -> Forward:
        """Compare the loaded model's output at the checkpoint's own geometry with the upstream model's."""
        reason = trial.incomparable() if own.families else "only the model, no key, tells what this checkpoint is of"
        if reason:
            return Forward("not compared", reason)
        if trial.outcome.model is None:
            trial.outcome = self._loaded(self._native(own, trial.case), own)
        if trial.outcome.failure is not None:
            said = trial.outcome.failure.message
            return Forward("not compared", f"the target does not load it at its own size: {said}")
        try:
            problems = list(trial.outputs(unwrap(self.content or read(self.path))))
        except LoadError as error:
            return Forward("not compared", str(error))
        taken = {k: trial.case.arch[k] for k in TAKEN if trial.case.arch.get(k)}
        if not problems:
            return Forward("agrees", "", max(trial.fractions, default=0.0), taken)
        (found,) = self._explained(trial, problems)
        return Forward("differs", found.text, found.fraction, taken, found.entries)

    def _native(self, own: _Own, case: Case) -> Wanted:
        """The model at the checkpoint's own geometry, with its classes and channels."""
        counts = self._counted({"num_classes": own.num_classes, "in_chans": own.in_chans})
        usual = case.source.patch_size == self.usual.patch_size and not self.request.patch_size
        patch = None if usual else case.source.patch_size
        return Wanted(self.request.model, patch, own.family.img_size(case.arch, case.source), **counts)

    # -- what to do --------------------------------------------------------------------------------------------------

    def _refused(self, reason: str) -> None:
        """The reference cannot use the checkpoint: say so, and whether the target loads it all the same."""
        result = self.result
        result.refused, result.exit_code = reason, EXIT_USAGE
        loaded = self._loaded(self.wanted, self.own)
        result.loaded = loaded.failure is None
        result.error = "" if loaded.failure is None else loaded.failure.message
        if result.loaded:
            result.tensors = len(loaded.given.keys() & loaded.model.state_dict().keys())
        result.advice = advice.of_refusal(reason, result.format)

    def _advise(self, same_load: bool) -> None:
        """What is known and what to do; ``same_load`` says that the output is that of the very tensors that were compared."""
        result = self.result
        found = [*result.differences, result.forward]
        entries = [self.ledger.entry(name) for name in dict.fromkeys(name for one in found for name in one.entries)]
        result.known = [advice.known(entry) for entry in entries]
        lines = [advice.mended(entry) for entry in entries]
        if result.forward.verdict == "differs" and not entries and not result.differences:
            lines += advice.beside_the_loader(result.format, result.forward.taken, same_load)
        if result.fixed:
            lines += advice.to_load(self.wanted, result.fixed)
        elif result.error or result.differences:
            lines.append(advice.to_fix())
        result.advice = list(dict.fromkeys(lines))


def _look(state: Mapping[str, Tensor]) -> None:
    """Refuse, as the reference does, what cannot be weights at all. Raises :class:`LoadError`."""
    try:
        sane(state)
    except UserError as error:
        raise LoadError(str(error)) from None


def _dtype(state: Mapping[str, Tensor]) -> str:
    """The dtype of a checkpoint's tensors, by the first that is floating point."""
    return next(str(t.dtype).removeprefix("torch.") for t in state.values() if t.is_floating_point())
