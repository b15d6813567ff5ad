"""The registry of invariants, collected from every module of this package.

In: trials. Out: ``INVARIANTS``, the invariants by name.
May import: trials and everything below it.
"""

from __future__ import annotations

import pkgutil

from ..errors import UserError
from ..families.registration import import_part
from .registry import INVARIANTS, Invariant

for _info in sorted(pkgutil.iter_modules(__path__), key=lambda m: m.name):
    import_part(f"{__name__}.{_info.name}")
    if _info.name != "registry" and not any(item.theme == _info.name for item in INVARIANTS.values()):
        raise UserError(
            f"conformance/invariants/{_info.name}.py has no invariant: put @invariant(...) above the function"
        )

__all__ = ["INVARIANTS", "Invariant"]
