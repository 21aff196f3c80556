"""A worker: one pod's weights, memory pool and running tasks."""
