"""What asks a running router."""
