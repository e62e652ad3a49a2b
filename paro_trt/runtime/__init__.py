"""Running exported models behind one interface for all backends."""

from .backends import Backend, open_session, ort_session

__all__ = ["Backend", "open_session", "ort_session"]
