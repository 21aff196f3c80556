from __future__ import annotations

import sys

from testbed.images.building import TARGETS, BuildError, archive

try:
    for target in TARGETS:
        print(archive(target))  # noqa: T201
except BuildError as error:
    sys.exit(str(error))
