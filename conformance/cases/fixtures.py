"""The folder of stored data: ledger, witnesses, pinned examples, scripts, golden vectors."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent.parent
# Inside the package in a wheel, beside it in a checkout.
FIXTURES = next(
    (p / "fixtures" for p in (_PACKAGE, _PACKAGE.parent) if (p / "fixtures" / "ledger.toml").is_file()),
    _PACKAGE / "fixtures",
)
