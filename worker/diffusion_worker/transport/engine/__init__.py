"""The process that owns `mooncake.engine`, and the words it shares with the worker that starts it.

Its own package, which imports next to nothing: such a process is started for each peer, in a tenth of a second.
"""
