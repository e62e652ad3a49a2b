"""The attention benchmark: contenders, timing, table and plot."""
