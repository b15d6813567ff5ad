"""What a checkpoint of no known format looks like: the keys that tell most, and the known formats nearest to it.

A format's names are those of its golden vectors and of its rules. Tensors that all of its vectors have are those that it needs.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cache

from safetensors import safe_open

from ...cases.fixtures import FIXTURES
from ...families import READ
from ...reference import FORMATS
from ...reference.formats.rules import Fill, Fold, Rule
from .block_misfits import OPTIONAL
from .keys import collapsed, patterns

# A word in this share of a file's names, or in more, tells nothing: it stands before all of them.
_EVERYWHERE = 0.8
_PREFIXED = 0.5
_DEEPEST = 3
# Names whose last word is one of a pair are one parameter.
_PAIR = re.compile(r"\.(weight|bias|kernel|scale)$")


@dataclass(frozen=True)
class Nearest:
    """A known format beside a file's names.

    ``share`` is the share that both have of all patterns that the file has or the format needs, 0 to 1. ``missing`` are patterns
    that the format needs and the file lacks, ``foreign`` those of the file that the format does not know, as they stand in the
    file. ``prefix`` was left out of the names. ``blocks`` are the file's and the format's names of blocks, if they differ.
    """

    format: str
    share: float
    missing: tuple[str, ...]
    foreign: tuple[str, ...]
    prefix: str = ""
    blocks: tuple[str, str] | None = None


@dataclass(frozen=True)
class _Known:
    """The names of a format: ``needed`` by all of its files, ``names`` in any of them, a regular expression for ``others``."""

    needed: frozenset[str]
    names: frozenset[str]
    others: re.Pattern[str]

    def knows(self, pattern: str) -> bool:
        return pattern in self.names or bool(self.others.fullmatch(pattern))


def nearest_formats(names: Iterable[str], limit: int = 3) -> list[Nearest]:
    """The known formats nearest to a file's tensor names, the nearest first, with what is missing of each and what is foreign.

    Where most names share a beginning, such as ``backbone.``, the names without it are compared as well; where blocks have
    another name, such as ``encoder.layers.*`` for ``blocks.*``, so are names with the format's own. A format of which nothing
    fits is left out.
    """
    names = list(names)
    views = [_View.of(names, prefix) for prefix in ("", *_prefixes(names))]
    found = [_best(form, known, views) for form, known in _known().items()]
    families = Counter(family.format for family in READ.values())
    ranked = sorted(found, key=lambda n: (-n.share, n.blocks is not None, -families[n.format], n.format))
    return [n for n in ranked if n.share > 0][:limit]


@dataclass(frozen=True)
class _View:
    """A file's names without a prefix, as patterns, and ``beside`` them the patterns of those that do not begin with it."""

    prefix: str
    found: tuple[str, ...]
    beside: tuple[str, ...]

    @classmethod
    def of(cls, names: Iterable[str], prefix: str) -> _View:
        names = list(names)
        inside = (n[len(prefix) :] for n in names if n.startswith(prefix))
        return cls(prefix, tuple(patterns(inside)), tuple(patterns(n for n in names if not n.startswith(prefix))))


def _best(form: str, known: _Known, views: Iterable[_View]) -> Nearest:
    found = [_compare(form, known, view, own) for view in views for own in (True, False)]
    return max(found, key=lambda n: n.share)


def _compare(form: str, known: _Known, view: _View, own: bool) -> Nearest:
    """The comparison of one view, with the blocks under the file's ``own`` name or under the format's."""
    blocks = None if own else (_blocks(view.found), _blocks(known.needed))
    if blocks and all(blocks) and blocks[0] != blocks[1]:
        before, after = blocks
        named = {p: after + p.removeprefix(before) if p.startswith(before) else p for p in view.found}
    else:
        blocks, named = None, {p: p for p in view.found}
    foreign = [view.prefix + p for p, name in named.items() if not known.knows(name)]
    missing = tuple(sorted(known.needed.difference(named.values())))
    share = (len(named) - len(foreign)) / (len(named) + len(missing) + len(view.beside))
    return Nearest(form, share, missing, (*foreign, *view.beside), view.prefix, blocks)


def _blocks(names: Iterable[str]) -> str:
    """What stands before the numbers of blocks, for most of these patterns; empty if none has a number."""
    before = Counter(name.partition("*")[0] for name in names if "*" in name)
    return before.most_common(1)[0][0] if before else ""


def _prefixes(names: Collection[str]) -> list[str]:
    """Beginnings that at least half of the names have, without numbers, longest first."""
    counted = Counter(
        ".".join(parts[:n]) + "."
        for parts in (name.split(".") for name in names)
        for n in range(1, min(len(parts), _DEEPEST + 1))
        if not any(part.isdigit() for part in parts[:n])
    )
    common = [prefix for prefix, count in counted.items() if count >= _PREFIXED * len(names)]
    return sorted(common, key=len, reverse=True)


@cache
def _known() -> Mapping[str, _Known]:
    """The names of each format that the reference reads."""
    files: dict[str, list[frozenset[str]]] = {}
    for family in READ.values():
        for path in (FIXTURES / "vectors" / family.name).glob("checkpoint*.safetensors"):
            with safe_open(path, framework="pt") as file:
                files.setdefault(family.format, []).append(frozenset(map(collapsed, file.keys())))
    found = {}
    for name, form in FORMATS.items():
        held = files.get(name, [])
        others = [_as_pattern(p) for rule in form.rules for p in _upstream(rule)]
        if held:
            known = re.compile("|".join(others) or "(?!)")
            found[name] = _Known(frozenset.intersection(*held), frozenset.union(*held), known)
    return found


def _upstream(rule: Rule) -> tuple[str, ...]:
    if isinstance(rule, Fill):
        return ()
    return rule.upstream if isinstance(rule, Fold) else (rule.upstream,)


def _as_pattern(upstream: str) -> str:
    """A rule's pattern as a regular expression for names whose numbers are ``*``.

    A rule that keeps the rest of a name knows timm's names there.
    """
    fields = {"i": r"\*", "p": "(weight|bias)", "n": r"\*", "rest": f"({OPTIONAL.pattern})", "any": ".+"}
    parts = re.split(r"\{(\w+)\}", upstream)
    return "".join(fields[part] if n % 2 else re.escape(part) for n, part in enumerate(parts))


def telling_keys(names: Iterable[str], limit: int = 4) -> tuple[str, ...]:
    """The patterns that tell most about a file: those with words that the fewest known formats have, each word once.

    Patterns that some format has are left out, if there are others. Words that stand in nearly all of the file's names count
    for nothing.
    """
    found = patterns(names)
    total = sum(found.values())
    counts = Counter(word for p, n in found.items() for word in {*p.split(".")} for _ in range(n))
    common = {word for word, n in counts.items() if n >= _EVERYWHERE * total}
    formats = Counter(
        word for known in _known().values() for word in {w for name in known.names for w in re.split(r"[./]", name)}
    )

    def words(pattern: str) -> list[tuple[int, str]]:
        """The words of a pattern with the number of formats that have each, rarest first."""
        told = {w for w in re.split(r"[./]", pattern) if w not in common and w != "*"}
        return sorted((formats[w], w) for w in told)

    whole = {name for known in _known().values() for name in known.names}
    prefixes = ("", *_prefixes(found))
    rests = {p: {p.removeprefix(prefix) for prefix in prefixes} for p in found}
    unknown = [p for p in found if not any(r in whole or OPTIONAL.fullmatch(r) for r in rests[p])] or list(found)
    rarest = {p: words(p)[0] if words(p) else (len(FORMATS), "") for p in unknown}
    order = {p: n for n, p in enumerate(found)}
    ranked = sorted(unknown, key=lambda p: (rarest[p], -found[p], p.endswith(".bias"), order[p]))
    by_word: dict[tuple[int, str], str] = {}
    for pattern in ranked:
        by_word.setdefault(rarest[pattern], pattern)
    by_stem: dict[str, str] = {}
    for pattern in (*by_word.values(), *ranked):
        by_stem.setdefault(_PAIR.sub("", pattern), pattern)
    return tuple(by_stem.values())[:limit]
