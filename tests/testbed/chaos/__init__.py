"""A pipeline under faults: `make chaos` (see `run`)."""
