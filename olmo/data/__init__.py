"""Raw examples. Nothing here knows a tokenizer, a preprocessor or a model."""
