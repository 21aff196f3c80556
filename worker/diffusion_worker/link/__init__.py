"""The worker's side of its one stream to the router."""
