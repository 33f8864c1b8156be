"""The benchmark of quantised decoding runs at tiny size and says what it must."""

from __future__ import annotations

import argparse
import importlib
import json
from pathlib import Path

import pytest

pytest.importorskip("transformers")

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
TINY = {
    "vocab_size": 64,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "intermediate_size": 32,
    "max_position_embeddings": 256,
    "tie_word_embeddings": True,
}


def test_every_scheme_has_a_row_at_each_batch_size_and_reads_less(monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    script, harness = importlib.import_module("quantized_decode"), importlib.import_module("harness")
    monkeypatch.setattr(script, "read_bandwidth", lambda: 1e9)
    monkeypatch.setattr(harness, "commit", lambda: None)
    script.run(argparse.Namespace(quick=True, save=False, threads=1), TINY)
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["name"] == "quantized_decode"
    assert [row["case"] for row in result["rows"]] == [f"{s}, batch {n}" for n in (1, 8) for s in script.SCHEMES]
    assert all(row["ours"] > 0 and row["peer"] > 0 and row["share_of_bandwidth"] > 0 for row in result["rows"])
    read = result["bytes_read"]
    assert read["int4"] < read["int8"] == read["int8-dynamic"] < read["float32"]
