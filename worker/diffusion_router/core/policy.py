"""The numbers that rule the core, and the order in which it serves."""

from __future__ import annotations

from dataclasses import dataclass, field

from diffusion_router.core.ordering import Fifo, Scheduling


@dataclass(frozen=True, slots=True)
class Policy:
    """The numbers that rule the core. Times in seconds."""

    lease: float = 15.0
    settle: float = 5.0
    """After a router's start: how long restored jobs wait for workers to say what they hold."""
    stall: float = 60.0
    """How long after it was told to stop a task may go on before its peer counts as stalled."""
    max_capacity: int = 1024
    """Tasks that any peer could run at once, and slots that any pool could have (64 times as many)."""
    grace: float = 10.0
    """How long after fencing a lost consumer may still read a slot."""
    prefetch: int = 1
    """Tasks sent to a peer beyond its capacity, so that their input is pulled meanwhile."""
    max_kills: int = 2
    """Workers that may die while they run one job."""
    max_failures: int = 5
    """Tasks of one job that may fail for reasons that another try can mend."""
    max_model_errors: int = 2
    """Tries of one stage that end in MODEL_ERROR."""
    max_transfer_failures: int = 2
    """Pulls of one output that may fail before it is made anew."""
    passing_on: float = 2.0
    """How long after it was told to leave a peer keeps what no job needs, so that others can take it over."""
    passed_on_at_once: int = 4
    """Of that, how much is copied from one peer at once."""
    pool_memory: float = 60.0
    """How long a pool that was found full counts as no larger than it was then; afterwards one slot more is tried."""
    checkpoint: float = 0.0
    """Work that a denoiser which is lost may take with it, as far as others can keep checkpoints. 0: all."""
    backoff: float = 0.1
    max_backoff: float = 2.0
    scheduling: Scheduling = field(default_factory=Fifo)
    """In which order jobs are served."""
    compared: int = 64
    """Peers of the same load among which that with the fewest adapters to load is sought. 1: whose turn it is."""
    max_fenced: int = 4096
    """Fenced incarnations remembered."""
