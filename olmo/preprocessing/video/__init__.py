"""Video: sources of frames, and which frames a model is shown."""
