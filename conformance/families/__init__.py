"""The registry of checkpoint families, collected from every module of this package that defines ``FAMILIES``.

In: cases. Out: ``FAMILIES``, the families by name, and ``READ``, those of formats that some loader reads.
May import: errors, cases; ``reference`` only inside functions.
"""

from __future__ import annotations

import pkgutil

from ..errors import UserError
from .base import Family
from .registration import check_names, families_of, import_part


def _discover() -> dict[str, Family]:
    found: dict[str, Family] = {}
    for info in sorted(pkgutil.iter_modules(__path__), key=lambda m: m.name):
        for family in families_of(import_part(f"{__name__}.{info.name}")):
            if family.name in found:
                raise UserError(
                    f"two families are named {family.name}; the second is in conformance/families/{info.name}.py"
                )
            found[family.name] = family
    check_names(found)
    return found


FAMILIES: dict[str, Family] = _discover()
READ = {name: family for name, family in FAMILIES.items() if not family.unread}

__all__ = ["FAMILIES", "READ", "Family"]
