"""The ablation of block-sparse attention policies: `python -m samples.benchmarks.quality`."""
