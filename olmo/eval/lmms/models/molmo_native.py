"""Where `lmms-eval` finds the class: it is made when it is asked for, so importing this needs no `lmms-eval`."""

from __future__ import annotations

from olmo.eval.lmms.adapter import lmms_model_class


def __getattr__(name: str) -> type:
    if name == "MolmoForLmms":
        return lmms_model_class()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
