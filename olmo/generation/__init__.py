"""Decoding: from the logits of a model seen as a step to token ids. Knows no model and no tokenizer."""
