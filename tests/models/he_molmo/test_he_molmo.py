"""The pipeline: what reaches the language model, and that nothing else changes."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from he_models import opinionated
from tiny import IM_COL, IM_END, IM_PATCH, IM_START, MODES, close, example, picture
from video_clips import asked, video

from olmo.exceptions import OLMoInputError
from olmo.models.auto import from_pretrained
from olmo.models.he_molmo.he_molmo import HeMolmo
from olmo.models.molmo.molmo import Molmo, MolmoConfig
from olmo.models.text_inputs import text_inputs


def prepared(model: HeMolmo, *examples: dict[str, Any], for_inference: bool = True) -> dict[str, Any]:
    """A batch."""
    preprocess = model.config.build_preprocessor(for_inference=for_inference, is_training=False)
    batch = model.config.build_collator(None)([preprocess(e) for e in examples])
    batch.pop("metadata")
    return batch


def llm_inputs(model: HeMolmo, batch: dict[str, Any], **settings: Any):
    """What goes into the first block."""
    text = text_inputs(batch["input_ids"], model.config.llm, attention_mask=batch.get("attention_mask"))
    pictures = {k: batch[k] for k in ("images", "image_masks", "image_input_idx", "frame_facts") if k in batch}
    return model.llm_inputs(text, **pictures, **settings)


PICTURES = {"one": (picture(56, 56),), "tall": (picture(150, 60),), "two": (picture(112, 112, 1), picture(56, 140, 2))}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("shown", PICTURES)
@torch.no_grad()
def test_p58_with_all_tokens_it_is_molmo(make_he_model, mode, shown) -> None:
    model = make_he_model(bi_directional_attn=mode, selection_ratio=0.5)
    plain = Molmo(_plain(model)).eval()
    plain.load_state_dict({k: v for k, v in model.state_dict().items() if not k.startswith("token_selector.")})
    batch = prepared(model, example("what is it?", *PICTURES[shown]), example("and?", picture(56, 56, 9)))
    others = {k: v for k, v in batch.items() if k != "frame_facts"}
    close(model(**batch, selection_ratio=1.0).logits, plain(**others).logits)
    assert (
        model.generate(**batch, selection_ratio=1.0, max_new_tokens=4).text
        == plain.generate(**others, max_new_tokens=4).text
    )


def _plain(model: HeMolmo) -> MolmoConfig:
    values = {k: v for k, v in model.config.asdict().items() if k in MolmoConfig.__dataclass_fields__}
    config = MolmoConfig.new(**values)
    config.source_dir = model.config.source_dir
    return config


@pytest.mark.parametrize("ratio", [0.125, 0.25, 0.5, 0.9])
@torch.no_grad()
def test_p58_text_and_kept_tokens_and_nothing_else(make_he_model, ratio) -> None:
    model = make_he_model()
    batch = prepared(model, example("what is it?", picture(150, 60)))
    whole, short = llm_inputs(model, batch, selection_ratio=1.0), llm_inputs(model, batch, selection_ratio=ratio)
    ids = batch["input_ids"][0]
    n_pictures = int((ids == IM_PATCH).sum())
    k = math.ceil(ratio * n_pictures)
    kept = short.aux["selection_indices"][0]
    assert len(kept) == k
    patches = (ids == IM_PATCH).nonzero()[:, 0]
    stays = (ids != IM_PATCH) & (ids != IM_COL)
    stays[patches[kept]] = True
    line = ((ids == IM_COL) | (ids == IM_START)).cumsum(0) - (ids == IM_COL).long()
    for col in (ids == IM_COL).nonzero()[:, 0]:
        stays[col] = bool((stays & (ids == IM_PATCH) & (line == line[col])).any())
    assert int(((ids == IM_START) | (ids == IM_END))[stays].sum()) == 4
    places = stays.nonzero()[:, 0]
    assert short.embeds.shape[1] == len(places)
    assert short.position_ids[0].tolist() == whole.position_ids[0, places].tolist(), "positions stay"
    close(short.embeds[0], whole.embeds[0, places])
    seen: list[int] = []
    handle = model.llm.blocks[0].register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[1]))
    try:
        model(**batch, selection_ratio=ratio)
    finally:
        handle.remove()
    assert seen == [len(places)]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("scorer", ["cross", "lowres_llm", "vit_attention", "norm", "uniform"])
@torch.no_grad()
def test_p58_a_batch_equals_its_rows(make_he_model, mode, scorer) -> None:
    model = make_he_model(bi_directional_attn=mode, token_scorer={"scorer": scorer})
    examples = [
        example("what is it?", picture(150, 60)), example("no picture"),
        example("and these two?", picture(56, 56, 3), picture(60, 120, 4)),
    ]  # fmt: skip
    batch = prepared(model, *examples)
    together = model.generate(**batch, max_new_tokens=5, output_scores=True)
    for row, one in enumerate(examples):
        alone = model.generate(**prepared(model, one), max_new_tokens=5, output_scores=True)
        assert together.text[row] == alone.text[0]
        n = alone.scores.shape[1]
        close(together.scores[row, :n], alone.scores[0], atol=1e-4)


@torch.no_grad()
def test_p58_padding_on_the_left_changes_nothing(make_he_model) -> None:
    model = make_he_model()
    batch = prepared(model, example("what is it?", picture(150, 60)))
    padded = dict(batch)
    padded["input_ids"] = torch.nn.functional.pad(batch["input_ids"], (5, 0), value=-1)
    padded["attention_mask"] = torch.nn.functional.pad(batch["attention_mask"], (5, 0))
    index = batch["image_input_idx"]
    padded["image_input_idx"] = torch.where(index >= 0, index + 5, index)
    close(model(**padded, logits_at="last").logits, model(**batch, logits_at="last").logits)


@torch.no_grad()
def test_the_cache_holds_kept_tokens_alone(make_he_model) -> None:
    model = make_he_model()
    batch = prepared(model, example("what is it?", picture(250, 250)))
    whole, short = (model(**batch, selection_ratio=ratio) for ratio in (1.0, 0.25))
    n_whole, n_short = (out.past_key_values[0][0].shape[2] for out in (whole, short))
    n_patches = int((batch["input_ids"] == IM_PATCH).sum())
    assert n_whole - n_short >= 0.75 * n_patches - 1
    nxt = short.logits[:, -1:].argmax(dim=-1)
    step = model(nxt, past_key_values=short.past_key_values, position_ids=batch["attention_mask"].sum(dim=1)[:, None])
    ids = torch.cat([batch["input_ids"], nxt], dim=1)
    full = model(**{**batch, "input_ids": ids, "attention_mask": torch.ones_like(ids)})
    close(step.logits[:, -1], full.logits[:, -1])


@torch.no_grad()
def test_p63_one_checkpoint_for_all_ratios(make_he_model) -> None:
    model = make_he_model()
    batch = prepared(model, example("what is it?", picture(250, 250)))
    lengths = [llm_inputs(model, batch, selection_ratio=r).embeds.shape[1] for r in (0.125, 0.25, 0.5, 1.0)]
    assert lengths == sorted(lengths) and len(set(lengths)) == 4
    assert llm_inputs(model, batch).embeds.shape[1] == lengths[1], "the configured ratio"
    kept = [set(llm_inputs(model, batch, selection_ratio=r).aux["selection_indices"][0].tolist()) for r in (0.125, 0.5)]
    assert kept[0] < kept[1], "more tokens never lose one"
    said = model.generate(**batch, selection_ratio=0.5, max_new_tokens=2)
    assert int(said.aux["selection_mask"].sum()) == len(kept[1])
    streamed = list(model.stream(**batch, selection_ratio=0.5, max_new_tokens=2))
    assert "".join(streamed) == said.text[0]
    with pytest.raises(OLMoInputError, match="selection_ratio"):
        model.generate(**batch, selection_ratio=1.2)
    with pytest.raises(OLMoInputError, match="does not know selection_ratio"):
        Molmo(_plain(model))(batch["input_ids"], selection_ratio=0.5)


def test_p65_losses_are_told_weighted_and_can_be_left_out(make_he_config) -> None:
    def run(**weights: float) -> tuple[Any, HeMolmo]:
        scorer = {"dropout": 0.0, "budget_weight": 0.0, **weights}
        model = opinionated(HeMolmo(make_he_config(token_scorer=scorer))).train()
        batch = prepared(model, example("what?", picture(150, 60), answer="this"), for_inference=False)
        out = model(**batch, logits_at="labels")
        out.loss.backward()
        return out, model

    plain, model = run()
    assert "loss_budget" not in plain.aux and "loss_distillation" not in plain.aux
    gradient = {n: p.grad.clone() for n, p in model.token_selector.named_parameters() if p.grad is not None}
    assert sum(g.abs().sum() for g in gradient.values()) > 0, "the answers alone reach the scorer"
    half, _ = run(budget_weight=0.5)
    whole, _ = run(budget_weight=1.0)
    close(whole.aux["loss_budget"], 2 * half.aux["loss_budget"])
    close(half.loss, plain.loss + half.aux["loss_budget"])
    gate = torch.sigmoid(half.aux["selection_scores"]).mean()
    close(half.aux["loss_budget"], 0.5 * (gate - 0.25).abs())
    for teacher in ("attention", "gradient"):
        taught, learner = run(distillation_weight=1.0, teacher=teacher)
        close(taught.loss, plain.loss + taught.aux["loss_distillation"])
        assert taught.aux["loss_distillation"] > 0
        changed = [n for n, p in learner.token_selector.named_parameters() if not torch.equal(p.grad, gradient[n])]
        assert changed


def test_p66_training_and_evaluation_see_the_same(make_he_config) -> None:
    model = opinionated(HeMolmo(make_he_config(token_scorer={"dropout": 0.0})))
    batch = prepared(model, example("what?", picture(150, 60), answer="this"), for_inference=False)
    trained = model.train()(**batch)
    with torch.no_grad():
        evaluated = model.eval()(**batch)
    close(trained.logits, evaluated.logits)
    assert torch.equal(trained.aux["selection_mask"], evaluated.aux["selection_mask"])
    noisy = [model.train()(**batch, exploration=5.0).aux["selection_mask"] for _ in range(6)]
    assert any(not torch.equal(mask, noisy[0]) for mask in noisy)
    assert torch.equal(model.eval()(**batch, exploration=5.0).aux["selection_mask"], evaluated.aux["selection_mask"])


def test_several_conversations_share_what_is_kept(make_he_model) -> None:
    model = make_he_model()
    shown = {
        "image": picture(150, 60),
        "message_list": [
            [{"role": "user", "content": q}, {"role": "assistant", "content": a}]
            for q, a in (("what?", "this"), ("how many?", "two"))
        ],
    }
    batch = prepared(model, shown, for_inference=False)
    out = model(**batch)
    assert bool(out.loss.isfinite()) and out.aux["selection_mask"].shape[0] == 1
    packed = model.config.build_collator(None)
    preprocess = model.config.build_preprocessor(for_inference=False, is_training=False)
    rows = [preprocess(example("a?", picture(), answer="b")) for _ in range(2)]
    batch = packed([rows])
    batch.pop("metadata")
    with pytest.raises(OLMoInputError, match="several examples share"):
        model(**batch)


@pytest.mark.parametrize("scorer", ["cross", "lowres_llm", "vit_attention"])
def test_p67_videos_and_routed_experts(make_he_model, scorer) -> None:
    model = make_he_model(
        llm__block_type="olmoe", llm__n_experts=4, llm__experts_per_token=2, max_frames=4,
        token_scorer={"scorer": scorer},
    )  # fmt: skip
    batch = prepared(model, asked(video(4), "what?", answer="a"), for_inference=False)
    out = model(**batch)
    assert out.aux["selection_mask"].sum() == 4, "a quarter of four frames of four tokens"
    assert set(out.aux["selection_crops"][0].tolist()) == {0, 1, 2, 3}
    out.loss.backward()
    if scorer != "vit_attention":
        assert sum(p.grad.abs().sum() for p in model.token_selector.parameters() if p.grad is not None) > 0
    model.zero_grad()
    said = model.generate(**prepared(model, asked(video(4))), max_new_tokens=3)
    assert len(said.text) == 1


def test_p67_frames_may_be_chosen_too(make_he_model) -> None:
    model = make_he_model(frame_selection="query", candidate_frames=8, max_frames=3, time_mode="none")
    batch = prepared(model, asked(video(8)))
    with torch.no_grad():
        inputs = llm_inputs(model, batch)
    assert inputs.aux["selection_mask"].shape == (1, 12) and inputs.aux["selection_mask"].sum() == 3


@torch.no_grad()
def test_p64_a_molmo_loads_with_the_scorer_alone_missing(make_he_model, make_model, tmp_path) -> None:
    plain = make_model(seed=3)
    plain.save_checkpoint(tmp_path / "stage1", sharded=False)
    model = make_he_model(selection_ratio=1.0)
    fresh = HeMolmo(model.config)
    report = fresh.load_checkpoint(tmp_path / "stage1", strict=False)
    assert report.missing and all(name.startswith("token_selector.") for name in report.missing)
    assert not report.unexpected
    loaded = HeMolmo.from_pretrained(tmp_path / "stage1")
    assert loaded.config.selection_ratio == 0.25
    batch = prepared(model, example("what is it?", picture(150, 60)))
    others = {k: v for k, v in batch.items() if k != "frame_facts"}
    close(
        loaded(**batch, selection_ratio=1.0).logits,
        plain(**others).logits,
    )
    loaded.save_checkpoint(tmp_path / "he", sharded=False)
    again = from_pretrained(tmp_path / "he")
    assert isinstance(again, HeMolmo)
    close(again(**batch).logits, loaded(**batch).logits)


@torch.no_grad()
def test_crops_that_nobody_asks_for_are_not_encoded(make_he_model) -> None:
    model = make_he_model(encode="selected_crops", selection_ratio=0.25, mm_preprocessor__max_crops=6)
    whole = make_he_model(selection_ratio=0.25, mm_preprocessor__max_crops=6)
    batch = prepared(model, example("what is it?", picture(250, 250)), example("and?", picture(56, 56, 2)))
    encoded: list[int] = []
    assert model.vision_backbone is not None
    handle = model.vision_backbone.register_forward_pre_hook(lambda _, args: encoded.append(len(args[0])))
    try:
        out = model(**batch)
    finally:
        handle.remove()
    n_crops = (batch["image_input_idx"] >= 0).any(dim=-1).sum(dim=1)
    high = n_crops - 1
    assert encoded[0] == 2 and encoded[1] == sum(math.ceil(0.25 * int(n)) for n in high)
    n_tokens = (batch["input_ids"] == IM_PATCH).sum(dim=1)
    assert out.aux["selection_mask"].sum(dim=1).tolist() == [math.ceil(0.25 * int(n)) for n in n_tokens]
    close(model(**batch, selection_ratio=1.0).logits, whole(**batch, selection_ratio=1.0).logits)
    alone = model(**prepared(model, example("what is it?", picture(250, 250))), logits_at="last").logits
    close(model(**batch, logits_at="last").logits[:1], alone)


def test_a_scorer_that_learned_gives_way_to_one_that_does_not(make_he_model, tmp_path) -> None:
    make_he_model().save_checkpoint(tmp_path / "he")
    random = HeMolmo.from_pretrained(tmp_path / "he", overrides=["token_scorer.scorer=random", "selection_ratio=0.5"])
    assert not list(random.token_selector.parameters())
