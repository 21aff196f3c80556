"""The datagrams between a worker and its engine processes."""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import Final

# id, offset in the own pool, remote address, length, bytes at the front that the digest leaves out; the peer's url
# follows as text
REQUEST: Final = struct.Struct("<QQQQQ")
# id, outcome, digest
REPLY: Final = struct.Struct("<QIQ")
# id: sent back as a reply, to show that the process still takes requests
PING: Final = struct.Struct("<Q")
DATAGRAM: Final = 4096


class Outcome(IntEnum):
    OK = 0
    FAILED = 1
    OUT_OF_RANGE = 2
