"""What operator, router, workers and clients share: the protocol (`v1`), its words, and what every process needs."""
