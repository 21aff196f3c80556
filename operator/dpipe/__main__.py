from __future__ import annotations

from dpipe.app import main

main()
