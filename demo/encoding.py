"""Files as base64 text, on their way from and to pages and programs."""

from __future__ import annotations

import base64
import binascii

from essence import UserError

LONGEST = 28_000_000  # characters of one picture or essence: 20 MB


def base64_text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def read_base64(value: object, what: str) -> bytes:
    """Bytes of base64 text, in one line or many, with or without a "data:" head."""
    if not isinstance(value, str):
        raise UserError(f"{what} must be a file as base64 text, not a {type(value).__name__}.")
    if len(value) > LONGEST:
        raise UserError(
            f"{what} is too large: {len(value)} characters of base64, the limit is {LONGEST}."
        )
    text = value.partition(",")[2] if value.startswith("data:") else value
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise UserError(f"{what} is no base64 text ({error}).") from None
