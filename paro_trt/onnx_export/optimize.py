"""The exporter's optimizer, without most of the time it spends on patterns that do not match."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from onnxscript.rewriter import MatchResult
from onnxscript.rewriter.pattern import SimplePatternMatcher


def optimize(program: Any) -> None:
    """Optimize a torch.onnx program in place; the result is what `program.optimize()` gives."""
    with _first_node_first():
        program.optimize()


@contextmanager
def _first_node_first() -> Iterator[None]:
    """Have each pattern first compare its first output's operator with that of the node.

    onnxscript 0.7 prepares a match of every pattern at every node, and lists the whole graph for a
    pattern of several outputs (one of its default rules has two Slices), though the node must match
    the pattern's first output: over half an hour for Wan 14B's 40 layers.
    """
    whole_match = SimplePatternMatcher.match

    def match(self: Any, model: Any, graph: Any, node: Any, **options: Any) -> Any:
        wanted = self.pattern.output_nodes[0].op_identifier()
        if wanted is not None and wanted != node.op_identifier():
            return MatchResult().fail("the node is not the pattern's first output")
        return whole_match(self, model, graph, node, **options)

    SimplePatternMatcher.match = match
    try:
        yield
    finally:
        SimplePatternMatcher.match = whole_match
