"""The attention inputs that calibration works on: of one layer in one capture, and of one head."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from ..errors import ModelError
from ..families.base import AttentionSite


class HeadInputs(NamedTuple):
    """Attention inputs of one head of one sample, float [S, D] each, after RoPE and any norm.

    scale: the factor on the logits. key_length: tokens that exist; the others are padding at the
    end of the sequence and of every order. None means that all exist.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    scale: float
    key_length: int | None = None

    @property
    def length(self) -> int:
        """Tokens that exist."""
        return len(self.query) if self.key_length is None else self.key_length


class LayerInputs(NamedTuple):
    """Attention inputs of one site in one capture: query [S, H, D], key and value [S, Hk, D].

    scale and key_length are those of `HeadInputs`.
    """

    site: AttentionSite
    query: Tensor
    key: Tensor
    value: Tensor
    scale: float
    key_length: int | None = None

    @property
    def length(self) -> int:
        """Tokens that exist."""
        return len(self.query) if self.key_length is None else self.key_length

    def head(self, index: int) -> HeadInputs:
        """Inputs of one query head, contiguous."""
        kv_head = index * self.site.kv_heads // self.site.heads
        return HeadInputs(
            self.query[:, index].contiguous(),
            self.key[:, kv_head].contiguous(),
            self.value[:, kv_head].contiguous(),
            self.scale,
            self.key_length,
        )

    def check(self, tokens: int) -> None:
        """Raise ModelError unless the inputs are finite and of the plan's length."""
        if self.query.shape[0] != tokens:
            raise ModelError(
                f"attention of {self.site.name}",
                expected=f"{tokens} tokens, as the grid and text layout say",
                actual=str(self.query.shape[0]),
            )
        for name, tensor in (("query", self.query), ("key", self.key), ("value", self.value)):
            if not bool(tensor.isfinite().all()):
                raise ModelError(
                    f"attention of {self.site.name}",
                    expected=f"finite {name}",
                    actual="NaN or infinity",
                    remedy="check the weights, or load the model in float32",
                )
