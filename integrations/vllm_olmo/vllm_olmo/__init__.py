"""A plugin of vLLM: model classes for folders that `molmo export` writes.

vLLM calls `register` in each of its processes. Nothing here imports vLLM before that.
"""

from __future__ import annotations

import importlib.util

ARCHITECTURES = ("MolmoForCausalLM", "OLMoForCausalLM", "VideoOlmoForCausalLM", "HeMolmoForCausalLM")
"""Names in `architectures` of a `config.json` that `model.py` runs: Molmo, MolmoE (as released), and the variants."""

MODEL_CLASS = "vllm_olmo.model:MolmoForCausalLM"
"""Where the class is; vLLM imports it when a model of such an architecture is loaded."""


def register() -> None:
    """Tell vLLM which class runs which architecture; calling it again changes nothing. Does nothing without vLLM."""
    if importlib.util.find_spec("vllm") is None:
        return
    from vllm import ModelRegistry

    for architecture in ARCHITECTURES:
        ModelRegistry.register_model(architecture, MODEL_CLASS)
