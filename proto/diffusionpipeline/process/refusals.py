"""Errors over HTTP in OpenAI's form: `{"error": {"message", "type", "param", "code"}}`."""

from __future__ import annotations

import json


def error_body(status: int, message: str, *, code: str, param: str | None = None) -> bytes:
    """param: the field at fault, if one is; code: for programs, stable."""
    error = {"message": message, "type": _type(status), "param": param, "code": code}
    return json.dumps({"error": error}, ensure_ascii=False).encode(errors="backslashreplace")


def _type(status: int) -> str:
    if status == 429:
        return "rate_limit_error"
    return "server_error" if status >= 500 else "invalid_request_error"
