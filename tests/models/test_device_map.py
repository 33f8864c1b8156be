"""Models over several devices: on a CPU, with parts on disk; answers are those of a model in one place."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from test_inference_memory import peak_bytes
from tiny import build

from olmo.exceptions import OLMoCheckpointError, OLMoConfigurationError
from olmo.models.auto import from_pretrained
from olmo.models.device_map import Places, Room, parts_of, spread
from olmo.models.molmo.molmo import Molmo
from olmo.models.video_olmo.video_olmo import VideoOlmo
from olmo.nn.attention import AttentionContext

HALF = {"": "cpu", "llm.blocks.1": "disk", "llm.lm_head": "disk"}


@pytest.fixture(params=["native", "released"])
def stored(request, make_config, tmp_path) -> Path:
    folder = tmp_path / "stored"
    model = build(make_config())
    (model.save_checkpoint if request.param == "native" else model.save_pretrained_hf)(folder)
    return folder


@pytest.mark.filterwarnings("ignore:the released code does not read")
@torch.no_grad()
def test_layers_on_disk_answer_as_in_memory(stored, inputs, tmp_path):
    whole = Molmo.from_pretrained(stored)
    parted = Molmo.from_pretrained(stored, device_map=HALF, offload_folder=tmp_path / "disk")
    assert parted.llm.blocks[1].mlp.ff_proj.weight.is_meta and parted.llm.lm_head.weight.is_meta
    assert not parted.llm.blocks[0].mlp.ff_proj.weight.is_meta
    assert torch.equal(parted(**inputs).logits, whole(**inputs).logits)
    answers = [model.generate(**inputs, max_new_tokens=6).text for model in (parted, whole)]
    assert answers[0] == answers[1]
    beams = [model.generate(**inputs, max_new_tokens=4, num_beams=2).text for model in (parted, whole)]
    assert beams[0] == beams[1]


@torch.no_grad()
def test_the_disk_holds_what_memory_has_not(make_config, inputs, tmp_path):
    model = build(make_config()).bfloat16()
    model.save_checkpoint(tmp_path / "stored")
    disk = tmp_path / "disk"
    parted = Molmo.from_pretrained(tmp_path / "stored", dtype="auto", device_map=HALF, offload_folder=disk)
    there = set(json.loads((disk / "index.json").read_text()))
    assert there == {n for n, _ in model.named_parameters() if n.startswith(("llm.blocks.1.", "llm.lm_head"))}
    assert there == {n for n, p in parted.named_parameters() if p.is_meta}
    assert torch.equal(parted(**inputs).logits, model(**inputs).logits)


@pytest.mark.parametrize("block_type", ["sequential", "olmoe"])
@torch.no_grad()
def test_auto_fills_memory_then_the_disk(make_config, inputs, tmp_path, block_type):
    model = build(make_config(llm__block_type=block_type, llm__n_layers=4))
    model.save_checkpoint(tmp_path / "stored")
    fixed, movable = parts_of(model)
    sizes = {n: sum(p.nbytes for p in model.get_submodule(n).parameters()) for n in (*fixed, *movable)}
    room = sum(sizes[n] for n in fixed) + 2 * sizes["llm.blocks.0"]
    parted = from_pretrained(
        tmp_path / "stored", device_map="auto", max_memory={"cpu": room}, offload_folder=tmp_path / "disk"
    )
    held = sum(p.nbytes for p in parted.parameters() if not p.is_meta)
    assert held <= room
    assert [parted.places.device_map[f"llm.blocks.{i}"] for i in range(4)] == ["cpu", "cpu", "disk", "disk"]
    assert torch.equal(parted(**inputs).logits, model(**inputs).logits)


@torch.no_grad()
def test_auto_with_room_for_all_is_a_plain_model(make_config, inputs, tmp_path):
    model = build(make_config())
    model.save_checkpoint(tmp_path / "stored")
    loaded = Molmo.from_pretrained(tmp_path / "stored", device_map="auto", quantize="int8")
    assert not loaded.places.is_offloaded and loaded.device == torch.device("cpu")
    plain = Molmo.from_pretrained(tmp_path / "stored", quantize="int8")
    assert torch.equal(loaded(**inputs).logits, plain(**inputs).logits)


@torch.no_grad()
def test_a_variant_keeps_its_further_parts_at_hand(make_config, inputs, tmp_path):
    build(make_config()).save_checkpoint(tmp_path / "stored")
    options = {"overrides": ["time_embedding=true"], "device_map": HALF, "offload_folder": tmp_path / "disk"}
    model = VideoOlmo.from_pretrained(tmp_path / "stored", **options)
    assert not any(p.is_meta for p in model.time_embedding.parameters())
    plain = VideoOlmo.from_pretrained(tmp_path / "stored", overrides=["time_embedding=true"])
    assert torch.equal(model(**inputs).logits, plain(**inputs).logits)


@torch.no_grad()
def test_a_pass_holds_one_block_of_the_disk_at_a_time(make_config, tmp_path):
    config = make_config(llm__n_layers=6, llm__mlp_hidden_size=4096)
    model = build(config)
    model.save_checkpoint(tmp_path / "stored")
    placed = Molmo.from_pretrained(
        tmp_path / "stored", device_map={"": "cpu", "llm.blocks": "disk"}, offload_folder=tmp_path / "disk"
    )
    block = sum(p.nbytes for p in model.llm.blocks[0].parameters())
    assert peak_bytes(lambda: placed(torch.arange(3)[None])) < 3 * block


@pytest.mark.parametrize("what", ["save_checkpoint", "save_pretrained_hf", "train", "quantize"])
def test_a_model_with_parts_elsewhere_only_answers(make_config, tmp_path, what):
    build(make_config()).save_checkpoint(tmp_path / "stored")
    model = Molmo.from_pretrained(tmp_path / "stored", device_map=HALF, offload_folder=tmp_path / "disk")
    arguments = {"train": (), "quantize": ("int8",)}.get(what, (tmp_path / "new",))
    with pytest.raises((OLMoConfigurationError, OLMoCheckpointError), match="not in its own memory"):
        getattr(model, what)(*arguments)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device_map": "balanced"}, "'balanced' is not 'auto'"),
        ({"device_map": {"llm": "cpu"}}, "says nothing about vision_backbone"),
        ({"device_map": {"": "cpu", "llm.blocks.0.mlp": "disk"}}, "names no part"),
        ({"device_map": {"": "cpu", "llm.blocks.7": "disk"}}, "names no part"),
        ({"device_map": {"": "disk"}}, "belong on one device that computes"),
        ({"device_map": {"": "cpu", "llm.wte": "meta"}}, "belong on one device"),
        ({"device_map": {"": "nowhere"}}, "'nowhere' is no device"),
        ({"device_map": HALF}, "offload_folder"),
        ({"device_map": HALF, "offload_folder": "x", "quantize": "int8"}, "quantised model is not offloaded"),
        ({"device_map": "auto", "max_memory": {"cpu": 10}}, "take .* bytes on one device"),
        ({"device_map": "auto", "device": "meta"}, "leave out device=meta"),
        ({"device_map": "auto", "tensor_parallel": True}, "does not go with device_map"),
    ],
)
def test_what_cannot_be_is_said(make_config, tmp_path, monkeypatch, options, message):
    build(make_config()).save_checkpoint(tmp_path / "stored")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OLMoConfigurationError, match=message):
        Molmo.from_pretrained("stored", **options)


def test_accelerate_is_asked_for_by_its_extra(make_config, tmp_path, monkeypatch):
    build(make_config()).save_checkpoint(tmp_path / "stored")
    monkeypatch.setitem(__import__("sys").modules, "accelerate", None)
    with pytest.raises(OLMoConfigurationError, match=r"pip install 'molmo\[offload\]'"):
        Molmo.from_pretrained(tmp_path / "stored", device_map="auto")


# -- more than one device, by arithmetic ---------------------------------------------------------------------------

PARTS = [f"block {i}" for i in range(8)]
SIZES = {"first": 4, **dict.fromkeys(PARTS, 10), "head": 4}


def placed(budgets: dict[int | str, int]) -> list[str]:
    found = spread(["first"], [*PARTS, "head"], SIZES, budgets)
    assert found.pop("first") == ("cuda:0" if 0 in budgets else "cpu")
    order = [key for key in (*(f"cuda:{i}" for i in range(4)), "cpu", "disk") if key in found.values()]
    assert list(found.values()) == sorted(found.values(), key=order.index), "devices follow each other"
    return [f"{key} {list(found.values()).count(key)}" for key in order]


def test_gpus_with_room_are_filled_evenly():
    assert placed({0: 100, 1: 100, "cpu": 100}) == ["cuda:0 4", "cuda:1 5"]
    assert placed({0: 100, 1: 100, 2: 100, 3: 100}) == ["cuda:0 2", "cuda:1 3", "cuda:2 3", "cuda:3 1"]


def test_what_gpus_have_no_room_for_goes_to_the_machine_and_then_to_disk():
    assert placed({0: 25, 1: 40, "cpu": 100}) == ["cuda:0 2", "cuda:1 4", "cpu 3"]
    assert placed({0: 25, "cpu": 30}) == ["cuda:0 2", "cpu 3", "disk 4"]
    assert placed({"cpu": 34}) == ["cpu 3", "disk 6"]


def test_what_all_layers_share_is_copied_once_for_a_device():
    context = AttentionContext(torch.zeros(1, 2, 1, 4), torch.zeros(1, 2, 1, 4), torch.zeros(1, 1, 2, 2))
    other = context.on(torch.device("meta"))
    assert context.on(torch.device("cpu")) is context
    assert context.on(torch.device("meta")) is other
    assert other.cos.is_meta and other.sin.is_meta and other.bias.is_meta


def test_layers_and_their_cache_are_where_the_map_says(make_config):
    """Two devices are not at hand; places, and what hooks bring there, are looked at on one without numbers."""
    with torch.device("meta"):
        model = Molmo(make_config())
    places = Places(model, Room({"": "cpu", "llm.blocks.1": "cuda:1"}), None)
    assert places.device_of("llm.blocks.1.mlp.ff_out.weight") == torch.device("cuda:1")
    assert places.device_of("llm.wte.embedding") == places.main == torch.device("cpu")
    llm = build(make_config()).llm
    llm.layer_devices = [torch.device("cpu"), torch.device("meta")]
    cache = llm.new_cache(2, 5)
    assert [k.device.type for k, _ in cache.as_tuple()] == ["cpu", "meta"]
    assert [k.device.type for k, _ in type(cache).from_tuple(cache.as_tuple(), 2).as_tuple()] == ["cpu", "meta"]
