"""An exported folder: its files and tensors by a table of the released ones, its code, and that it loads back."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from tiny import build, example, picture
from transformers import AutoConfig, AutoProcessor

from olmo.exceptions import OLMoCheckpointError
from olmo.models.auto import from_pretrained, saved_model_name
from olmo.models.base import ModelBase
from olmo.models.export.hf_folder import HUB_CODE, export_hf
from olmo.models.he_molmo.he_molmo import HeMolmo
from olmo.models.molmo.molmo import Molmo
from olmo.models.molmo.molmo_config import MolmoConfig
from olmo.models.video_olmo.video_olmo import VideoOlmo

D, KV, F, V, W = 32, 16, 48, 260, 24
"""Width, width of keys, feed-forward width, rows of the token table, width of the encoder."""

RELEASED: dict[str, Any] = {
    "llm__n_kv_heads": 1, "llm__qkv_bias": True, "llm__additional_vocab_size": 128, "vision_backbone__vit__d_model": W,
    "vision_backbone__vit__n_layers": 10, "vision_backbone__vit__mlp_hidden_size": 40,
    "vision_backbone__vit_layers": [-2, -9], "mm_preprocessor__legacy_image_mask": True,
}  # fmt: skip
"""What the released models have, beside their sizes, over the tiny one."""

FILES = {
    "config.json", "generation_config.json", "model.safetensors", "preprocessor_config.json", "processor_config.json",
    "tokenizer.json", "tokenizer_config.json", "config_molmo.py", "image_preprocessing_molmo.py",
    "preprocessing_molmo.py",
}  # fmt: skip

COMMON = {
    "model.transformer.wte.embedding": (V, D),
    "model.transformer.wte.new_embedding": (128, D),
    "model.transformer.ln_f.weight": (D,),
    "model.vision_backbone.pad_embed": (2, 2 * W),
    "model.vision_backbone.image_pooling_2d.wo.weight": (W, W),
    "model.vision_backbone.image_pooling_2d.wo.bias": (W,),
    "model.vision_backbone.image_projector.w1.weight": (F, W),
    "model.vision_backbone.image_projector.w3.weight": (F, W),
    "model.vision_backbone.image_projector.w2.weight": (D, F),
    "model.vision_backbone.image_vit.class_embedding": (W,),
    "model.vision_backbone.image_vit.positional_embedding": (17, W),
    "model.vision_backbone.image_vit.patch_embedding.weight": (W, 588),
    "model.vision_backbone.image_vit.pre_ln.weight": (W,),
    "model.vision_backbone.image_vit.pre_ln.bias": (W,),
}
DENSE = {
    "att_proj.weight": (D + 2 * KV, D),
    "att_proj.bias": (D + 2 * KV,),
    "attn_out.weight": (D, D),
    "ff_proj.weight": (2 * F, D),
    "ff_out.weight": (D, F),
    "attn_norm.weight": (D,),
    "ff_norm.weight": (D,),
}
ROUTED = {
    "attn.att_proj.weight": (3 * D, D),
    "attn.attn_out.weight": (D, D),
    "attn.attn_norm.weight": (D,),
    "attn.q_norm.weight": (D,),
    "attn.k_norm.weight": (D,),
    "mlp.gate.weight": (4, D),
    "mlp.ff_norm.weight": (D,),
    **{f"mlp.experts.{e}.{part}_proj.weight": (F, D) for e in range(4) for part in ("gate", "up")},
    **{f"mlp.experts.{e}.down_proj.weight": (D, F) for e in range(4)},
}
ENCODER = {
    **{f"attention.{w}.weight": (W, W) for w in ("wq", "wk", "wv", "wo")},
    **{f"attention.{w}.bias": (W,) for w in ("wq", "wk", "wv", "wo")},
    "feed_forward.w1.weight": (40, W),
    "feed_forward.w1.bias": (40,),
    "feed_forward.w2.weight": (W, 40),
    "feed_forward.w2.bias": (W,),
    **{f"{norm}.{kind}": (W,) for norm in ("attention_norm", "ffn_norm") for kind in ("weight", "bias")},
}
MOE = {"llm__block_type": "olmoe", "llm__n_experts": 4, "llm__experts_per_token": 2, "llm__qkv_bias": False,
       "llm__qk_norm": True, "llm__n_kv_heads": None}  # fmt: skip


def expected_tensors(is_routed: bool) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the released index at these sizes."""
    head = "lm_head.weight" if is_routed else "model.transformer.ff_out.weight"
    found = {**COMMON, head: (V, D)}
    for part in ("wq", "wk", "wv"):
        found[f"model.vision_backbone.image_pooling_2d.{part}.weight"] = (W, 2 * W)
        found[f"model.vision_backbone.image_pooling_2d.{part}.bias"] = (W,)
    for layer in range(2):
        found |= {f"model.transformer.blocks.{layer}.{n}": s for n, s in (ROUTED if is_routed else DENSE).items()}
    for layer in range(10):
        prefix = f"model.vision_backbone.image_vit.transformer.resblocks.{layer}"
        found |= {f"{prefix}.{name}": shape for name, shape in ENCODER.items()}
    return found


def exported(model: ModelBase, folder: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # says that the released code would read other sizes than the tiny ones
        export_hf(model, folder)
    return folder


def tensors_of(folder: Path) -> dict[str, tuple[int, ...]]:
    with safe_open(folder / "model.safetensors", "pt") as file:
        return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118


def read(folder: Path, name: str) -> dict[str, Any]:
    return json.loads((folder / name).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def dense(make_config, tmp_path_factory) -> tuple[Molmo, Path]:
    model = build(make_config(**RELEASED), seed=4)
    return model, exported(model, tmp_path_factory.mktemp("export") / "dense")


@pytest.fixture(scope="module")
def processor(dense, tmp_path_factory):
    """The processor of the folder, by `transformers`, which copies its code into a cache of its own."""
    return AutoProcessor.from_pretrained(dense[1], trust_remote_code=True)


def test_files_and_tensors_are_those_of_the_table(dense, make_config, tmp_path):
    _, folder = dense
    assert {file.name for file in folder.iterdir()} == FILES
    assert tensors_of(folder) == expected_tensors(is_routed=False)
    routed = exported(build(make_config(**RELEASED | MOE)), tmp_path / "routed")
    assert tensors_of(routed) == expected_tensors(is_routed=True)
    assert {file.name for file in routed.iterdir()} == FILES


def test_config_json_has_the_released_fields(dense, make_config, tmp_path):
    config = read(dense[1], "config.json")
    wanted = {
        "architectures": ["MolmoForCausalLM"], "model_type": "molmo", "vocab_size": V, "embedding_size": V,
        "hidden_size": D, "intermediate_size": 2 * F, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 1, "max_position_embeddings": 256, "layer_norm_type": "rms", "qkv_bias": True,
        "attention_layer_norm": False, "norm_after": False, "weight_tying": False, "tie_word_embeddings": False,
        "use_cache": True, "use_position_ids": True, "torch_dtype": "float32",
        "auto_map": {"AutoConfig": "config_molmo.MolmoConfig"},
    }  # fmt: skip
    assert {name: config[name] for name in wanted} == wanted
    routed = exported(build(make_config(**RELEASED | MOE)), tmp_path / "routed")
    wanted = {"architectures": ["OLMoForCausalLM"], "model_type": "molmo", "d_model": D, "n_heads": 2, "n_layers": 2,
              "block_type": "moe", "moe_num_experts": 4, "moe_top_k": 2}  # fmt: skip
    assert {name: read(routed, "config.json")[name] for name in wanted} == wanted


def test_other_files_say_what_engines_look_for(dense):
    model, folder = dense
    ends = read(folder, "generation_config.json")
    assert (ends["eos_token_id"], ends["bos_token_id"]) == (256, 256)
    for name in ("preprocessor_config.json", "processor_config.json"):
        assert read(folder, name)["processor_class"] == "MolmoProcessor"
        assert read(folder, name)["auto_map"]["AutoProcessor"] == "preprocessing_molmo.MolmoProcessor"
    assert read(folder, "preprocessor_config.json")["legacy_image_mask"] is True
    assert model.config.mm_preprocessor.legacy_image_mask


@torch.no_grad()
def test_it_loads_back_with_equal_logits(dense, make_config, tmp_path):
    model, folder = dense
    routed = build(make_config(**RELEASED | MOE), seed=6)
    for wanted, place in ((model, folder), (routed, exported(routed, tmp_path / "routed"))):
        found = from_pretrained(place)
        assert type(found) is Molmo
        inputs = wanted.config.build_preprocessor(for_inference=True)(example("what?", picture(90, 140)))
        again = found.config.build_preprocessor(for_inference=True)(example("what?", picture(90, 140)))
        assert torch.equal(found(**again).logits, wanted(**inputs).logits)


VARIANTS = {
    "he_molmo": (HeMolmo, {"selection_ratio": 0.5}),
    "video_olmo": (VideoOlmo, {"time_embedding": True, "temporal_aggregation": "attention", "temporal_stride": 2}),
}


@pytest.mark.parametrize("name", VARIANTS)
@torch.no_grad()
def test_variants_are_written_whole_under_an_architecture_of_their_own(name, make_config, tmp_path):
    cls, changes = VARIANTS[name]
    values = make_config(**RELEASED).asdict() | {"model_name": name, **changes}
    config = cls.config_class.from_dict(values)
    config.source_dir = make_config().source_dir
    model = cls(config, seed=2).eval()
    folder = exported(model, tmp_path / "out")
    assert read(folder, "config.json")["architectures"] == [cls.__name__ + "ForCausalLM"]
    assert set(expected_tensors(False)) < set(tensors_of(folder))
    assert saved_model_name(folder) == name
    found = from_pretrained(folder)
    assert type(found) is cls and found.config == model.config
    weights = found.state_dict()
    assert all(torch.equal(weights[key], value) for key, value in model.state_dict().items())
    inputs = config.build_preprocessor(for_inference=True)(example("what?", picture(90, 140)))
    assert torch.equal(found(**inputs).logits, model(**inputs).logits)


SIZES = [(56, 56), (1, 1), (30, 200), (90, 140), (140, 90), (300, 60), (57, 400), (200, 200), (33, 33)]


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_the_exported_processor_makes_our_tensors(size, dense, processor):
    model, _ = dense
    image = Image.fromarray(picture(*size, seed=3))
    ours = model.config.build_preprocessor(for_inference=True)({"image": image, "prompt": "what is it?"})
    theirs = processor.process(text="what is it?", images=[image])
    for name in ("input_ids", "image_masks", "image_input_idx"):
        assert torch.equal(theirs[name], ours[name]), name
    n = len(ours["images"])
    patches = ours["images"].reshape(n, 3, 4, 14, 4, 14).permute(0, 2, 4, 3, 5, 1).reshape(n, 16, 588)
    assert torch.equal(theirs["images"], patches)


def test_the_exported_processor_takes_what_vllm_gives_it(dense, processor):
    text = processor.process(text="hi")
    assert list(text) == ["input_ids"]
    given = processor.get_tokens_input(" User: hi Assistant:", message_format="none", always_start_with_space=True)
    assert processor.process(tokens=given)["input_ids"].tolist() == text["input_ids"].tolist() == [256, *given]
    two = processor.process(text="hi", images=[picture(), picture(90, 140)])
    ours = dense[0].config.build_preprocessor(for_inference=True)(example("hi", picture(), picture(90, 140)))
    assert torch.equal(two["input_ids"], ours["input_ids"])
    assert torch.equal(two["image_input_idx"], ours["image_input_idx"])
    with pytest.raises(ValueError, match="message_format 'chat'"):
        processor.get_tokens_input("hi", message_format="chat")
    with pytest.raises(ValueError, match=r"uint8 array \[H, W, 3\], got float32"):
        processor.process(text="hi", images=np.zeros((4, 4, 3), np.float32))


def test_transformers_reads_the_configuration_of_both_schemas(dense, make_config, tmp_path):
    config = AutoConfig.from_pretrained(dense[1], trust_remote_code=True)
    assert (config.hidden_size, config.num_key_value_heads, config.intermediate_size) == (D, 1, 2 * F)
    routed = exported(build(make_config(**RELEASED | MOE)), tmp_path / "routed")
    config = AutoConfig.from_pretrained(routed, trust_remote_code=True)
    assert (config.hidden_size, config.num_hidden_layers, config.num_key_value_heads) == (D, 2, 2)
    assert (config.intermediate_size, config.moe_num_experts) == (2 * F, 4)


CHATS = {"role": "role", "none": "none"}


@pytest.mark.parametrize("message_format", CHATS)
@pytest.mark.parametrize("starts_with_space", [True, False])
def test_the_chat_template_writes_our_prompts(message_format, starts_with_space, make_config, tmp_path):
    config: MolmoConfig = make_config(
        **RELEASED, data_formatter__message_format=message_format,
        data_formatter__always_start_with_space=starts_with_space,
    )  # fmt: skip
    folder = exported(build(config), tmp_path / "out")
    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
    said = [("user", "what?"), ("assistant", "a cat"), ("user", "where?")]
    messages = [{"role": role, "content": text} for role, text in said]
    ids = processor.tokenizer.apply_chat_template(messages, tokenize=True)
    ids = ids if isinstance(ids, list) else ids["input_ids"]
    ours = config.build_preprocessor(for_inference=True)({"messages": messages})
    assert [256, *ids] == ours["input_ids"].tolist()
    with pytest.raises(Exception, match="from user and assistant in turn"):
        processor.tokenizer.apply_chat_template(messages[1:], tokenize=True)


def test_exporting_again_replaces_the_folder_and_foreign_files_stay(dense, make_config, tmp_path):
    folder = exported(dense[0], tmp_path / "out")
    assert {file.name for file in exported(dense[0], folder).iterdir()} == FILES
    (folder / "mine.py").write_text("x = 1\n")
    with pytest.raises(OLMoCheckpointError, match=r"mine\.py, which is not part of a published model"):
        exported(dense[0], folder)


def test_a_model_without_tokenizer_or_processor(make_config, tmp_path):
    config = make_config(**RELEASED)
    config = config.replace(llm=config.llm.replace(tokenizer=config.llm.tokenizer.replace(identifier="none.json")))
    with pytest.raises(OLMoCheckpointError, match="an engine needs the tokenizer"):
        exported(build(config), tmp_path / "a")
    assert not (tmp_path / "a").exists()
    with pytest.warns(UserWarning, match=r"without the code of a processor: mm_preprocessor.crop_mode is 'resize'"):
        export_hf(build(make_config(**RELEASED, mm_preprocessor__crop_mode="resize")), tmp_path / "b")
    assert {file.name for file in (tmp_path / "b").iterdir()} == FILES - {
        "processor_config.json", "image_preprocessing_molmo.py", "preprocessing_molmo.py"
    }  # fmt: skip


def test_the_code_needs_nothing_of_this_package(dense):
    folder = dense[1]
    code = (
        "import sys; sys.modules['olmo'] = None\n"
        "from transformers import AutoConfig, AutoProcessor\n"
        "for auto in (AutoConfig, AutoProcessor): auto.from_pretrained(sys.argv[1], trust_remote_code=True)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert {file.name for file in folder.glob("*.py")} == set(HUB_CODE)
