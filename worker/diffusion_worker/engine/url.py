"""A Mooncake pool's URL: where its engine listens, and which of its addresses are the pool.

    mooncake-tcp://10.0.0.7:20000/7f1c00000000+10000000

The engine itself checks remote addresses late or not at all, so the consumer checks them against this range.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

_FORM: Final = re.compile(
    r"(mooncake-(?:tcp|rdma))://(\[[0-9a-fA-F:.]+\]|[^/:\s]+):([0-9]{1,5})/([0-9a-f]{1,16})\+([0-9a-f]{1,16})"
)


@dataclass(frozen=True)
class PoolUrl:
    mode: str
    endpoint: str
    """host:port, as Mooncake wants it; an IPv6 address in brackets."""
    address: int
    """Of the pool's first byte, in the process that serves it."""
    size: int

    @property
    def version(self) -> str:
        """Of IP. Mooncake speaks one of the two, whichever addresses the machine has."""
        return "IPv6" if self.endpoint.startswith("[") else "IPv4"

    def __str__(self) -> str:
        return f"{self.mode}://{self.endpoint}/{self.address:x}+{self.size:x}"

    def check(self, address: int, length: int) -> None:
        """Raises ValueError unless the bytes lie in the pool."""
        if length <= 0 or address < self.address or address + length > self.address + self.size:
            raise ValueError(f"{length} bytes at {address:#x} are not in the pool of {self}")

    @staticmethod
    def parse(text: str) -> PoolUrl:
        match = _FORM.fullmatch(text)
        if match is None or not 0 < int(match[3]) < 1 << 16:
            raise ValueError(f"{text!r} is not the URL of a Mooncake pool")
        return PoolUrl(match[1], f"{match[2]}:{match[3]}", int(match[4], 16), int(match[5], 16))
