"""Files of huge pages, for pools: far fewer entries in the tables of an adapter and a processor."""

from __future__ import annotations

import mmap
import os
from typing import Final

from diffusion_worker.transport.errors import EngineInitFailed
from diffusion_worker.transport.pool import allocate

# By Kubernetes' name of them: bytes, and the kernel's flag.
SIZES: Final = {"2Mi": (2 << 20, os.MFD_HUGE_2MB), "1Gi": (1 << 30, os.MFD_HUGE_1GB)}


def pool_file(huge_pages: str) -> int:
    """A file that only this process and those whom it hands it to have. Raises EngineInitFailed.

    `huge_pages`: 2Mi or 1Gi; empty: of ordinary pages.
    """
    flags = os.MFD_HUGETLB | SIZES[huge_pages][1] if huge_pages else 0
    try:
        return os.memfd_create("diffusion-pool", os.MFD_CLOEXEC | flags)
    except OSError as error:
        raise EngineInitFailed(_none(huge_pages, error)) from error


def pool_memory(nbytes: int, file: int, huge_pages: str) -> mmap.mmap:
    """At least so many bytes of such a file, touched. Raises EngineInitFailed if there are not enough huge pages."""
    if not huge_pages:
        return allocate(nbytes, file)
    page = SIZES[huge_pages][0]
    try:
        return allocate(-(-nbytes // page) * page, file)
    except OSError as error:
        raise EngineInitFailed(_none(huge_pages, error, nbytes)) from error


def _none(huge_pages: str, error: OSError, nbytes: int = 0) -> str:
    pool = f"a pool of {nbytes} bytes" if nbytes else "a pool"
    return (
        f"no huge pages of {huge_pages} for {pool} ({error.strerror}): the node needs some that are free "
        f"(vm.nr_hugepages), and the pod hugepages-{huge_pages} for all of it; or leave out spec.transport.hugePages"
    )
