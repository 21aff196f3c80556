"""What `make test-quick`, `make test` and `make test-all` run: see `catalogue`."""
