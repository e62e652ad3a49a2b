"""What this machine has, which backends run on it, what is missing and how to fix that."""

from .examine import Backend, Diagnosis, State, examine
from .probes import Component

__all__ = ["Backend", "Component", "Diagnosis", "State", "examine"]
