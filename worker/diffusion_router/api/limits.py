"""What one request may ask for. Whoever asks for more is told which field, and the bound."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """max_pixels: width times height of a picture or frame. max_seconds: the longest deadline a request may name."""

    max_pixels: int
    max_steps: int
    max_frames: int
    max_prompt_chars: int
    max_upload_bytes: int
    max_images_per_request: int
    max_seconds: float
