"""The documents' comparison of models, from counts: sizes, memory, and the work of a first and of every further token.

A first token is bound by operations: one picture of 1920 x 1080 px and 64 tokens of text. A further token of one answer
is bound by the weights that are read for it. Both are told as a multiple of the speed of Molmo-7B-D, as a machine gives
it that reaches its limits with each model alike; `gpu_suite.py` measures what one does reach. Quality of the released
models is the average of eleven academic benchmarks in their paper; none was run here.

    python benchmarks/model_table.py --save
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from harness import Row, hardware, parse_options, report
from he_molmo_pair import HEIGHT, N_TEXT, WIDTH

from olmo.models.auto import model_class
from olmo.models.he_molmo.cost import prompt_cost
from olmo.models.info import model_info
from olmo.models.molmo.molmo_config import MolmoConfig
from olmo.models.presets import preset

PEER = "Molmo-7B-D"
RATIO = 0.25
"""Of the HeMolmo."""

QUALITY = {"MolmoE-1B": 68.6, "Molmo-7B-O": 74.6, PEER: 77.3, "Molmo-72B": 81.2}
"""Average of eleven benchmarks. Source: Molmo and PixMo, arXiv 2409.17146, table 1."""

MODELS = {
    "Molmo-1B": "molmo-1b",
    PEER: "molmo-7b-d",
    "Molmo-7B-O": "molmo-7b-o",
    "Molmo-72B": "molmo-72b",
    "MolmoE-1B": "molmoe-1b",
    "HeMolmo-7B": "hemolmo-7b",
}
"""Names and presets."""

QUICKER = ("Molmo-1B", "MolmoE-1B", "HeMolmo-7B")
"""Models that the documents call fast."""


@dataclass(frozen=True)
class Counted:
    """What a model takes.

    Attributes:
        n_params: all parameters.
        n_active: those that one token uses.
        weights_bytes: of all, in bfloat16.
        first_flops: operations until the first token is there.
        read_bytes: weights that the language model reads for one further token, in bfloat16.
    """

    n_params: int
    n_active: int
    weights_bytes: int
    first_flops: float
    read_bytes: int


def counted(config: MolmoConfig) -> Counted:
    """Counts of one model, without its weights."""
    if config.model_name == "he_molmo":
        config = config.replace(selection_ratio=RATIO)
    cls = model_class(config.model_name)
    info, cost = model_info(config, cls), prompt_cost(config, WIDTH, HEIGHT, n_text_tokens=N_TEXT)
    return Counted(
        n_params=info.n_params,
        n_active=info.n_active_params,
        weights_bytes=info.memory["bf16"].weights_bytes,
        first_flops=cost.total,
        read_bytes=2 * read_numbers(config),
    )


def read_numbers(config: MolmoConfig) -> int:
    """Weights of the language model that one token is multiplied by: all that it uses but the table of embeddings."""
    with torch.device("meta"):
        model = model_class(config.model_name)(config)
    inactive = model.num_params() - model.num_params(include_inactive=False)
    table = 0 if config.llm.weight_tying else sum(p.numel() for p in model.llm.wte.parameters())
    return sum(p.numel() for p in model.llm.parameters()) - inactive - table


def run(options: Any) -> dict[str, Any]:
    """Count and report."""
    machine, found = hardware(), {name: counted(preset(key)) for name, key in MODELS.items()}
    peer = found[PEER]
    rows = [
        Row(
            case=name,
            ours=model.n_active / 1e9,
            extra={
                "n_params": model.n_params,
                "n_active": model.n_active,
                "weights_bytes": model.weights_bytes,
                "first_token_flops": model.first_flops,
                "bytes_read_a_token": model.read_bytes,
                "first_token_speed": peer.first_flops / model.first_flops,
                "further_token_speed": peer.read_bytes / model.read_bytes,
                "quality": QUALITY.get(name),
            },
        )
        for name, model in found.items()
    ]
    speeds = {row.case: (row.extra or {})["first_token_speed"] for row in rows}
    wrong = [name for name in QUICKER if not speeds[name] > speeds[PEER] > speeds["Molmo-72B"]]
    result = report(
        "model_table",
        "billions of active parameters",
        rows,
        options=options,
        machine=machine,
        notes={
            "prompt": f"{WIDTH} x {HEIGHT} px, {N_TEXT} tokens of text; HeMolmo at a selection ratio of {RATIO}",
            "speeds": f"multiples of {PEER}, computed: operations of the first token, bytes read for a further one",
            "quality": "average of eleven academic benchmarks, arXiv 2409.17146; not run here",
            "out_of_order": wrong,
        },
    )
    if wrong:
        raise SystemExit(f"the documents call {', '.join(wrong)} fast, and the counts do not")
    return result


if __name__ == "__main__":
    run(parse_options((__doc__ or "").splitlines()[0]))
