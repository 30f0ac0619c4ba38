"""The training loop, what it trains, its losses and its records."""
