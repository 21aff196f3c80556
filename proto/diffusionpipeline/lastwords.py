"""What a program said of its end, out of the end of its log."""

from __future__ import annotations

import json


def last_words(log_end: str) -> str:
    """The error that the last line with one tells, or the last line."""
    lines = [line.strip() for line in log_end.splitlines() if line.strip()]
    for line in reversed(lines):
        if not line.startswith("{"):
            continue
        try:
            error = json.loads(line).get("error")
        except ValueError:
            continue
        if isinstance(error, str) and error:
            return error
    return lines[-1] if lines else ""
