"""JSON by FastAPI's rules: of values that nobody has given a type for. Pure."""

from __future__ import annotations

import json
import math
from typing import Any

from fastapi.encoders import jsonable_encoder
from pydantic import BaseModel

__all__ = ["json_of"]


def json_of(value: object) -> str:
    """
    Return the JSON that FastAPI makes of `value`, compact and without ASCII escapes.

    NaN and infinities are null. What Python's `json` knows, it writes; models are written by pydantic, by their
    aliases; everything else is what `fastapi.encoders.jsonable_encoder` makes of it.

    Raises:
        ValueError, TypeError: there's no JSON for it.
    """
    if isinstance(value, BaseModel):
        return value.model_dump_json(by_alias=True)
    try:
        return _PLAIN.encode(value)
    except (TypeError, ValueError):  # Something else within, or a number that JSON doesn't have.
        return _PLAIN.encode(_finite(jsonable_encoder(value)))


_PLAIN = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_finite(one) for one in value]
    return value
