"""Running exported models behind one interface, whoever executes them."""

from .backends import Backend, open_session, ort_session

__all__ = ["Backend", "open_session", "ort_session"]
