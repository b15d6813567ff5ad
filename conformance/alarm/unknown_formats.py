"""The alarm for unknown formats: ``python -m timm_conformance.alarm [TARGET...]``.

A loader detects a checkpoint format by strings that it tests against the keys (``detection_strings.py`` reads them from a
release's source). The alarm prints each string that occurs in no key of the checkpoints that our families generate. So a new
release cannot add a format unnoticed.
"""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

from packaging.version import Version

from .. import families
from ..cases.case import Case
from ..errors import EXIT_EXPECTED, EXIT_FAILURE, EXIT_USAGE, UserError
from ..targets import releases
from ..targets.registry import MODULES
from ..targets.target import parse_target
from .detection_strings import Detection, detection_strings

STRATA = ("native", "real-own")
EXAMPLES = 20  # cases of a family and stratum; keys depend on the architecture options and the wrapper alone

# (function, text) -> why the text detects no format. In other functions, the same text is still reported.
NOT_A_FAMILY: dict[tuple[str, str], str] = {
    ("get_pretrained_grid_size", "img_size"): "an argument of the model's constructor, looked up in its configuration",
    ("_convert_beit3", "pos_embed.weight"): "what this function has just renamed embed_positions.weight to",
    ("_convert_pe", "attn_pool.qkv"): "what this function has just renamed attn_pool.attn.in_proj_ to",
}


@cache
def generated_keys(name: str) -> frozenset[str]:
    """The keys of a family's checkpoints, upstream and in timm's layout, with those of its wrappers."""
    import hypothesis

    from ..checkpoints import state_dicts, wrappers
    from ..drawing import strategies

    family = families.FAMILIES[name]
    found: set[str] = set()
    for stratum in (s for s in strategies.STRATA if s.name in STRATA):

        @hypothesis.seed(0)
        @hypothesis.settings(
            max_examples=EXAMPLES,
            database=None,
            deadline=None,
            phases=[hypothesis.Phase.generate],
            suppress_health_check=list(hypothesis.HealthCheck),
        )
        @hypothesis.given(strategies.cases(family, stratum))
        def collect(case: Case) -> None:
            state = state_dicts.truth(family, case)
            upstream = state_dicts.encode(family, case, state) | state_dicts.foreign(family, case)
            found.update(state, *(_keys(wrappers.wrap(upstream, wrapper)) for wrapper in family.wrappers))

        collect()
    return frozenset(found)


def _keys(checkpoint: dict) -> Iterator[str]:
    for key, value in checkpoint.items():
        yield key
        yield from _keys(value) if isinstance(value, dict) else ()


@cache
def _covered(pattern: str, name: str) -> bool:
    try:
        return any(re.search(pattern, key) for key in generated_keys(name))
    except re.error:  # a string with a backslash in it that is no regex
        return False


def _modules(folder: Path) -> list[str]:
    """The modules that a release has according to its version. A module that is missing is an error when it is read."""
    found = re.search(r"__version__ = ['\"]([^'\"]+)", (folder / "timm" / "version.py").read_text(encoding="utf-8"))
    version = Version(found[1]) if found else None
    return [module for module, first in MODULES.items() if version is None or version >= Version(first)]


def uncovered(folder: Path, modules: Sequence[str] = ()) -> list[Detection]:
    """The strings that a release tests, in ``modules`` (default: all), and that occur in no key that our families generate."""
    modules = modules or _modules(folder)
    known = [name for name, family in families.FAMILIES.items() if not family.in_no_release]
    return [
        d
        for d in detection_strings(folder, modules)
        if (d.function, d.text) not in NOT_A_FAMILY and not any(_covered(d.pattern, n) for n in known)
    ]


def available_targets() -> list[str]:
    """The releases in the package index from 0.9.0 on, as targets. Raises :class:`UserError`."""
    versions = releases.available()
    if versions is None:
        raise UserError("the package index does not list timm's releases (no network, or no pip): name the targets")
    return [f"timm=={v}" for v in versions]


def folder_of(spec: str) -> Path:
    """The folder that contains a target's package timm. A release is downloaded if needed. Raises :class:`UserError`."""
    target = parse_target(spec)
    if target.kind == "timm":
        return releases.ensure(target.value)
    if target.kind == "installed":
        found = importlib.util.find_spec("timm")
        if found is None or found.origin is None:
            raise UserError(f"target {spec!r}: no timm is installed")
        return Path(found.origin).parent.parent
    if target.kind == "path":
        return Path(target.value)
    raise UserError(f"target {spec!r} is no timm: the alarm reads timm==VERSION, path:DIR or installed")


def main(specs: Sequence[str]) -> int:
    """Print the strings that a target tests and no family has; returns 1 if there are any, otherwise 0."""
    try:
        targets = list(specs) or available_targets()
        found = {(d.module, d.line, d.function, d.text, spec) for spec in targets for d in uncovered(folder_of(spec))}
    except UserError as error:
        print(f"timm_conformance.alarm: {error}", file=sys.stderr)
        return EXIT_USAGE
    for module, line, function, text, spec in sorted(found, key=lambda f: (targets.index(f[-1]), f)):
        print(f"{spec}  timm/models/{module}.py:{line}  {function}  {text!r}")
    if found:
        return EXIT_FAILURE
    read = ", ".join(targets) if len(targets) < 4 else f"{targets[0]} to {targets[-1]} ({len(targets)} releases)"
    print(f"{read}: our families have every string that detects a format")
    return EXIT_EXPECTED
