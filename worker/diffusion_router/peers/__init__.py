"""The router's shell towards workers: streams, messages, what others may know of peers."""
