"""What tests and benchmarks share: cases, tolerances, small plans."""
