"""One build by TensorRT for RTX in a process of its own, which a crash of the builder may end.

python -m tests.engine.rtx_process MODEL ENGINE SM SETTINGS, where SETTINGS is JSON of the arguments
of `BuildSettings` other than flavour and target. Prints JSON: what `Built` holds.
"""

from __future__ import annotations

import json
import logging
import sys
from typing import Any

from paro_trt.engine import BuildSettings, Flavour, SizeRange
from paro_trt.engine.build import build_engine
from paro_trt.engine.logger import LOG


class _Kept(logging.Handler):
    """Keeps what is worse than information."""

    def __init__(self) -> None:
        super().__init__()
        self.complaints: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        severity = getattr(record, "severity", "")
        if severity not in ("INFO", "VERBOSE"):
            self.complaints.append(f"{severity}: {record.getMessage()}")


def _ranges(bounds: list[Any]) -> SizeRange | tuple[SizeRange, ...]:
    several = isinstance(bounds[0], list)
    return tuple(SizeRange(*part) for part in bounds) if several else SizeRange(*bounds)


def main(model: str, engine: str, sm: str, settings: str) -> None:
    """Build and print."""
    kept = _Kept()
    LOG.addHandler(kept)
    LOG.setLevel(logging.DEBUG)
    options = json.loads(settings)
    sizes = {name: _ranges(bounds) for name, bounds in options.pop("sizes", {}).items()}
    report = build_engine(
        model, engine,
        BuildSettings(flavour=Flavour.TENSORRT_RTX, target=int(sm), sizes=sizes, **options),
    )  # fmt: skip
    print(json.dumps({"manifest": report.manifest.to_json(), "complaints": kept.complaints}))


if __name__ == "__main__":
    main(*sys.argv[1:])
