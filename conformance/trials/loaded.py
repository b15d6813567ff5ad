"""The result of one load, and the exception for a case that cannot be judged because its load failed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from .problems import Problem, raised


class Blocked(Exception):
    """An invariant cannot be judged on a case because another invariant fails there, which reports it."""


@dataclass(frozen=True)
class Loaded:
    """The result of a conversion: a state dict or an exception.

    ``outcome`` is the exception, or the state dict in two forms: as it was returned (``raw``), and in VisionTransformer's names
    and layout (``state``). ``checkpoint_after`` is the checkpoint after the conversion.
    """

    outcome: tuple[dict[str, Tensor], dict[str, Tensor]] | Exception
    checkpoint_after: Any

    @property
    def ok(self) -> bool:
        """Whether the loader returned a state dict."""
        return not isinstance(self.outcome, Exception)

    @property
    def raw(self) -> dict[str, Tensor]:
        """The state dict as the loader returned it. Only for a load that did not raise."""
        assert not isinstance(self.outcome, Exception), "the load raised"
        return self.outcome[0]

    @property
    def state(self) -> dict[str, Tensor]:
        """The state dict in VisionTransformer's names and layout. Only for a load that did not raise."""
        assert not isinstance(self.outcome, Exception), "the load raised"
        return self.outcome[1]

    @property
    def error(self) -> Exception:
        """The exception of a load that raised."""
        assert isinstance(self.outcome, Exception), "the load did not raise"
        return self.outcome

    def problem(self, doing: str) -> Problem:
        """The raised exception as a problem."""
        return raised(self.error, doing)
