"""The parts of samples/benchmarks/quality.py, the ablation of block-sparse attention policies."""
