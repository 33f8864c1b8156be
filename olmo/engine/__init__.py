"""Generation over many requests at once."""
