"""The folder of stored data: ledger, witnesses, pinned examples, scripts, golden vectors."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent.parent
# The folder lies inside the package in a wheel, and beside it in a checkout.
FIXTURES = next(
    (p / "fixtures" for p in (_PACKAGE, _PACKAGE.parent) if (p / "fixtures" / "ledger.toml").is_file()),
    _PACKAGE / "fixtures",
)
# The root of the checkout this is imported from, with docs/ and tests/; None where the package is installed from a wheel.
CHECKOUT = None if FIXTURES.parent == _PACKAGE else _PACKAGE.parent
