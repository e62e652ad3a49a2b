"""The command line: thin verbs over the package's public functions.

Importing it costs milliseconds; each verb imports what it needs when it runs.
"""

from __future__ import annotations

__all__ = ["main"]


def main() -> None:
    """Run `paro-trt` as the process.

    The verbs are imported here, so that Ctrl-C during the import ends as it does later.
    """
    try:
        from .app import run_verbs
    except KeyboardInterrupt:
        import sys

        print("interrupted: nothing was written", file=sys.stderr)
        raise SystemExit(130) from None
    run_verbs()
