"""One pipeline's key -> what the cluster should have of it, applied."""
