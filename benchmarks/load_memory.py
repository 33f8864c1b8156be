"""Peak memory of loading a checkpoint, over the size of its weights; the promise is at most 1.3.

Each load runs in a process of its own. Counted is what the load adds at its peak to what the process held after its
imports, mapped pages of the checkpoint included, until every weight was read once. The peer is transformers loading its
own layout of the same language model; it maps the file where we copy. Smaller is better; `ratio` above 1 means that we
need less. Linux only.

    python benchmarks/load_memory.py --save
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from harness import ROOT, Row, hardware, parse_options, report
from llm_pair import SMOLLM2_135M
from transformers import Qwen2Config, Qwen2ForCausalLM

from olmo.checkpoint.hf import save_by_rules
from olmo.models.molmo.hf import hf_export_rules
from olmo.models.molmo.hf_config import hf_config_from
from olmo.models.molmo.molmo import Molmo
from olmo.models.molmo.molmo_config import MolmoConfig
from olmo.nn.llm_config import LlmConfig
from olmo.nn.vision_config import MolmoVisionBackboneConfig

PROMISE = 1.3
SHAPE = {
    "d_model": 576,
    "n_heads": 9,
    "n_kv_heads": 3,
    "mlp_hidden_size": 1536,
    "weight_tying": True,
    "qkv_bias": True,
}
VISION = {"vit_layers": [-2, -4], "vit": {"n_layers": 6}}
FULL, QUICK = {"n_layers": 30, "vocab_size": 49_152}, {"n_layers": 8, "vocab_size": 8192}  # of the language model

IMPORTS = {
    "ours": "from olmo.models.molmo.molmo import Molmo as Model",
    "peer": "from transformers import Qwen2ForCausalLM as Model",
}
# Whatever a first use of the loader imports is imported before: code is no memory of the checkpoint.
CHILD = """
import json, sys, gc, torch, torch.distributed.checkpoint, safetensors.torch
{imports}

def held(name):
    for line in open("/proc/self/status"):
        if line.startswith(name):
            return int(line.split()[1]) * 1024

gc.collect()
open("/proc/self/clear_refs", "w").write("5")  # the peak starts anew from here
before = held("VmRSS")
model = Model.from_pretrained(sys.argv[1], dtype=getattr(torch, sys.argv[2]))
for tensor in model.state_dict().values():
    tensor.max()  # the peer maps its file: weights become memory when they are read
peak, after = held("VmHWM"), held("VmRSS")
print(json.dumps({{"peak": peak - before, "kept": after - before, "before": before}}))
"""


def write_native(model: Molmo, folder: Path, sharded: bool) -> None:
    """Our own layout, in several files or one."""
    model.save_checkpoint(folder, sharded=sharded)


def write_released(model: Molmo, folder: Path) -> None:
    """The layout of the released models, in several files as they have it."""
    dtype = str(model.dtype).removeprefix("torch.")
    config_json = hf_config_from(model.config, dtype)
    size = sum(parameter.nbytes for parameter in model.parameters())
    save_by_rules(model, hf_export_rules(model.config), folder, config_json, max_shard_bytes=size // 3)


def write_peer(folder: Path, size: dict[str, int]) -> None:
    """The language model alone, as transformers writes it."""
    shape = {**SMOLLM2_135M, "num_hidden_layers": size["n_layers"], "vocab_size": size["vocab_size"]}
    Qwen2ForCausalLM(Qwen2Config(**shape)).save_pretrained(folder)


def build_model(size: dict[str, int], has_vision: bool, dtype: torch.dtype = torch.float32) -> Molmo:
    """A Molmo with random weights."""
    vision = MolmoVisionBackboneConfig.new(**VISION) if has_vision else None
    return Molmo(MolmoConfig(llm=LlmConfig(**SHAPE, **size), vision_backbone=vision)).to(dtype)


def load(folder: Path, side: str, dtype: str) -> dict[str, int]:
    """Load `folder` in a fresh process; bytes at the peak, kept afterwards, and held before."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD.format(imports=IMPORTS[side]), str(folder), dtype],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"loading {folder.name} failed:\n{done.stderr[-2000:]}")
    figures: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    return figures


def weight_bytes(folder: Path) -> int:
    """Size of all weight files in a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*.safetensors"))


def measure(case: str, folder: Path, dtype: str = "float32", peer: float | None = None) -> Row:
    """Load one folder with our code."""
    size, figures = weight_bytes(folder), load(folder, "ours", dtype)
    extra = {"checkpoint_mib": size / 1024**2, "kept": figures["kept"] / size}
    return Row(case=case, ours=figures["peak"] / size, peer=peer, limit=PROMISE, extra=extra, is_higher_better=False)


def run(options: Any) -> dict[str, Any]:
    """Write the checkpoints, load each, report."""
    size, machine = (QUICK if options.quick else FULL), hardware()
    with tempfile.TemporaryDirectory(prefix="olmo-load-") as temporary:
        root = Path(temporary)
        rows = [_beside_peer(root, size)]
        for dtype in ("float32", "bfloat16"):
            model = build_model(size, has_vision=True, dtype=getattr(torch, dtype))
            writers: dict[str, Callable[[Path], None]] = {
                "native, one file": lambda folder, model=model: write_native(model, folder, sharded=False),
                "native, shards": lambda folder, model=model: write_native(model, folder, sharded=True),
                "released layout": lambda folder, model=model: write_released(model, folder),
            }
            for name, write in writers.items():
                folder = root / f"{name}-{dtype}".replace(", ", "-").replace(" ", "-")
                write(folder)
                rows.append(measure(f"{name}, {dtype}", folder, dtype))
    result = report(
        "load_memory",
        "peak over size of the weights",
        rows,
        options=options,
        packages=("transformers", "safetensors"),
        machine=machine,
        notes={"peer": "transformers Qwen2ForCausalLM.from_pretrained of the same language model", "promise": PROMISE},
    )
    if max(row.ours for row in rows) > PROMISE:
        raise SystemExit(f"a load took more than {PROMISE} times its checkpoint")
    return result


def _beside_peer(root: Path, size: dict[str, int]) -> Row:
    """The language model alone, which the peer can load too."""
    write_peer(root / "peer", size)
    write_native(build_model(size, has_vision=False), root / "llm", sharded=True)
    theirs = load(root / "peer", "peer", "float32")["peak"] / weight_bytes(root / "peer")
    return measure("language model alone, float32", root / "llm", peer=theirs)


if __name__ == "__main__":
    if not Path("/proc/self/clear_refs").exists():
        raise SystemExit("this benchmark reads /proc/self/clear_refs, which only Linux has")
    run(parse_options(__doc__.splitlines()[0]))
