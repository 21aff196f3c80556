"""Writes the pages that are made from what they tell of, each by the module here that makes it.

python docs/write.py            # `make docs`
python docs/write.py --check    # `make check`: exit status 1 if a page is not what would be written
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

import imports
import lifecycle
import reference
import request_fields

PAGES: Final = {
    "imports.md": imports.page,
    "job-lifecycle.md": lifecycle.page,
    "resource.md": reference.page,
    "request-fields.md": request_fields.page,
}


def main() -> int:
    stale = []
    for name, page in PAGES.items():
        path, wanted = Path(__file__).with_name(name), page()
        if "--check" not in sys.argv[1:]:
            path.write_text(wanted, encoding="utf-8")
        elif not path.exists() or path.read_text(encoding="utf-8") != wanted:
            stale.append(f"docs/{name}")
    if stale:
        sys.stderr.write(f"not what they would be if they were written now: {', '.join(stale)}; run make docs\n")
    return bool(stale)


if __name__ == "__main__":
    sys.exit(main())
