"""Both sides of the language model benchmarks do the same work, at tiny size."""

from __future__ import annotations

import argparse
import importlib
import json
from pathlib import Path

import pytest
import torch

pytest.importorskip("transformers")

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
TINY = {
    "vocab_size": 64,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "num_key_value_heads": 1,
    "intermediate_size": 32,
    "max_position_embeddings": 256,
    "tie_word_embeddings": True,
    "initializer_range": 0.3,
}


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch):
    """Imports a script of the benchmarks by name."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


@pytest.fixture
def pair(scripts):
    return scripts("llm_pair").LlmPair(TINY)


@pytest.mark.parametrize("cache", ["dynamic", "static"])
@torch.inference_mode()
def test_both_sides_give_the_same_logits(pair, cache):
    prompt = pair.prompt(3, 9)
    ours, peer = pair.prefill_ours(prompt, 4), pair.prefill_peer(prompt, 4, cache)
    torch.testing.assert_close(ours.logits, peer.logits, rtol=0, atol=1e-5)  # measured worst: 1e-6
    for _ in range(4):
        token = ours.logits.argmax(-1)
        torch.testing.assert_close(ours.step(token), peer.step(token), rtol=0, atol=1e-5)


def test_what_a_step_reads_and_a_prompt_costs(pair):
    d, heads, kv, inner, vocab = 24, 24, 8, 32, 64
    block = d * (heads + 2 * kv) + (heads + 2 * kv) + heads * d + 3 * d * inner + 2 * d
    assert pair.weight_bytes_read() == 4 * (2 * block + d + vocab * d)
    matrices = d * (heads + 2 * kv) + heads * d + 3 * d * inner
    # One token attends to itself alone: two products of the width of all heads a layer.
    assert pair.prefill_flops(5, 1) == 5 * (2 * 2 * matrices + 2 * 4 * heads + 2 * vocab * d)


@pytest.mark.parametrize("name", ["decode", "prefill"])
def test_scripts_measure_tiny_models(scripts, pair, name, capsys, monkeypatch):
    script, harness = scripts(name), scripts("harness")
    for limit in ("read_bandwidth", "matmul_peak"):
        if hasattr(script, limit):
            monkeypatch.setattr(script, limit, lambda: 1e9)
    monkeypatch.setattr(harness, "commit", lambda: None)
    script.run(argparse.Namespace(quick=True, save=False, threads=1), pair)
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["name"] == name
    assert [row["case"].split(",")[0] for row in result["rows"]] == ["batch 1", "batch 8"]
    assert all(row["ours"] > 0 and row["peer"] > 0 and row["limit"] > 0 for row in result["rows"])


def test_different_tokens_are_no_result(scripts, pair, monkeypatch):
    decode = scripts("decode")
    monkeypatch.setattr(decode, "read_bandwidth", lambda: 1e9)
    with torch.no_grad():
        pair.peer.model.layers[0].mlp.down_proj.weight.add_(1.0)
    with pytest.raises(SystemExit, match="different tokens"):
        decode.run(argparse.Namespace(quick=True, save=False, threads=1), pair)
