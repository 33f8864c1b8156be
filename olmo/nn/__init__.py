"""Modules on tensors. They know nothing of text, files or datasets."""
