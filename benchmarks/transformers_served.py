"""`transformers serve` with a model of the size of molmo-nano, as a peer for `molmo serve`.

Neither model is trained, so neither ends an answer by itself: both read a picture as 144 tokens and write as many
tokens as they are asked for. Ours is a Molmo of molmo-nano's configuration; the peer is a LLaVA with an encoder and a
language model of the same widths and depths, and the same tokenizer. Everything is made here; nothing is fetched.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import torch
import transformers
from harness import ROOT

from olmo.models.bundled import bundled_model_folder
from olmo.models.molmo.molmo import Molmo, MolmoConfig

START_S = 300.0
PICTURE_TOKEN = "<image>"
_TEMPLATE = (
    "{% for m in messages %}{{ m['role'] }}: {% if m['content'] is string %}{{ m['content'] }}{% else %}"
    "{% for c in m['content'] %}{% if c['type'] == 'image' %}<image>{% elif c['type'] == 'text' %}{{ c['text'] }}"
    "{% endif %}{% endfor %}{% endif %}\n{% endfor %}assistant:"
)


class NotServedError(Exception):
    """The peer does not run here; the message says why."""


def save_ours(folder: Path) -> int:
    """Write an untrained Molmo of molmo-nano's configuration; how many numbers it has."""
    model = Molmo(MolmoConfig.load(bundled_model_folder()))
    model.save_checkpoint(folder)
    return sum(parameter.numel() for parameter in model.parameters())


def save_peer(folder: Path) -> int:
    """Write an untrained LLaVA of the same widths and depths; how many numbers it has."""
    ours = MolmoConfig.load(bundled_model_folder())
    assert ours.vision_backbone is not None, "molmo-nano reads pictures"
    vit, llm = ours.vision_backbone.vit, ours.llm
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=str(bundled_model_folder() / "tokenizer.json"))
    tokenizer.add_special_tokens(
        {"additional_special_tokens": [PICTURE_TOKEN], "pad_token": "<pad>", "eos_token": "<never>"}
    )
    vision = transformers.SiglipVisionConfig(
        image_size=vit.image_size, patch_size=vit.patch_size, hidden_size=vit.d_model,
        num_attention_heads=vit.n_heads, num_hidden_layers=vit.n_layers, intermediate_size=vit.mlp_hidden_size,
        vision_use_head=False,
    )  # fmt: skip
    text = transformers.Qwen3Config(
        vocab_size=len(tokenizer) + -len(tokenizer) % 8, hidden_size=llm.d_model, num_hidden_layers=llm.n_layers,
        num_attention_heads=llm.n_heads, num_key_value_heads=llm.n_heads, head_dim=llm.d_model // llm.n_heads,
        intermediate_size=llm.mlp_hidden_size, max_position_embeddings=llm.max_sequence_length,
        tie_word_embeddings=llm.weight_tying,
    )  # fmt: skip
    config = transformers.LlavaConfig(
        vision_config=vision, text_config=text, image_token_index=tokenizer.convert_tokens_to_ids(PICTURE_TOKEN),
        image_seq_length=(vit.image_size // vit.patch_size) ** 2, vision_feature_select_strategy="full",
        vision_feature_layer=-1,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.LlavaForConditionalGeneration(config).eval()
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    pictures = transformers.SiglipImageProcessorPil(size={"height": vit.image_size, "width": vit.image_size})
    processor = transformers.LlavaProcessor(
        image_processor=pictures, tokenizer=tokenizer, patch_size=vit.patch_size, image_token=PICTURE_TOKEN,
        vision_feature_select_strategy="full", chat_template=_TEMPLATE,
    )  # fmt: skip
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return sum(parameter.numel() for parameter in model.parameters())


@contextmanager
def transformers_server(folder: Path, threads: int) -> Iterator[str]:
    """The address of `transformers serve`, with `/v1`.

    Raises:
        NotServedError: it does not start; the message holds the end of what it wrote.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = Path(sys.executable).with_name("transformers")
    words = ["serve", str(folder), "--host", "127.0.0.1", "--port", str(port), "--device", "cpu", "--dtype", "float32"]
    log = folder / "serve.log"
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
    with log.open("wb") as file:
        process = subprocess.Popen([program, *words], stdout=file, stderr=file, env=environment, cwd=ROOT)
    try:
        _wait(process, port, log)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.kill()
        process.wait()


def _wait(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    end = time.monotonic() + START_S
    while time.monotonic() < end and process.poll() is None:
        try:
            if httpx.get(f"http://127.0.0.1:{port}/health", timeout=5).status_code == 200:
                return
        except httpx.HTTPError:
            time.sleep(0.2)
    raise NotServedError(log.read_text(errors="replace").strip()[-300:] or "it says nothing")
