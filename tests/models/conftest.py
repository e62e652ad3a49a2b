"""What a failing test of a model shows."""

import logging

import torch

# Thousands of lines of structured trace, which pytest would print under a failed export.
logging.getLogger(f"{torch.__name__}.__trace").propagate = False
