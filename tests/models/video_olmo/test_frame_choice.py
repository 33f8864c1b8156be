"""Frames chosen by the question: which ones, what is left of the row, and how the choice is learned."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny import close, example, picture
from torch.nn import functional as F
from video_clips import asked, prepared, video

from olmo.exceptions import OLMoInputError
from olmo.models.text_inputs import TextInputs, text_inputs
from olmo.models.video_olmo.frame_scorer import chosen_frames, question_means
from olmo.models.video_olmo.video_olmo import VideoOlmo
from olmo.preprocessing.video.open_video import open_video

COLOURS = {"red": (230, 20, 20), "green": (20, 210, 40), "blue": (30, 40, 230), "white": (240, 240, 240)}
DROP = {"frame_selection": "query", "candidate_frames": 12, "max_frames": 3}


def read(model: VideoOlmo, inputs) -> tuple:
    """Text, pictures and features before anything is chosen."""
    ids = inputs["input_ids"] if inputs["input_ids"].ndim == 2 else inputs["input_ids"][None]
    text = text_inputs(ids, model.config.llm, attention_mask=inputs.get("attention_mask"))
    crops = (inputs["images"], inputs["image_masks"], inputs["image_input_idx"])
    pictures = model.read_pictures(ids, crops, frame_facts=inputs["frame_facts"])
    return text, pictures, model.encode_images(pictures)


def chosen_seconds(model: VideoOlmo, inputs) -> list[list[float]]:
    """Times of the frames that are left, by row."""
    pictures = model.choose_pictures(*read(model, inputs)).pictures
    return [pictures.facts[pictures.rows == row, 0].tolist() for row in range(int(pictures.rows.max()) + 1)]


@torch.no_grad()
def test_p53_what_is_left_is_the_row_of_a_video_of_these_frames(make_video_model):
    model, plain = make_video_model(time_mode="none", **DROP), make_video_model(time_mode="none", max_frames=12)
    shown = video(12)
    inputs = prepared(model, shown)
    assert inputs["images"].shape[0] == 12
    [seconds] = chosen_seconds(model, inputs)
    assert len(seconds) == 3
    assert seconds == sorted(seconds)
    wanted = prepared(plain, open_video(shown.get([int(s) for s in seconds]), fps=1.0))
    shorter = model.choose_pictures(*read(model, inputs)).text
    assert torch.equal(shorter.input_ids[0], wanted["input_ids"])
    assert torch.equal(shorter.position_ids[0], torch.arange(len(wanted["input_ids"])))
    close(model(**inputs).logits, plain(**wanted).logits)


@torch.no_grad()
def test_p53_the_times_of_chosen_frames_stay_with_them(make_video_model):
    model = make_video_model(**DROP)
    inputs = prepared(model, video(12), "??")
    [seconds] = chosen_seconds(model, inputs)
    shorter = model.choose_pictures(*read(model, inputs)).text
    text = model.tokenizer.decode([i for i in shorter.input_ids[0].tolist() if i < 256])
    assert text == "".join(f"{t:.1f} " for t in seconds) + " User: ?? Assistant:"


@torch.no_grad()
def test_p53_without_a_question_it_is_uniform(make_video_model):
    model, plain = make_video_model(**DROP), make_video_model(max_frames=3)
    shown = video(12)
    inputs = prepared(model, shown)
    last = int((inputs["input_ids"] == 261).nonzero().max())
    empty = {**inputs, "input_ids": inputs["input_ids"][: last + 1]}
    wanted = prepared(plain, shown)
    n_prompt = int((wanted["input_ids"] == 261).nonzero().max()) + 1
    wanted = {**wanted, "input_ids": wanted["input_ids"][:n_prompt]}
    close(model(**empty).logits, plain(**wanted).logits)


@torch.no_grad()
def test_p53_a_batch_equals_four_singles(make_video_model):
    model = make_video_model(**DROP)
    preprocess = model.config.build_preprocessor(for_inference=True)
    examples = [preprocess(e) for e in (
        asked(video(12), "one?"), asked(video(5, seed=1), "another question?"), example("pic", picture(60, 100)),
        asked(video(2, seed=2)), example("text"),
    )]  # fmt: skip
    batch = model.config.build_collator()(examples)
    out = model(**batch)
    for row, alone in enumerate(examples):
        single = model(**alone).logits[0]
        close(out.logits[row, : len(single)], single)
        assert model.generate(**alone, max_new_tokens=3).text[0] == model.generate(**batch, max_new_tokens=3).text[row]
    assert chosen_seconds(model, examples[0]) == chosen_seconds(model, examples[0])


@torch.no_grad()
def test_p53_permuted_frames_are_chosen_alike(make_video_model):
    model = make_video_model(**DROP)
    text, pictures, features = read(model, prepared(model, video(12)))
    order = torch.randperm(12)
    scores = model.score_frames(text, pictures, features).scores
    parts = {name: getattr(pictures, name)[order] for name in type(pictures).__dataclass_fields__}
    close(model.score_frames(text, type(pictures)(**parts), features[order]).scores, scores[order])


def test_ties_take_the_earlier_frame_and_order_is_kept():
    assert chosen_frames(torch.tensor([0.0, 1.0, 0.0, 1.0, 1.0]), 2, True) == [1, 3]
    assert chosen_frames(torch.tensor([5.0, 1.0, 0.0, 1.0, 9.0]), 2, True) == [0, 4]
    assert chosen_frames(torch.tensor([5.0, 1.0]), 4, True) == [0, 1]
    assert chosen_frames(torch.zeros(9), 3, False) == [0, 4, 8]


def test_p53_the_scorer_learns_from_the_loss_of_the_answer(make_video_config):
    model = VideoOlmo(make_video_config(**DROP))
    inputs = model.config.build_preprocessor(for_inference=False)(asked(video(12), "what?", "that"))
    loss = model(**inputs).loss
    loss.backward()
    assert all(p.grad.abs().sum() > 0 for p in model.frame_scorer.parameters())
    assert set(model.components()["connector"]) >= {"frame_scorer.bias"}


def test_p53_frames_that_match_the_question_are_found(make_video_model):
    """A word in the question names the colour of some frames; chance finds 3 of 12."""
    model = make_video_model(**DROP)
    draw = np.random.default_rng(0)

    def clip(wanted: str) -> tuple[list[int], dict]:
        others = [name for name in COLOURS if name != wanted]
        names = [others[i] for i in draw.integers(0, 3, 12)]
        places = sorted(draw.choice(12, 3, replace=False).tolist())
        for place in places:
            names[place] = wanted
        frames = np.stack([np.full((56, 56, 3), COLOURS[name]) for name in names])
        noisy = np.clip(frames + draw.integers(-20, 20, frames.shape), 0, 255).astype(np.uint8)
        return places, prepared(model, open_video(noisy, fps=1.0), f"when is it {wanted}?")

    before = {name: value.clone() for name, value in model.frame_scorer.state_dict().items()}
    with torch.no_grad():
        training = [(places, read(model, inputs)) for places, inputs in map(clip, list(COLOURS) * 4)]
    optimizer = torch.optim.Adam(model.frame_scorer.parameters(), lr=3e-3)
    for _ in range(80):
        loss = torch.zeros(())
        for places, parts in training:
            target = torch.zeros(12)
            target[places] = 1.0
            loss = loss + F.binary_cross_entropy_with_logits(10 * model.score_frames(*parts).scores, target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        unseen = [clip(name) for name in list(COLOURS) * 3]
        hits = [len(set(places) & set(map(int, chosen_seconds(model, inputs)[0]))) for places, inputs in unseen]
    model.frame_scorer.load_state_dict(before)
    assert sum(hits) / (3 * len(hits)) >= 0.9  # measured: 1.00; chance and uniform: 0.25


@torch.no_grad()
def test_resolution_goes_to_the_frames_that_fit(make_video_model):
    fields = {"max_frames": 7, "pooling_h": 4, "pooling_w": 4, "high_res_every": 3}
    model, plain = make_video_model(frame_selection="query_resolution", **fields), make_video_model(**fields)
    inputs = prepared(model, video(7))
    text, pictures, features = read(model, inputs)
    seen = model.choose_pictures(text, pictures, features)
    after, chosen, finer = seen.text, seen.pictures, seen.features
    assert after.input_ids.shape == text.input_ids.shape
    best = model.score_frames(text, pictures, features).scores.argsort(descending=True)[:3].sort().values.tolist()
    assert (chosen.facts[:, 2] == 2).nonzero()[:, 0].tolist() == best
    assert [(row >= 0).sum().item() for row in chosen.token_index] == [4 if i in best else 1 for i in range(7)]
    close(finer, model.encode_images(chosen))
    assert model(**inputs).logits.shape == plain(**prepared(plain, video(7))).logits.shape
    model.generate(**inputs, max_new_tokens=2)


@torch.no_grad()
def test_candidates_may_exceed_the_context(make_video_model):
    model = make_video_model(frame_selection="query", candidate_frames=40, max_frames=4)
    inputs = prepared(model, video(40))
    assert len(inputs["input_ids"]) > model.config.llm.max_sequence_length
    assert model(**inputs).logits.shape[1] < 256
    assert len(model.generate(**inputs, max_new_tokens=300).token_ids[0]) <= 256 - 50
    many = make_video_model(frame_selection="query", candidate_frames=40, max_frames=30)
    with pytest.raises(OLMoInputError, match="to fit, set max_frames="):
        prepared(many, video(40))


def test_packed_rows_are_refused(make_video_model):
    model = make_video_model(**DROP)
    preprocess = model.config.build_preprocessor(for_inference=False)
    examples = [preprocess(asked(video(3, seed=s), "what?", "that")) for s in range(2)]
    with pytest.raises(OLMoInputError, match="pack=false"):
        model(**model.config.build_collator()([examples]))


def test_a_tree_of_conversations_keeps_its_positions(make_video_model):
    model, plain = make_video_model(**DROP), make_video_model(max_frames=3)
    record = {
        "video": video(3),
        "message_list": [{"question": "one?", "answer": "a"}, {"question": "and two?", "answer": "b"}],
    }
    inputs = model.config.build_preprocessor(for_inference=False)(record)
    with torch.no_grad():
        close(model(**inputs).loss, plain(**inputs).loss)  # three frames: all are kept
    text = text_inputs(
        inputs["input_ids"][None], model.config.llm, position_ids=inputs["position_ids"][None],
        subsegment_ids=inputs["subsegment_ids"][None], labels=inputs["labels"][None],
    )  # fmt: skip
    more = model.config.build_preprocessor(for_inference=False)({**record, "video": video(12)})
    _, pictures, features = read(model, more)
    long = text_inputs(
        more["input_ids"][None], model.config.llm, position_ids=more["position_ids"][None],
        subsegment_ids=more["subsegment_ids"][None], labels=more["labels"][None],
    )  # fmt: skip
    short: TextInputs = model.choose_pictures(long, pictures, features).text
    n_text = int((inputs["subsegment_ids"] < 10_000).sum())
    assert torch.equal(short.labels[0, -n_text:], text.labels[0, -n_text:])
    assert torch.equal(short.segment_ids[0, -n_text:], text.segment_ids[0, -n_text:])
    n_shared = short.input_ids.shape[1] - n_text
    begins = torch.tensor([0, int((text.segment_ids[0] == 1).sum())])
    assert short.position_ids[0, n_shared + begins].tolist() == [n_shared, n_shared]


def test_question_means_count_questions_only():
    embeds = torch.tensor([[[1.0], [3.0], [5.0]], [[1.0], [1.0], [1.0]]])
    means, is_asked = question_means(embeds, torch.tensor([[False, True, True], [False, False, False]]))
    assert means[:, 0].tolist() == [4.0, 0.0]
    assert is_asked.tolist() == [True, False]
