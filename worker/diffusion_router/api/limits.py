"""What one request may ask for. Whoever asks for more is told which field, and the bound."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """max_pixels: width times height of a picture or frame. max_upload_bytes: of one HTTP request's body.

    max_artifact_bytes: of one file from a worker. max_seconds: the longest deadline a request may name. retain_seconds:
    how long an ended job and its files are kept. max_json_values: of one body. max_body_bytes_in_flight: of all bodies
    that are being read. body_seconds: how long a client may take to send one.
    """

    max_pixels: int
    max_steps: int
    max_frames: int
    max_prompt_chars: int
    max_upload_bytes: int
    max_images_per_request: int
    max_artifact_bytes: int
    max_seconds: float
    retain_seconds: float
    max_json_values: int
    max_body_bytes_in_flight: int
    body_seconds: float
