"""What may change between a checkpoint and the run that continues it.

Nothing is guessed: a key that is not known to be harmless, and was not allowed by name, stops the run before a step is
taken. Works on plain dicts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from olmo.config import BaseConfig
from olmo.exceptions import OLMoConfigurationError

HARMLESS = (
    "max_steps",
    "epochs",
    "run_dir",
    "n_workers",
    "n_threads",
    "log_every",
    "micro_batch_size",
    "activation_checkpointing",
    "compile",
    "on_nan",
    "max_bad_steps",
    "on_bad_example",
    "parallel",
    "checkpoint",
    "watch",
    "evaluation",
)
"""Keys, with all below them, that change how long, how fast or how visibly a run learns, and not what."""

NOT_HARMLESS = ("parallel.tensor_parallel", "parallel.param_dtype", "parallel.reduce_dtype")
"""Keys below a harmless one that are not: tensor parallelism gives weights other names, types change the arithmetic."""

_ABSENT = "(absent)"


def check_recipe(now: BaseConfig, saved: Mapping[str, Any], allow_changes: Sequence[str], where: object) -> None:
    """Compare the recipe of a run with the one in its checkpoint.

    Args:
        now: the recipe of the run.
        saved: the recipe as the checkpoint holds it.
        allow_changes: dotted keys that may differ, with all below them.
        where: the checkpoint, for the message.

    Raises:
        OLMoConfigurationError: something else differs; every difference is listed.
    """
    try:
        before = type(now).from_dict(saved).asdict()  # fills in fields that are newer than the checkpoint
    except OLMoConfigurationError:
        before = dict(saved)
    refused = []
    for key, old, new in differences(before, now.asdict()):
        is_harmless = _is_below(key, HARMLESS) and not _is_below(key, NOT_HARMLESS)
        if not is_harmless and not _is_below(key, allow_changes):
            refused.append((key, old, new))
    if refused:
        first = refused[0][0]
        listed = "\n".join(f"  {key}: {old} -> {new}" for key, old, new in refused)
        raise OLMoConfigurationError(
            f"the recipe is not the one that {where} was trained with:\n{listed}\nPut it back, start afresh with "
            f"another run_dir (init_from takes the weights along), or accept a change with `--allow-changes {first}`"
        )


def differences(old: Any, new: Any, key: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(dotted key, old value, new value) of everything that differs between two nested containers."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for name in [*old, *(n for n in new if n not in old)]:
            yield from differences(old.get(name, _ABSENT), new.get(name, _ABSENT), f"{key}.{name}" if key else name)
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for index, (before, after) in enumerate(zip(old, new, strict=True)):
            yield from differences(before, after, f"{key}.{index}")
    elif old != new:
        yield key, old, new


def _is_below(key: str, roots: Sequence[str]) -> bool:
    return any(key == root or key.startswith(f"{root}.") for root in roots)
