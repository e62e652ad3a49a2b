"""Telling whether a plan belongs to a model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from ..errors import ArgumentError
from .checks import shown
from .records import ModelIdentity


def model_identity(class_name: str, config: Mapping[str, Any]) -> ModelIdentity:
    """Identify a model by its class and configuration.

    Args:
        class_name: the diffusers class, such as "WanTransformer3DModel".
        config: its configuration; keys that start with "_" (library version, path) do not count.

    Raises:
        ArgumentError: the configuration holds what JSON cannot.
    """
    kept = {key: value for key, value in config.items() if not key.startswith("_")}
    try:
        canonical = canonical_json(kept)
    except (TypeError, ValueError) as error:
        raise ArgumentError(
            "config", expected="values that JSON can hold", actual=shown(str(error))
        ) from error
    return ModelIdentity(class_name, hashlib.sha256(canonical).hexdigest())


def canonical_json(value: object) -> bytes:
    """One spelling for each JSON value: sorted keys, no spaces, ASCII, finite numbers.

    Raises:
        TypeError, ValueError: `value` is not JSON.
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return text.encode("ascii")
