"""Linear layers that keep their matrix in fewer bits, for inference."""
