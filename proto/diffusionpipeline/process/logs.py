"""Logs: JSON lines in a pod, readable text on a terminal; lines of libraries in the same form.

They go to stderr: stdout is for what a program was asked to print, and stderr loses nothing when a process ends at
once. Kubernetes and `dpipe up` keep both as one stream.
"""

from __future__ import annotations

import logging
import sys
from typing import Any

import structlog

from diffusionpipeline.words import LogFormat, LogLevel


def configure(log_format: LogFormat, level: LogLevel) -> None:
    """Set up logging for this process; `auto` is console on a terminal, else JSON. Of libraries, only what is wrong."""
    console = log_format == "console" or (log_format == "auto" and sys.stderr.isatty())
    least = logging.getLevelNamesMapping()[level.upper()]
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    rendered: list[Any] = (
        [structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)]
        if console
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    )
    structlog.configure(
        processors=[*shared, *rendered],
        wrapper_class=structlog.make_filtering_bound_logger(least),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *rendered],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(least, logging.WARNING))
