"""What the target makes of a file: of the file as it stands, or of the tensors that a user takes out of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from torch import Tensor

from ..families import FAMILIES
from ..targets.loader import Loader
from . import calls
from .detection import Recognised
from .handing import lines_to_read, unread_container
from .loading import Checkpoint, Loaded, RequestedModel, load
from .opening import Opening
from .protocol import Answer, Request
from .reading import Located, read
from .taking_out import TakenOut, foreign_heads, has_namespace


class TargetLoads:
    """Loads of one file by the target.

    ``config`` is the config.json beside the file, ``default`` the registered model. ``state`` are the tensors that the target is
    given in place of the file, once it has been seen to read nothing of the file as it stands.
    """

    def __init__(
        self, request: Request, loader: Loader, located: Located, config: Mapping[str, Any], default: Any
    ) -> None:
        self.request, self.loader, self.located, self.config, self.default = request, loader, located, config, default
        self.state: Mapping[str, Tensor] | None = None
        self._to_compare: tuple[RequestedModel, Checkpoint, dict[str, calls.Digest]] | None = None

    def checkpoint(self, recognised: Recognised | None) -> Checkpoint:
        """The checkpoint for the target. For an unknown format, the model's own classes and channels are declared."""
        family = recognised.family if recognised else FAMILIES["timm_native"]
        return Checkpoint(
            located=self.located,
            config=self.config,
            family=family,
            arch=family.by_model(self.request.model),
            num_classes=recognised.num_classes if recognised else self.default.num_classes,
            in_chans=recognised.in_chans if recognised else 3,
            input_size=self.request.input_size,
            declared=self.default.pretrained_cfg["input_size"][-2:],
            state=self.state,
        )

    def load(self, wanted: RequestedModel, recognised: Recognised | None) -> Loaded:
        """The load of the file, or of what was taken out of it."""
        return load(self.loader, wanted, self.checkpoint(recognised), partial(read, self.located.named))

    def load_or_take_out(
        self,
        wanted: RequestedModel,
        recognised: Recognised,
        opening: Opening,
        right: Mapping[str, Tensor],
        content: Mapping[str, Any],
        result: Answer,
    ) -> Loaded:
        """The load of the file; where the target reads nothing of it, that of the tensors which lie in it.

        ``right`` is the state dict that the load should give. The calls are noted in ``result``.
        """
        opened, checkpoint, taken_out = opening.opened, self.checkpoint(recognised), None
        loaded = self.load(wanted, recognised)
        if opening.by_hand_of(loaded.state_dict, right):
            given, state, heads = self._given(wanted, checkpoint, opened.state, right)
            if given.state_dict.keys() & right.keys():
                result.unread = calls.unread(
                    self.request.target, loaded, opened, opening.left_out, opening.numpy, right
                )
                self.state, loaded = state, given
                loaded.given = f"the tensors {opened.where or 'in it'}"
                taken_out = TakenOut(
                    opened, opening.chunked, heads, has_namespace(content), opening.left_out, opening.numpy
                )
        result.given = loaded.given
        if self.loader.target.is_timm:
            container = "" if loaded.by_folder else unread_container(self.located)
            reading = lines_to_read(self.located, opened.entry) if container else []
            if container:
                result.unread = f"{self.request.target} {container}"
            result.call = calls.code(wanted, checkpoint, taken_out, loaded, reading)
            if taken_out is None and loaded.failure is None and loaded.model is not None and not loaded.by_folder:
                self._to_compare = wanted, checkpoint, calls.digests(loaded.model.state_dict())
        return loaded

    def not_by(self) -> list[str]:
        """Other calls that do not give the model which was loaded, and why. The model may be released before."""
        if self._to_compare is None:
            return []
        return [f"{name}: {reason}" for name, reason in calls.others(*self._to_compare) if reason]

    def _given(
        self, wanted: RequestedModel, checkpoint: Checkpoint, state: dict[str, Tensor], right: Mapping[str, Tensor]
    ) -> tuple[Loaded, dict[str, Tensor], str]:
        """The load of tensors, without a head that the model has not; the tensors, and the beginning of the head's names."""
        way = partial(load, self.loader, wanted)
        loaded = way(dataclasses.replace(checkpoint, state=state), partial(read, self.located.named))
        heads = foreign_heads(loaded, state, right) if loaded.failure is not None else ""
        if heads:
            state = {k: v for k, v in state.items() if not k.startswith(heads)}
            loaded = way(dataclasses.replace(checkpoint, state=state), partial(read, self.located.named))
        return loaded, state, heads

    def unnoticed(self, wanted: RequestedModel, recognised: Recognised | None) -> str:
        """That a refused file loads with another number of classes, where the load is not strict; empty if it does not."""
        if not self.loader.target.is_timm or wanted.num_classes is not None:
            return ""
        loaded = self.load(replace(wanted, num_classes=self.default.num_classes + 1), recognised)
        if loaded.failure is not None or loaded.model is None:
            return ""
        held = len(loaded.state_dict.keys() & loaded.model.state_dict().keys())
        return (
            f"beware: with another num_classes= the load is not strict, and {self.request.target} accepts the file; it then "
            f"uses {held or 'none'} of its tensors"
        )
