"""What a run keeps in its folder: checkpoints, the lock that makes it its own, a batch that broke it."""
