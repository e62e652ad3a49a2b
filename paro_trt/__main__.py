"""`python -m paro_trt`: the command line."""

from .cli import main

main()
