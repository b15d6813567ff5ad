"""The suite in other environments: `nox -s compat` runs it there and compares the verdicts, see docs/compatibility.md."""
