"""The collected property tests."""
