"""All that talks to the API server, or keeps what it said."""
