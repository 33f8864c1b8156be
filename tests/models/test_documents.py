"""The snippets of the product documents run as printed; only paths and the hub id are replaced."""

from __future__ import annotations

import textwrap

import pytest
import torch
import yaml
from PIL import Image
from tiny import build, picture

from olmo.models.molmo.molmo import Molmo, MolmoConfig
from olmo.nn.llm_config import LlmConfig
from olmo.nn.vision_config import MolmoVisionBackboneConfig

EXAMPLE_USAGE = """
    from olmo.models.molmo.molmo import MolmoConfig, Molmo

    # Load config
    config = MolmoConfig.load("config.yaml")

    # Create model
    model = Molmo(config)

    # Load checkpoint
    model.load_checkpoint("checkpoint_dir")
    model.eval()

    # Prepare inputs
    preprocessor = config.build_preprocessor(for_inference=True)
    inputs = preprocessor({"image": image, "messages": messages})

    # Forward pass
    with torch.no_grad():
        output = model(
            input_ids=inputs["input_ids"],
            images=inputs["images"]
        )

    # Generation
    with torch.no_grad():
        generated = model.generate(
            input_ids=inputs["input_ids"],
            images=inputs["images"],
            max_new_tokens=200
        )
        print(generated.text[0])
"""

FROM_DICTIONARY = """
    config = MolmoConfig.new(
        llm=LlmConfig(
            d_model=4096,
            n_heads=32,
            n_layers=32,
        ),
        vision_backbone=MolmoVisionBackboneConfig(
            image_model_type="openai",
        ),
    )
"""

WITH_OVERRIDES = """
    config = MolmoConfig.load(
        "config.yaml",
        overrides=["llm.n_layers=16", "vision_backbone.image_model_type=siglip"]
    )
"""

SAVE_AND_LOAD = """
    model.save_checkpoint(
        path="/path/to/checkpoint",
        sharded=True,  # Save as sharded checkpoint
    )
    model.load_checkpoint(
        path="/path/to/checkpoint",
        strict=True,  # Require exact match
    )
"""

LOAD_PRETRAINED = """
    # Load from HuggingFace Hub
    model = Molmo.from_pretrained(
        "allenai/Molmo-7B-D-0924",
        trust_remote_code=True
    )
"""

PLACEMENT = """
    # CPU
    model = model.cpu()

    # Mixed precision
    model = model.to(torch.bfloat16)
    model = model.to(torch.float16)
"""

MIXTURE_OF_EXPERTS = """
    # LLM config with MoE
    llm_config = LlmConfig(
        block_type="olmoe",          # Use MoE blocks
        n_experts=8,                 # Number of experts
        experts_per_token=2,         # Active experts per token
    )
"""

FSDP_POLICY = """
    from torch.distributed.fsdp import FullyShardedDataParallel as FSDP

    auto_wrap_policy=model.get_fsdp_wrap_policy()
"""


def run(snippet: str, replaced: dict[str, object] | None = None, **given: object) -> dict[str, object]:
    """Execute a snippet; returns its names."""
    code = textwrap.dedent(snippet)
    for printed, path in (replaced or {}).items():
        assert printed in code
        code = code.replace(printed, str(path))
    names: dict[str, object] = {
        "torch": torch, "Molmo": Molmo, "MolmoConfig": MolmoConfig, "LlmConfig": LlmConfig,
        "MolmoVisionBackboneConfig": MolmoVisionBackboneConfig, **given,
    }  # fmt: skip
    exec(compile(code, "<document>", "exec"), names)
    return names


@pytest.mark.parametrize("sharded", [True, False])
def test_p19_the_example_usage(tiny_folder, tmp_path, capsys, sharded):
    saved = build(MolmoConfig.load(tiny_folder), seed=5)
    saved.save_checkpoint(tmp_path / "checkpoint", sharded=sharded)
    names = run(
        EXAMPLE_USAGE,
        {"config.yaml": tiny_folder / "config.yaml", "checkpoint_dir": tmp_path / "checkpoint"},
        image=Image.fromarray(picture(60, 100)),
        messages=[{"role": "user", "content": "What is it?"}],
    )
    text = names["generated"].text[0]
    assert isinstance(text, str) and capsys.readouterr().out == text + "\n"
    inputs = names["inputs"]
    assert names["output"].logits.shape == (1, len(inputs["input_ids"]), 260)
    assert text == saved.generate(**inputs, max_new_tokens=200).text[0]


def test_p21_p22_configurations(tmp_path):
    config = run(FROM_DICTIONARY)["config"]
    assert (config.llm.d_model, config.vision_backbone.vit.image_model_type) == (4096, "openai")
    (tmp_path / "c.yaml").write_text(yaml.safe_dump({"llm": {"n_layers": 2}}))
    config = run(WITH_OVERRIDES, {"config.yaml": tmp_path / "c.yaml"})["config"]
    assert (config.llm.n_layers, config.vision_backbone.vit.image_model_type) == (16, "siglip")
    assert run(MIXTURE_OF_EXPERTS)["llm_config"].n_experts == 8


def test_p24_p27_checkpoints(config, golden_dir, tmp_path):
    run(SAVE_AND_LOAD, {"/path/to/checkpoint": tmp_path / "c"}, model=build(config))
    loaded = run(LOAD_PRETRAINED, {"allenai/Molmo-7B-D-0924": golden_dir / "molmo_d"})["model"]
    assert isinstance(loaded, Molmo)


def test_p28_p30_placement_and_sharding_policy(config):
    assert run(PLACEMENT, model=build(config))["model"].dtype == torch.float16
    assert callable(run(FSDP_POLICY, model=build(config))["auto_wrap_policy"])
