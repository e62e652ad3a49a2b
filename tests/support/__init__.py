"""Helpers of the tests: cases, tolerances, tiny models, small plans and files."""
