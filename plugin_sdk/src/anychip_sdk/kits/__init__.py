"""Complete implementations of the contract to start from: numpy (the oracle) and torch."""
