"""Weights on disk: our own folders, published layouts through key maps, and exact resume of training."""
