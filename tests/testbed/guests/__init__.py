"""Machines with RDMA verbs for tests: emulated by qemu, with Debian's kernel and its Soft-RoCE driver.

Host kernels often have no InfiniBand at all, containers cannot load modules, and a guest needs neither. `image` builds
what they boot from (by `guest/`), `running` runs a command in one. Two guests on a `Link` are two nodes.
"""
