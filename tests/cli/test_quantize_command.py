"""`molmo quantize`: writes a folder that loads, reports, refuses to lose anything."""

from __future__ import annotations

import json

from olmo.models.molmo.molmo import Molmo
from olmo.quantization.layers import narrow_layers


def test_it_writes_a_folder_and_reports(molmo, tiny, tmp_path):
    result = molmo("quantize", tiny, tmp_path / "q", "--to", "int8", "--scenes", 1, "--json")
    assert result.code == 0, result.err
    report = json.loads(result.out)
    assert report["scheme"] == "int8" and report["n_questions"] > 0
    assert report["linear_bytes_after"] < 0.4 * report["linear_bytes_before"]
    assert 0 <= report["top1_agreement"] <= 1 and report["logit_distance"] > 0
    assert len(narrow_layers(Molmo.from_pretrained(tmp_path / "q"))) == 8


def test_what_is_kept_and_included_and_no_report(molmo, tiny, tmp_path):
    options = ("--keep", "llm.blocks.0", "--keep", "*.ff_out", "--include", "vision_backbone.connector", "--scenes", 0)
    result = molmo("quantize", tiny, tmp_path / "q", "--to", "int8-dynamic", *options)
    assert result.code == 0, result.err
    assert result.out.strip() == f"{tmp_path / 'q'} (int8-dynamic)"
    names = list(narrow_layers(Molmo.from_pretrained(tmp_path / "q")))
    assert [name for name in names if name.startswith("llm")] == [
        "llm.blocks.1.attention.att_proj", "llm.blocks.1.attention.attn_out", "llm.blocks.1.mlp.ff_proj",
    ]  # fmt: skip
    assert any(name.startswith("vision_backbone.connector") for name in names)


def test_mistakes_are_one_line(molmo, tiny, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("x")
    cases = {
        "is not empty": (tiny, tmp_path / "full", "--to", "int8"),
        "fp8 needs a GPU": (tiny, tmp_path / "q", "--to", "fp8"),
        "is the name of no linear layer": (tiny, tmp_path / "q", "--to", "int8", "--keep", "nothing"),
        "keep this layer": (tiny, tmp_path / "q", "--to", "int4"),
    }
    for message, arguments in cases.items():
        result = molmo("quantize", *arguments)
        assert result.code == 1 and message in result.err, result
    assert not (tmp_path / "q").exists()


def test_a_table_for_people(molmo, tiny, tmp_path):
    result = molmo("quantize", tiny, tmp_path / "q", "--to", "int8", "--scenes", 1)
    assert result.code == 0, result.err
    for words in ("before", "weights, MiB", "questions about scenes", "the same likeliest token at"):
        assert words in result.out
