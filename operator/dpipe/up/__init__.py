"""A resource as local processes."""
