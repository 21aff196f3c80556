"""The router: registry of peers, every job, and the public API."""
