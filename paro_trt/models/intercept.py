"""Redirect a model's attention to a handler, without changes to the model's own code.

Every diffusers model ends in torch's scaled_dot_product_attention, some through diffusers'
attention backends and some directly, so that is where to step in.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ..errors import ModelError
from ..families.base import AttentionSite
from ..families.shared.adapt import replaced
from .attention_backend import check_attention_function, explain_missing_attention

AttentionHandler: TypeAlias = Callable[[AttentionSite, Tensor, Tensor, Tensor, float], Tensor]
"""(site, query [B, S, H, D], key and value [B, S, Hk, D], scale) -> output [B, S, H, D]."""

SiteHandler: TypeAlias = Callable[[Tensor, Tensor, Tensor, float], Tensor]
"""The same for one site."""


@contextmanager
def intercept_attention(
    model: torch.nn.Module,
    sites: Sequence[AttentionSite],
    handler: AttentionHandler,
    key_length: Tensor | None = None,
) -> Iterator[None]:
    """Within the context, forwards of `model` compute the sites' attention with `handler`.

    Works in eager mode and under non-strict torch.export. The handler may itself call
    scaled_dot_product_attention. Not for use from several threads on one model.

    Args:
        model: the model.
        sites: whose attention to hand over.
        handler: computes it; where there is a `key_length`, it has to leave out what is past it.
        key_length: int [B], tokens of each sample that exist, the rest being padding at the
            sequence's end. A mask that says the same is then let pass; None refuses all masks.

    Raises:
        ModelError: a forward did not meet one of the sites, or a site's attention has a mask,
            dropout, causality or shapes that the handler could not know of.
    """
    handlers = {site: functools.partial(handler, site) for site in sites}
    with intercept_sites(model, handlers, key_length):
        yield


@contextmanager
def intercept_sites(
    model: torch.nn.Module,
    handlers: Mapping[AttentionSite, SiteHandler],
    key_length: Tensor | None = None,
) -> Iterator[None]:
    """`intercept_attention` with a handler for each site.

    Blocks that torch.compile compiles share their code where their handlers share it: a handler
    that asks for the name of its site has code of its own.
    """
    mode = _AttentionMode(key_length)
    running = [_RunningSite(site, handler) for site, handler in handlers.items()]
    with ExitStack() as stack:
        for each in running:
            module = model.get_submodule(each.site.name)
            stack.enter_context(replaced(module, "forward", mode.within(each, module.forward)))
        stack.enter_context(replaced(model, "forward", _checking(model, running)))
        stack.enter_context(mode)
        yield


class _RunningSite:
    """A site, and whether the running forward of the model met it.

    An object each, which torch.compile does not compare: compiled blocks can share their code.
    """

    def __init__(self, site: AttentionSite, handler: SiteHandler) -> None:
        self.site = site
        self.handler = handler
        self.met = False


def _checking(model: torch.nn.Module, running: Sequence[_RunningSite]) -> Callable[..., Any]:
    """The model's forward, which must meet all sites."""
    own = model.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        for site in running:
            site.met = False
        output = own(*args, **kwargs)
        require_all_met([site.site for site in running if not site.met], len(running))
        return output

    return forward


class _AttentionMode(TorchFunctionMode):
    """Redirects the attention of the running site, which the sites' modules record."""

    def __init__(self, key_length: Tensor | None) -> None:
        super().__init__()
        self._key_length = key_length
        self._current: _RunningSite | None = None

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if self._current is not None and func is F.scaled_dot_product_attention:
            return self._attend(self._current, *args, **(kwargs or {}))
        if func is Tensor.unflatten:
            # Written in Python, with a call of super() that torch.compile cannot follow in a mode.
            func = torch.unflatten
        return func(*args, **(kwargs or {}))

    def within(self, site: _RunningSite, own: Callable[..., Any]) -> Callable[..., Any]:
        """The forward of a site's module."""

        def forward(*args: Any, **kwargs: Any) -> Any:
            self._current = site
            try:
                return own(*args, **kwargs)
            finally:
                self._current = None

        return forward

    def _attend(
        self,
        running: _RunningSite,
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
        site = running.site
        if dropout_p or is_causal:
            raise ModelError(
                f"attention of {site.name}",
                expected="no dropout, not causal",
                actual=f"dropout {dropout_p}, causal {is_causal}",
                remedy="call model.eval(); causal attention is not supported",
            )
        _check_heads(site, query, key, value)
        if attn_mask is not None:
            _check_mask(site, attn_mask, key.shape[2], self._key_length)
        running.met = True
        query, key, value = (tensor.transpose(1, 2) for tensor in (query, key, value))
        resolved_scale = 1.0 / math.sqrt(site.head_dim) if scale is None else scale
        return running.handler(query, key, value, resolved_scale).transpose(1, 2)


def require_all_met(missed: Sequence[AttentionSite], total: int) -> None:
    """Raise ModelError unless a forward met every site.

    Args:
        missed: the sites that it did not meet.
        total: how many there are.
    """
    if missed:
        check_attention_function()
        raise ModelError(
            "the model's attention",
            expected="a call of torch's scaled_dot_product_attention in every site",
            actual=f"none in {len(missed)} of {total}, first {missed[0].name}",
            remedy=f"reset diffusers' attention backend: {explain_missing_attention()}",
        )


def _check_mask(site: AttentionSite, mask: Tensor, tokens: int, key_length: Tensor | None) -> None:
    """Refuse a mask unless it cuts off each sample's keys from its `key_length` on."""
    if key_length is None:
        raise ModelError(
            f"attention mask of {site.name}",
            expected="no mask: the family declares no padded text",
            actual=f"{mask.dtype} {list(mask.shape)}",
            remedy="declare padded text in the family's text_layout, or leave the layer dense",
        )
    if mask.ndim != 4 or tuple(mask.shape[1:]) != (1, 1, tokens):
        raise ModelError(
            f"attention mask of {site.name}",
            expected=f"a key-padding mask [B, 1, 1, {tokens}]",
            actual=f"{mask.dtype} {list(mask.shape)}",
            remedy="let the family's adapted() build a mask of that shape",
        )
    # A trace has no values to compare.
    if torch.compiler.is_compiling():
        return
    kept = mask[:, 0, 0] if mask.dtype is torch.bool else mask[:, 0, 0] >= 0
    exists = torch.arange(tokens, device=mask.device) < key_length.to(mask.device)[:, None]
    if not torch.equal(kept.expand_as(exists), exists):
        raise ModelError(
            f"attention mask of {site.name}",
            expected="padding of each sample at the end of the sequence, as text_length counts it",
            actual="a mask of other tokens",
            remedy="put the padding of a prompt's mask behind its tokens",
        )


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
