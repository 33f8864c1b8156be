"""What `lmms-eval` looks for in a plugin: model names, and the class of each in the module of that name."""

AVAILABLE_MODELS = {"molmo_native": "MolmoForLmms"}
"""Class by model name."""
