"""Code that is written into exported folders, for `transformers` to run; `olmo` itself never imports it."""
