"""Real parts that tests run against: see README.md."""
