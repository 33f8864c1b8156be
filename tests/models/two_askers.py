"""What two processes that answer together do, for `test_tensor_parallel`. Each case writes what each process found."""

from __future__ import annotations

import json
import os
import traceback
from pathlib import Path
from typing import Any

import torch
from tiny import build, example, picture
from torch import distributed as dist

from olmo.exceptions import OLMoError
from olmo.models.auto import from_pretrained
from olmo.models.base import ModelBase
from olmo.models.he_molmo.he_molmo import HeMolmo
from olmo.models.molmo.molmo import MolmoConfig
from olmo.models.tensor_parallel import leave_processes

GROUPED: dict[str, Any] = {"n_heads": 4, "n_kv_heads": 2, "qkv_bias": True}
ROUTED: dict[str, Any] = {"block_type": "olmoe", "n_experts": 4, "experts_per_token": 2, "qk_norm": True}

# changes of the language model, how it is stored, options of loading
CASES: dict[str, tuple[dict[str, Any], str, dict[str, Any]]] = {
    "grouped heads": (GROUPED, "native", {}),
    "released layout": (GROUPED, "released", {}),
    "tied": ({"weight_tying": True}, "native", {}),
    "normed": ({"norm_after": True, "qk_norm": True}, "native", {}),
    "experts": (ROUTED, "native", {}),
    "bfloat16": (GROUPED, "native", {"dtype": "bfloat16"}),
    "int8": (GROUPED, "native", {"quantize": "int8"}),
    "he_molmo": (GROUPED, "he_molmo", {}),
}
TOLERANCE = {"bfloat16": 0.2, "int8": 0.2}  # measured: 0.079 and 0.087, of logits up to 20


def store(case: str, config: MolmoConfig, folder: Path) -> None:
    """Write the model of a case."""
    model = build(config)
    if CASES[case][1] == "released":
        model.save_pretrained_hf(folder)
    else:
        model.save_checkpoint(folder)
    if CASES[case][1] == "he_molmo":
        he_model = HeMolmo.from_pretrained(folder, overrides=["selection_ratio=0.5"])
        he_model.save_checkpoint(folder.with_name("he"))


def ask(model: ModelBase, **options: Any) -> list[int]:
    preprocess = model.config.build_preprocessor(for_inference=True)
    inputs = preprocess(example("What is on the left?", picture(60, 100, 3)))
    tensors = {k: v for k, v in inputs.items() if isinstance(v, torch.Tensor)}
    return model.generate(**tensors, max_new_tokens=8, **options).token_ids.flatten().tolist()


def compare(case: str, folder: Path) -> dict[str, Any]:
    """Answers and logits of both processes against one, and what this one holds."""
    folder = folder.with_name("he") if CASES[case][1] == "he_molmo" else folder
    options = CASES[case][2]
    whole = from_pretrained(folder, **options)
    shared = from_pretrained(folder, tensor_parallel=True, **options)
    ids = torch.arange(40)[None]
    with torch.no_grad():
        off = (shared(ids).logits - whole(ids).logits).abs().max().item()
        cached = shared(ids, use_cache=True).past_key_values[0][0].shape[1]
    n_bytes = [sum(t.nbytes for t in m.llm.blocks.state_dict().values()) for m in (shared, whole)]
    heads = whole.config.llm.resolved_n_kv_heads
    return {
        "off": off,
        "same answer": ask(shared) == ask(whole),
        "share of the blocks": n_bytes[0] / n_bytes[1],
        "share of the cache": cached / heads,
        "drawn": ask(shared, do_sample=True, temperature=5.0),
        "refused": refusals(shared, folder),
    }


def refusals(model: ModelBase, folder: Path) -> list[str]:
    found = []
    for action in (
        lambda: model.save_checkpoint(folder.with_name("new")), model.train, lambda: model.quantize("int8"),
        lambda: model.save_pretrained_hf(folder.with_name("new")),
    ):  # fmt: skip
        try:
            action()
        except OLMoError as error:
            found.append(str(error))
    return found


def work(rank: int, port: int, folder: str) -> None:
    """One process: every case in turn."""
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), WORLD_SIZE="2", LOCAL_RANK=str(rank), LOCAL_WORLD_SIZE="2",
                      MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))  # fmt: skip
    for case in CASES:
        try:
            result = compare(case, Path(folder) / case / "stored")
        except Exception:
            result = {"error": traceback.format_exc()}
        (Path(folder) / case / f"{rank}.json").write_text(json.dumps(result))
        if "error" in result:
            break
    if dist.is_initialized():
        leave_processes()
