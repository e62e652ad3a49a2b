"""The attention benchmark of the CPU and the GPU: cases, contenders, timing, rows and tables."""
