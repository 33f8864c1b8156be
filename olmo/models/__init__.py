"""Models: configuration, forward, generate and weights, one folder a family."""
