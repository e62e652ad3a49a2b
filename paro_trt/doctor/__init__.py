"""What this machine has, which backends will run on it, and what mends the rest."""

from .examine import Backend, Diagnosis, State, examine
from .probes import Component

__all__ = ["Backend", "Component", "Diagnosis", "State", "examine"]
