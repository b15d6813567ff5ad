"""Reports: independent readers of results."""
