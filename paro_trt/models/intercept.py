"""Hand a model's attention to somebody else, whatever the model's own code for it looks like.

Every diffusers model ends in torch's scaled_dot_product_attention, some through diffusers'
attention backends and some directly, so that is where to step in.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ..errors import ModelError
from .base import AttentionSite

AttentionHandler: TypeAlias = Callable[[AttentionSite, Tensor, Tensor, Tensor, float], Tensor]
"""(site, query [B, S, H, D], key and value [B, S, Hk, D], scale) -> output [B, S, H, D]."""


@contextmanager
def intercept_attention(
    model: torch.nn.Module, sites: Sequence[AttentionSite], handler: AttentionHandler
) -> Iterator[None]:
    """Within the context, forwards of `model` compute the sites' attention with `handler`.

    Works in eager mode and under non-strict torch.export. The handler may itself call
    scaled_dot_product_attention. Not for use from several threads on one model.

    Raises:
        ModelError: a forward did not meet one of the sites, or a site's attention has a mask,
            dropout, causality or shapes that the handler could not know of.
    """
    mode = _AttentionMode(handler)
    with ExitStack() as stack:
        for site in sites:
            module = model.get_submodule(site.name)
            for hook in (
                module.register_forward_pre_hook(mode.entering(site)),
                module.register_forward_hook(mode.leaving, always_call=True),
            ):
                stack.callback(hook.remove)
        for hook in (
            model.register_forward_pre_hook(mode.starting),
            model.register_forward_hook(mode.checking(sites)),
        ):
            stack.callback(hook.remove)
        stack.enter_context(mode)
        yield


class _AttentionMode(TorchFunctionMode):
    """Knows which site is running, from the modules' hooks, and redirects its attention."""

    def __init__(self, handler: AttentionHandler) -> None:
        super().__init__()
        self._handler = handler
        self._current: AttentionSite | None = None
        self._met: set[str] = set()

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if self._current is None or func is not F.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        return self._attend(self._current, *args, **(kwargs or {}))

    def _attend(
        self,
        site: AttentionSite,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,  # noqa: ARG002
    ) -> Tensor:
        """scaled_dot_product_attention's own signature; tensors [B, H, S, D]."""
        if attn_mask is not None or dropout_p or is_causal:
            raise ModelError(
                f"attention of {site.name}",
                expected="no mask, no dropout, not causal",
                actual=f"mask {attn_mask is not None}, dropout {dropout_p}, causal {is_causal}",
                remedy="call model.eval(); masked attention is not supported",
            )
        _check_heads(site, query, key, value)
        self._met.add(site.name)
        query, key, value = (tensor.transpose(1, 2) for tensor in (query, key, value))
        resolved_scale = 1.0 / math.sqrt(site.head_dim) if scale is None else scale
        return self._handler(site, query, key, value, resolved_scale).transpose(1, 2)

    def entering(self, site: AttentionSite) -> Callable[..., None]:
        """Forward pre-hook of a site's module."""

        def enter(*_: object) -> None:
            self._current = site

        return enter

    def leaving(self, *_: object) -> None:
        """Forward hook of a site's module; runs after an exception too."""
        self._current = None

    def starting(self, *_: object) -> None:
        """Forward pre-hook of the model."""
        self._met.clear()

    def checking(self, sites: Sequence[AttentionSite]) -> Callable[..., None]:
        """Forward hook of the model."""

        def check(*_: object) -> None:
            missed = [site.name for site in sites if site.name not in self._met]
            if missed:
                raise ModelError(
                    "the model's attention",
                    expected="a call of torch's scaled_dot_product_attention in every site",
                    actual=f"none in {len(missed)} of {len(sites)}, first {missed[0]}",
                    remedy='reset diffusers\' attention backend: set_attention_backend("native")',
                )

        return check


def _check_heads(site: AttentionSite, query: Tensor, key: Tensor, value: Tensor) -> None:
    tokens = query.shape[2]
    expected = (
        (site.heads, tokens, site.head_dim),
        (site.kv_heads, tokens, site.head_dim),
        (site.kv_heads, tokens, site.head_dim),
    )
    actual = tuple(tuple(tensor.shape[1:]) for tensor in (query, key, value))
    if actual != expected:
        raise ModelError(
            f"attention of {site.name}",
            expected=f"self-attention with [heads, tokens, head_dim] {expected}",
            actual=str(actual),
        )
