"""The words that all programs share, as they stand in resources, flags, labels, logs and answers.

Enumerations of the protocol have no table of their own: `word` and `number` read protobuf's, whose names are these
words in capitals behind the enumeration's own name.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Final, Literal, Protocol, TypeVar


class Stage(StrEnum):
    """One third of a job, in the order in which it passes them."""

    ENCODE = "encode"
    DENOISE = "denoise"
    DECODE = "decode"

    @property
    def role(self) -> Role:
        """Whose workers run it."""
        return MODEL_ROLES[STAGES.index(self)]


class Role(StrEnum):
    """What a pod is: the router, or a worker of one or more of the others."""

    ENCODER = "encoder"
    DENOISER = "denoiser"
    DECODER = "decoder"
    ROUTER = "router"

    @property
    def stage(self) -> Stage:
        """What its workers run. Raises ValueError for the router."""
        return STAGES[MODEL_ROLES.index(self)]


ModelRole = Literal[Role.ENCODER, Role.DENOISER, Role.DECODER]
"""What a worker may be."""

STAGES: Final = tuple(Stage)
MODEL_ROLES: Final[tuple[ModelRole, ...]] = (Role.ENCODER, Role.DENOISER, Role.DECODER)

PROTOCOL: Final = 4
"""What of the protocol between worker and router this version speaks: 0 before either said, 2 knows probes, 3 copies,
4 hears of peers that are gone, keeps conditioning with denoisers, and makes checkpoints of what goes on."""

MAX_ADAPTERS: Final = 8
"""That one request may name."""
ADAPTER_NAME: Final = "[A-Za-z0-9][A-Za-z0-9._-]{0,127}"
"""What a request may call one."""
SCHEDULER_NAME: Final = "[A-Za-z0-9][A-Za-z0-9._-]{0,62}"

CONTROLS: Final = "controls"
"""What a request calls its ControlNets; files of this name are their pictures, in the same order."""
MAX_CONTROLS: Final = 4
"""That one request may name."""
CONTROL_NAME: Final = ADAPTER_NAME
"""What a request may call one."""

IP_ADAPTERS: Final = "ip_adapters"
"""What a request calls its IP-Adapters; files of this name are their pictures, in the same order."""
MAX_IP_ADAPTERS: Final = 4
"""That one request may name."""
IP_ADAPTER_NAME: Final = ADAPTER_NAME
"""What a request may call one."""

VIDEO_INPUTS: Final = ("video", "control_video", "mask_video")
"""Files of a request that are videos, by the argument that takes them. All others are pictures."""

PriorityName = Literal["interactive", "standard", "batch"]
"""Of a job, as requests have it."""

LogFormat = Literal["auto", "json", "console"]
LogLevel = Literal["debug", "info", "warning", "error"]

# Exit codes: part of a program's interface, as its flags are. The first two are every program's.
EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2
# A worker's.
EXIT_MODEL: Final = 3
EXIT_INCOMPATIBLE: Final = 4
EXIT_TRANSPORT: Final = 5
EXIT_STALLED: Final = 6
EXIT_DOWNLOAD: Final = 7
# An operator's.
EXIT_LEASE_LOST: Final = 3
EXIT_DEFINITIONS: Final = 4


Number_co = TypeVar("Number_co", covariant=True)
Number = TypeVar("Number")


class Enumeration(Protocol[Number_co]):
    """An enumeration of the protocol, such as `stage_pb2.Stage`."""

    def Name(self, number: Any) -> str: ...  # noqa: N802

    def Value(self, name: Any) -> Number_co: ...  # noqa: N802


_UNSPECIFIED: Final = "UNSPECIFIED"


def word(enumeration: Enumeration[Number], number: int) -> str:
    """`too_large` for FAILURE_KIND_TOO_LARGE; `unspecified` for 0, and for what only another version knows."""
    prefix = enumeration.Name(0).removesuffix(_UNSPECIFIED)
    try:
        return enumeration.Name(number).removeprefix(prefix).lower()
    except ValueError:
        return _UNSPECIFIED.lower()


def number(enumeration: Enumeration[Number], word: str) -> Number:
    """FAILURE_KIND_TOO_LARGE for `too_large`. Raises ValueError for a word that the enumeration lacks."""
    return enumeration.Value(enumeration.Name(0).removesuffix(_UNSPECIFIED) + word.upper())


_UNITS: Final = (("GiB", 1 << 30), ("MiB", 1 << 20))


def rate_text(bytes_per_second: float) -> str:
    """Of two digits: `1.9 GB/s`, `34 MB/s`."""
    rounded = float(f"{bytes_per_second:.2g}")
    return f"{rounded / 1e9:g} GB/s" if rounded >= 1e9 else f"{rounded / 1e6:g} MB/s"


def proved_text(bytes_per_second: float, seconds: float) -> str:
    """What a worker measured by pulling from itself: `1.9 GB/s, 0.34 ms`."""
    return f"{rate_text(bytes_per_second)}, {float(f'{1000 * seconds:.2g}'):g} ms"


def portion(done: int, size: int) -> str:
    """How much of so many bytes is there: `41 %, 3.2 of 7.8 GiB`."""
    name, unit = next((one for one in _UNITS if size >= one[1]), _UNITS[-1])
    return f"{100 * done // max(1, size)} %, {done / unit:.1f} of {size / unit:.1f} {name}"
