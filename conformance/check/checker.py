"""One check of a checkpoint, in a process that has the target's timm.

The check reads the file or folder, loads it by the reference and by the target, compares the tensors, and compares the outputs.

At most two copies of the checkpoint are in memory at a time: the one read and the one that the target loaded. No loader uses
the tensors of a Flax tree as they are. So they are released after conversion, and read again for the forward pass.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
from torch import Tensor, nn

from ..cases.case import Case, Geometry
from ..errors import EXIT_EXPECTED, EXIT_FAILURE, EXIT_USAGE, UserError
from ..ledger.entries import DEFAULT_LEDGER, load_ledger
from ..reference import LoadError, open_checkpoint, unwrap
from ..reference.destination import Destination
from ..reference.loader import Source
from ..targets.loader import Loader
from ..targets.target import parse_target
from ..trials.problems import Problem
from . import advice, fix, refusal, sizes
from .comparison import CheckpointTrial, grouped
from .detection import Detector, Recognised, evidence
from .handing import unread_container
from .hyperparameters import NOT_IN_TENSORS, hyperparameters
from .loading import RequestedModel, create, known_model
from .opening import Opening, SeveralModels, opening
from .outside import Told, told
from .protocol import Answer, Difference, Forward, Request
from .reading import beside, locate, read
from .sanity import require_weights
from .target_loads import TargetLoads


def check_checkpoint(request: Request) -> Answer:
    """Check a checkpoint file. Raises :class:`UserError` for a file that cannot be read, and for impossible arguments."""
    return _Check(request).run()


class _Check:
    """One check and the answer that it fills in step by step.

    ``wanted`` is the model that the user asks for, ``default`` the registered model at the sizes and with the options asked for,
    and ``usual`` the shapes and sizes of ``default``.
    """

    def __init__(self, request: Request) -> None:
        self.request = request
        self.path = Path(request.path)
        self.located = locate(self.path)
        self.result = Answer(target=request.target, model=request.model, container=self.located.container)
        self.loader = Loader(parse_target(request.target))
        self.module = known_model(self.loader, request.model)
        self.ledger = load_ledger(request.ledger or DEFAULT_LEDGER)
        self.faults = self.loader.library_faults
        self.entries = self.ledger.active(self.loader.release, self.faults)
        # timm builds a model at the declared input size unless an img_size is given.
        size = request.img_size or request.input_size
        self.wanted = RequestedModel(request.model, request.patch_size, size, options=request.options)
        self.default: Any = create(self.wanted)
        try:
            self.usual = Destination.of(self.default)
        except LoadError as error:
            raise UserError(f"--model {request.model}: {error}") from None
        self.detector = Detector(request.model, self.module, self.usual)
        self.wanted = replace(self.wanted, num_classes=request.num_classes, in_chans=request.in_chans)
        self._content: Mapping[str, Any] | None = read(self.path)
        self.opening: Opening | None = None
        self.beside = beside(self.path, self._content)
        self.result.read = self.beside.notes
        self.recognised: Recognised | None = None
        self.told = Told()
        self.other_heads = ""
        self.loads = TargetLoads(request, self.loader, self.located, self.beside.config, self.default)

    def run(self) -> Answer:
        """Do the check. Raises :class:`UserError`."""
        result = self.result
        result.notes = [*filter(None, [self.located.misnamed]), *sizes.notes(self.request, self.usual)]
        try:
            self.recognised = self._recognise()
            trial = self._compare_tensors(self.recognised)
            trial = trial.at_native_geometry()  # releases what was compared before anything else is loaded
            judged_already = trial.outcome.model is not None
            result.forward = forward = self._compare_outputs(trial, self.recognised)
        except LoadError as error:
            self._report_refusal(str(error))
            return result
        wrong = result.error or result.differences or result.unread
        result.exit_code = EXIT_FAILURE if wrong else EXIT_EXPECTED
        case = trial.case
        del trial  # and its model
        result.not_by = self.loads.not_by()
        self._advise(case, forward, judged_already)
        return result

    def _release_content(self) -> None:
        """Release the file's tensors, which are no longer needed. Those of a memory-mapped file take no memory."""
        if self.located.file_kind == "npz" and self.opening is not None:
            self._content = None
            self.opening = replace(self.opening, opened=replace(self.opening.opened, state={}))

    @property
    def content(self) -> Mapping[str, Any]:
        """What the file holds, read again where it was released."""
        return read(self.path) if self._content is None else self._content

    @property
    def given(self) -> Mapping[str, Any]:
        """The checkpoint for the reference: the file as it stands, or the tensors that a search or the user took out of it."""
        assert self.opening is not None
        return self.content if self.opening.by_timm else self.opening.opened.state

    # -- what it is --------------------------------------------------------------------------------------------------

    def _recognise(self) -> Recognised:
        request = self.request
        try:
            self.opening = opening(self.content, self.detector, request.entry, request.prefix)
        except SeveralModels as error:
            self.result.beside = error.beside
            raise
        except LoadError:
            opened = None
            with suppress(LoadError):
                opened = open_checkpoint(self.content)
            if opened is not None:
                self.result.opened = opened.where
                _require_weights(opened.state)  # gives a better reason for some files
            raise
        opened = self.opening.opened
        self.result.opened, self.result.beside, state = self.opening.where, self.opening.beside, opened.state
        left_out = self.opening.left_out
        self.result.causes += [left_out.cause.text] if left_out.cause else []
        self.result.notes += left_out.notes
        recognised = self.detector.recognised(state)
        self.result.format = recognised.form.name
        self.result.evidence = evidence(recognised.form, state)
        self.result.families = [f.name for f in recognised.families]
        _require_weights(state)
        self.told = told(self.content, state, self.beside.config)
        size = (
            self.told.input_size(self.detector.decoded(state, recognised.form)) if request.input_size is None else None
        )
        self.result.notes += self.told.text() + self.told.size_text(size)
        if size is not None:
            self.request = self.loads.request = msgspec.structs.replace(request, input_size=size)
            self.wanted = replace(self.wanted, img_size=self.wanted.img_size or size)
        return recognised

    def _requested_model(self, recognised: Recognised) -> RequestedModel:
        """The model asked for. It has the checkpoint's classes and channels unless the request names others."""
        own = {"num_classes": recognised.num_classes, "in_chans": recognised.in_chans}
        asked = {k: getattr(self.request, k) for k in own}
        given = {k: n if asked[k] is None else asked[k] for k, n in own.items()}
        self.result.classes = recognised.num_classes, given["num_classes"]
        self.result.in_chans = recognised.in_chans, given["in_chans"]
        unusual = self._unusual_counts(given)
        return replace(self.wanted, **{k: unusual[k] if asked[k] is None else asked[k] for k in own})

    def _unusual_counts(self, counts: Mapping[str, int]) -> dict[str, Any]:
        """Numbers of classes and channels that ``create_model`` has to be given: None for the registered model's own."""
        usual = {"num_classes": self.default.num_classes, "in_chans": self.usual.facts.in_chans}
        return {k: None if n == usual[k] else n for k, n in counts.items()}

    # -- tensor by tensor --------------------------------------------------------------------------------------------

    def _compare_tensors(self, recognised: Recognised) -> CheckpointTrial:
        """Load by the reference and by the target, and compare. Raises :class:`LoadError` if the reference refuses."""
        request, result, family = self.request, self.result, recognised.family
        asked = self._requested_model(recognised)
        self.wanted = asked
        model = create(asked)
        resampling = family.resampling(family.by_model(request.model))
        other_classes = request.num_classes not in (None, recognised.num_classes)
        source = Source.of(
            self.given,
            model,
            input_size=request.input_size,
            resampling=resampling,
            keep_classifier=other_classes,
        )
        right, destination = source.fitted(model), Destination.of(model)
        case = self._case(recognised, model, source, destination)
        result.source, result.destination, result.stride = case.source, case.destination, destination.stride
        positions = self.detector.decoded(self._upstream(), recognised.form).get("pos_embed")
        result.notes += sizes.guessed_grid(request, source, destination, 0 if positions is None else positions.ndim)
        result.notes += sizes.channels(*result.in_chans)
        old, new = (next(iter(windows.values()), None) for windows in (source.windows, destination.windows))
        result.windows = (old, new) if old and new and new != destination.grid_size else None
        if request.fix:
            made = {"format": recognised.form.name, **msgspec.to_builtins(asked), "source": str(case.source)}
            fix.write(Path(request.fix), right, made)
            result.fixed = request.fix
        self._release_content()
        assert self.opening is not None
        loaded = self.loads.load_or_take_out(asked, recognised, self.opening, right, self._content or {}, result)
        trial = CheckpointTrial(family, case, self.loader, source, destination, right, loaded)
        result.loaded = loaded.failure is None
        problems = [] if loaded.state_dict else [loaded.failure]
        result.error = "" if loaded.failure is None else loaded.failure.message
        result.differences = self._with_ledger(trial, trial.differences() if loaded.state_dict else problems)
        result.tensors, result.fraction = len(trial.created), max(trial.fractions, default=0.0)
        return trial

    def _case(self, recognised: Recognised, model: nn.Module, source: Source, destination: Destination) -> Case:
        """The check as a case of the suite, which invariants and the ledger need."""
        assert self.opening is not None
        request, upstream = self.request, self.opening.opened.state
        (chans, asked_chans), (classes, asked_classes) = self.result.in_chans, self.result.classes
        arch = hyperparameters(model, upstream, source.state) | recognised.family.by_model(request.model)
        self.other_heads = self.told.other_heads(arch["num_heads"])
        grids = (old for k, old in source.windows.items() if destination.windows[k] == destination.grid_size)
        return Case(
            family=recognised.family.name,
            arch=arch | self.told.options | {"in_chans": chans},
            source=Geometry(source.patch_size, source.grid_size or next(grids, destination.grid_size)),
            destination=Geometry(destination.patch_size, destination.grid_size),
            dtype=_dtype(source.state),
            wrapper="bare" if upstream.keys() == self.content.keys() else "model",
            declared="true" if request.input_size else "default",
            container=self.located.file_kind,
            model_name=request.model,
            in_chans=None if chans == asked_chans else asked_chans,
            num_classes=None if classes == asked_classes else asked_classes,
        )

    def _with_ledger(self, trial: CheckpointTrial, problems: Any) -> list[Difference]:
        families = self.result.families or [trial.family.name]

        def explain(problem: Problem) -> list[str]:
            return advice.explaining_entries(self.entries, families, problem, trial.regimes)

        return grouped(problems, explain)

    # -- what it computes --------------------------------------------------------------------------------------------

    def _compare_outputs(self, trial: CheckpointTrial, recognised: Recognised) -> Forward:
        """Compare the loaded model's output at the checkpoint's own geometry with the upstream model's."""
        reason = (
            trial.incomparable() if recognised.families else "only the model, no key, tells what this checkpoint is of"
        )
        if reason:
            return Forward("not compared", reason)
        if trial.outcome.model is None:
            trial.outcome = self.loads.load(self._native_model(recognised, trial.case), recognised)
        if trial.outcome.failure is not None:
            said = trial.outcome.failure.message
            own = "" if said == self.result.error else f" at its own size: {said}"
            return Forward("not compared", f"the target does not load it{own}")
        try:
            problems = list(trial.outputs(self._upstream()))
        except LoadError as error:
            return Forward("not compared", str(error))
        arch = trial.case.arch
        taken = {k: arch[k] for k in NOT_IN_TENSORS if arch.get(k) and k not in self.told.options}
        if not problems:
            return Forward("same", "", max(trial.fractions, default=0.0), taken)
        (found,) = self._with_ledger(trial, problems)
        return Forward("differs", found.text, found.fraction, taken, found.entries)

    def _upstream(self) -> Mapping[str, Tensor]:
        """The tensors of the checkpoint in the upstream layout, read again where they were released."""
        assert self.opening is not None
        return unwrap(self.content) if self.opening.by_timm else self.opening.opened.state

    def _native_model(self, recognised: Recognised, case: Case) -> RequestedModel:
        """The model at the checkpoint's own geometry, with its classes and channels."""
        counts = self._unusual_counts({"num_classes": recognised.num_classes, "in_chans": recognised.in_chans})
        usual = case.source.patch_size == self.usual.patch_size and not self.request.patch_size
        patch = None if usual else case.source.patch_size
        size = recognised.family.img_size(case.arch, case.source)
        return RequestedModel(self.request.model, patch, size, **counts, options=self.request.options)

    # -- what to do --------------------------------------------------------------------------------------------------

    def _report_refusal(self, reason: str) -> None:
        """Report that the reference cannot use the checkpoint, and whether the target loads it."""
        result = self.result
        state = None if self.opening is None or not result.format else self.opening.opened.state
        found = refusal.explain(
            reason, self.content, state, result.format, self.wanted, self.detector, self.loader.timm_version
        )
        result.refused, result.advice = found.reason, found.to_do
        result.causes += found.causes
        result.exit_code = EXIT_USAGE
        loaded = self.loads.load(self.wanted, self.recognised)
        result.loaded = loaded.failure is None
        result.error = "" if loaded.failure is None else loaded.failure.message
        if loaded.model is not None and result.loaded:
            result.tensors = len(loaded.state_dict.keys() & loaded.model.state_dict().keys())
        beware = "" if result.loaded else self.loads.unnoticed(self.wanted, self.recognised)
        result.advice += [beware] if beware else []

    def _advise(self, case: Case, forward: Forward, same_load: bool) -> None:
        """Add the known bugs and the advice.

        ``same_load`` tells whether the output comes from the same load as the tensors that were compared.
        """
        result = self.result
        found: list[Difference | Forward] = [*result.differences, forward]
        named = [self.ledger.entry(name) for name in dict.fromkeys(name for one in found for name in one.entries)]
        entries = [entry for entry in named if entry is not None]
        result.known = [advice.describe(entry) for entry in entries]
        lines = [advice.remedy(entry, self.faults) for entry in entries]
        if forward.verdict == "differs" and not entries and not result.differences:
            lines += advice.causes_beside_the_loader(result.format, forward.taken, same_load)
        if forward.verdict == "differs" and self.other_heads:
            lines.insert(0, self.other_heads)
        if forward.verdict == "differs" and self.told.openai:
            lines += advice.with_quick_gelu(self.request.model, self.loader)
        if result.error or result.differences:
            lines += advice.in_no_release(result.format)
        if result.error and not entries:
            causes = refusal.causes_of(self._upstream(), result.format, self.detector)
            told, to_do = advice.cause_lines(causes)
            result.causes += told
            lines += to_do
        if result.unread:
            assert self.opening is not None
            assert self.recognised is not None
            reader = ""
            if not self.opening.left_out and not unread_container(self.located):
                reader = advice.first_reader(self.recognised.family, case, self.opening.opened, self.loader.release)
            by_hand = "" if result.error or not result.call else "read its tensors as the call above does, or use --fix"
            wrapped = self.opening.left_out.cause
            lines = [*filter(None, [reader or by_hand]), *([wrapped.to_do] if wrapped else []), *lines]
        if result.fixed:
            lines += advice.loading_code(self.wanted, result.fixed)
        elif result.error or result.differences or result.unread:
            lines.append(advice.fix_hint())
        result.advice = list(dict.fromkeys(lines))


def _require_weights(state: Mapping[str, Tensor]) -> None:
    """Raise :class:`LoadError`, as the reference does, for tensors that cannot be weights."""
    try:
        require_weights(state)
    except UserError as error:
        raise LoadError(str(error)) from None


def _dtype(state: Mapping[str, Tensor]) -> str:
    """The dtype of the checkpoint's first floating-point tensor."""
    return next(str(t.dtype).removeprefix("torch.") for t in state.values() if t.is_floating_point())
