"""The process that owns `mooncake.engine`, and the words it shares with the worker that starts it.

A room of its own, which imports next to nothing: such a process is started for each peer, in a tenth of a second, and
importing any module of `transport` would take three.
"""
