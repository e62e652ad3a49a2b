"""NVIDIA's driver, its GPUs and toolkits: what is here, and what goes with what.

Needs the standard library alone, since `make plugin` asks it before anything is installed.
"""
