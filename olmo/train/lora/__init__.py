"""Low-rank adapters: put on a model in training, saved alone, loaded, merged."""
