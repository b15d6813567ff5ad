"""A load of a checkpoint file as a user does it, by ``timm.create_model`` or another door, and what timm says meanwhile."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from ..cases.case import Case
from ..checkpoints import files
from ..families import Family
from ..targets.doors import Visit, open_door
from ..targets.loader import Loader
from ..targets.models import Unsupported
from ..targets.scratch import scratch_folder


@dataclass(frozen=True)
class Created:
    """The model, or the exception of a load that was refused, with what timm's logger warned of."""

    outcome: nn.Module | Exception
    warned: tuple[str, ...]


def create(loader: Loader, family: Family, case: Case, upstream: Mapping[str, Tensor]) -> Created:
    """Write ``upstream`` to a file of the case's kind and load it by ``create_model``.

    Raises :class:`Unsupported` if the release cannot be asked for the model.
    """
    return _loaded(case, upstream, lambda path: loader.create_model(family, case, path))


def enter(loader: Loader, family: Family, case: Case, upstream: Mapping[str, Tensor]) -> Created:
    """The same by the case's door. Raises :class:`Unsupported` if the release lacks the door, or the case cannot go through."""
    return _loaded(case, upstream, lambda path: open_door(Visit(loader, family, case, path)))


def _loaded(case: Case, upstream: Mapping[str, Tensor], load: Callable[[Path], nn.Module]) -> Created:
    with scratch_folder() as folder, _listening() as warned:
        path = files.write_case(dict(upstream), case, Path(folder))
        try:
            outcome: nn.Module | Exception = load(path)
        except Unsupported:
            raise
        except Exception as error:
            outcome = error
    return Created(outcome, tuple(warned))


class _Listener(logging.Handler):
    def __init__(self, heard: list[str]) -> None:
        super().__init__(logging.WARNING)
        self._heard = heard

    def emit(self, record: logging.LogRecord) -> None:
        self._heard.append(record.getMessage())


@contextmanager
def _listening() -> Iterator[list[str]]:
    """What timm's logger warns of meanwhile; the loader silences it otherwise.

    Warnings of Python are no word about a load: torch's functions give them, some once in a process.
    """
    heard: list[str] = []
    logger, listener = logging.getLogger("timm"), _Listener(heard)
    level, propagate = logger.level, logger.propagate
    logger.setLevel(logging.WARNING)
    logger.propagate = False
    logger.addHandler(listener)
    try:
        yield heard
    finally:
        logger.removeHandler(listener)
        logger.setLevel(level)
        logger.propagate = propagate
