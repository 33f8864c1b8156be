"""Folders that other engines load: the released layout with tokenizer, chat template and processor code."""
