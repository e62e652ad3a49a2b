"""What attention policies cost in quality: `python -m samples.benchmarks.quality`."""
