"""The command line: thin verbs over the package's public functions.

Importing it costs milliseconds; each verb imports what it needs when it runs.
"""

from .app import main

__all__ = ["main"]
