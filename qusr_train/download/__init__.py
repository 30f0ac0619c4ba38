"""Public model files: where they are, fetched, verified."""
