"""What timm's reader of checkpoint files opens, by release: the entries that training scripts save, and prefixes of names.

``create_model`` and ``load_checkpoint`` give a file to ``load_state_dict`` (``timm/models/_helpers.py``): it takes the first
entry that it knows, an EMA before the trained weights, and removes prefixes from the names directly inside. What lies deeper,
the model's ``checkpoint_filter_fn`` has to open, and it removes no prefix. A dict of tensors goes to that function alone, and
so did a folder's file until 1.0.25.
"""

from __future__ import annotations

from packaging.version import Version

from ..cases.case import Case
from ..checkpoints.formats import format_of
from ..families import Family

# In the reader's order, which is the same in all releases.
_ENTRIES = ("state_dict_ema", "model_ema", "state_dict", "model")
# What ``clean_state_dict`` removes from the beginning of each name, one after the other, since a release.
_REMOVED = (
    ("1.0.31", ("_orig_mod.", "module.", "_orig_mod.")),
    ("1.0.8", ("module.", "_orig_mod.")),
    ("0.9.0", ("module.",)),
)


def reads_saved(family: Family, case: Case, release: Version) -> bool:
    """Whether a release's reader and the family's filter function open the file of a case as it is saved (``Case.saved``)."""
    if case.saved and not _through_reader(case.door, release):
        return not case.saved_prefix and _opens(family, case.saved, release)
    entry, own = case.saved_entry, _own_prefix(family)
    inner = entry[1:] if entry[:1] and entry[0] in _ENTRIES else entry
    if inner:
        return not case.saved_prefix and _opens(family, ".".join(inner), release)
    left = _cleaned(case.saved_prefix + own, release)
    return not left or (left == own and _opens(family, "bare", release))


def _through_reader(door: str, release: Version) -> bool:
    """Whether what goes through a door is read by ``load_state_dict``."""
    return door != "state-dict" and (door != "local-dir" or release >= Version("1.0.26"))


def first_to_read(family: Family, case: Case, after: Version) -> str | None:
    """The first release after another one that opens the file of a case as it is saved, or None if none does."""
    changed = {since for since, _ in _REMOVED} | {*family.wrapper_since.values(), family.known_since}
    later = sorted(v for v in map(Version, changed) if v > after)
    return next((str(v) for v in later if reads_saved(family, case, v)), None)


def _own_prefix(family: Family) -> str:
    """The prefix with which the names of a family's checkpoints begin by themselves."""
    return "module." if format_of(family).namespace.startswith("module.") else ""


def _cleaned(prefix: str, release: Version) -> str:
    """What the reader leaves of a prefix."""
    for removed in next(removed for since, removed in _REMOVED if release >= Version(since)):
        prefix = prefix.removeprefix(removed)
    return prefix


def _opens(family: Family, wrapper: str, release: Version) -> bool:
    """Whether a release's filter function opens a wrapper. What it opens inside ``model`` it opens without ``model`` as well."""
    known = {w for w in family.wrappers if release >= Version(family.wrapper_since.get(w, family.known_since))}
    return bool({wrapper, f"model.{wrapper}"} & known)
