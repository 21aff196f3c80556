"""What the denoisers of each generation offer: adapters, ControlNets, IP-Adapters and schedulers, by name.

Denoisers alone are asked: an adapter changes what they compute, and what encoders do only where its file says so. All
of a generation offer the same but for a while, when a file has come into their folder or gone from it.
"""

from __future__ import annotations

from collections import Counter
from typing import Final, Generic

from diffusion_router.core.events import R, Stage
from diffusion_router.core.peer import Peer
from diffusion_router.core.state import Job

Names = frozenset[str]

NONE: Final[Names] = frozenset()
_CONTROL_NET: Final = "ControlNet "
_IP_ADAPTER: Final = "IP-Adapter "
_SCHEDULER: Final = "scheduler "
# No adapter's name has a space in it; what is no adapter is named by its kind and its name.


def of_scheduler(name: str) -> Names:
    """A scheduler among what is offered and needed. Empty: none of its own."""
    return frozenset([_SCHEDULER + name]) if name else NONE


def of_control_net(name: str) -> str:
    """A ControlNet among what is offered and needed."""
    return _CONTROL_NET + name


def control_net_of(name: str) -> str | None:
    """The inverse; None: this is the name of something else."""
    return name.removeprefix(_CONTROL_NET) if name.startswith(_CONTROL_NET) else None


def of_ip_adapter(name: str) -> str:
    """An IP-Adapter among what is offered and needed."""
    return _IP_ADAPTER + name


def ip_adapter_of(name: str) -> str | None:
    """The inverse; None: this is the name of something else."""
    return name.removeprefix(_IP_ADAPTER) if name.startswith(_IP_ADAPTER) else None


def in_words(names: Names) -> str:
    """For people: which of a job's adapters, which ControlNets, which IP-Adapters, and which scheduler."""
    adapters = sorted(name for name in names if " " not in name)
    others = sorted(names - set(adapters))
    return " and ".join([*([f"adapters {', '.join(adapters)}"] if adapters else []), *others])


class Offers(Generic[R]):
    def __init__(self) -> None:
        # What each denoiser that stays offers, and how many of them offer each name.
        self._denoisers: dict[str, dict[str, Names]] = {}
        self._counts: dict[str, Counter[str]] = {}

    def seat(self, peer: Peer[R], *, stays: bool) -> bool:
        """To be called when the peer comes or goes, or offers others. Whether that made a difference."""
        denoisers = self._denoisers.setdefault(peer.generation, {})
        counts = self._counts.setdefault(peer.generation, Counter())
        before = denoisers.pop(peer.incarnation, None)
        now = peer.offered if stays and Stage.DENOISE in peer.stages else None
        if now is not None:
            denoisers[peer.incarnation] = now
        if before != now:
            counts.update(now or NONE)
            counts.subtract(before or NONE)
            # Names that nobody offers any more are forgotten.
            self._counts[peer.generation] = +counts
        if not denoisers:
            del self._denoisers[peer.generation], self._counts[peer.generation]
        return before != now

    def by_all(self, generation: str, names: Names) -> bool:
        """Whether every denoiser of the generation offers them."""
        denoisers = self._denoisers.get(generation, {})
        return all(self._counts[generation][name] == len(denoisers) for name in names) if denoisers else True

    def by_any(self, generation: str, names: Names) -> bool:
        """Whether a denoiser of the generation offers all of them. While it has none, one that does may yet come."""
        return self.by_all(generation, names) or any(
            names <= offered for offered in self._denoisers[generation].values()
        )

    def missing(self, names: Names) -> Names:
        """Those that no denoiser offers, or all, if none offers them together. While there is none, none is missing."""
        if not self._denoisers or any(self.by_any(generation, names) for generation in self._denoisers):
            return NONE
        return frozenset(name for name in names if not any(counts[name] for counts in self._counts.values())) or names


def needs(job: Job[R]) -> Names:
    """What a denoiser must offer for it, now or next."""
    return job.adapters if job.adapters and job.stage is not Stage.DECODE else NONE


def can_take(peer: Peer[R], job: Job[R]) -> bool:
    """Whether it offers what the job's stage needs."""
    return job.stage is not Stage.DENOISE or job.adapters <= peer.offered
