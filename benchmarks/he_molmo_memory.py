"""Peak memory above the weights while a prompt is read and answered, for `he_molmo.py`.

Resident memory of a process of its own, over what it held before (Linux only). Both sides encode one crop at a time, so
that the encoder, which is the same for both, does not hide what the language model takes.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import torch
from he_molmo_pair import HePair, answer_seconds

N_NEW = 8


def peak_bytes(ratio: float | None, n_rows: int) -> int:
    """Peak of resident memory over what the process held before; None: of the plain model."""
    script = str(Path(__file__).resolve())
    command = [sys.executable, script, str(ratio or 0.0), str(n_rows), str(torch.get_num_threads())]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(json.loads(done.stdout.splitlines()[-1])["peak"])


def _held(name: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def _child(ratio: float, n_rows: int, n_threads: int) -> None:
    torch.set_num_threads(n_threads)
    pair = HePair(frame_batch_size=1)
    prompts = pair.prompts(n_rows)
    model, settings = (pair.chosen, {"selection_ratio": ratio}) if ratio else (pair.plain, {})
    with torch.inference_mode():
        first = torch.zeros(1, 2, model.config.llm.d_model)
        model.llm(first, position_ids=torch.arange(2)[None])  # what a first call sets up
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew from here
        before = _held("VmRSS")
        answer_seconds(model, prompts, [N_NEW], **settings)
    print(json.dumps({"peak": _held("VmHWM") - before}))


if __name__ == "__main__":
    _child(float(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
