"""`python -m testbed.tiers TARGET`, as the Makefile calls it."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from testbed.tiers.catalogue import TIERS
from testbed.tiers.running import Run

# A run that is told to end ends what it started.
signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
tier = TIERS[sys.argv[1]]
sys.exit(Run(tier, Path("out") / tier.name, root=os.getuid() == 0).run())
