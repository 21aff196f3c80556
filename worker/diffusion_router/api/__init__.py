"""The public API: HTTP in OpenAI's form, and its gRPC twin. Rules are in `validation`, jobs in the job service."""

from __future__ import annotations

from diffusion_router.api.app import create_app

__all__ = ["create_app"]
