"""Generation by a whole model: greedy, sampled, in batches of any padding and number of pictures, streamed."""

from __future__ import annotations

import inspect

import pytest
import torch
from tiny import EOS, IM_PATCH, MODES, build, close, example, pad, picture, shifted

from olmo.exceptions import OLMoConfigurationError, OLMoInputError
from olmo.models.molmo.molmo import Molmo
from olmo.models.outputs import OLMoGenerateOutput

N_PROMPTS = 50


def prompts(n: int, seed: int = 0) -> list[torch.Tensor]:
    """Random bytes of random lengths, 1 to 12."""
    rng = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 13, (n,), generator=rng).tolist()
    return [torch.randint(0, 256, (length,), generator=rng) for length in lengths]


@pytest.fixture(scope="module")
def sharp(make_model) -> Molmo:
    """A model whose greedy text varies."""
    return make_model(seed=5, llm__init_std=0.5)


# -- arguments -----------------------------------------------------------------------------------------------------


def test_p10_generate_has_the_documented_arguments_and_defaults():
    parameters = inspect.signature(Molmo.generate).parameters
    defaults = {name: p.default for name, p in parameters.items() if p.default is not inspect.Parameter.empty}
    assert defaults == {
        "images": None, "max_new_tokens": 200, "min_new_tokens": 0, "do_sample": False, "temperature": 1.0,
        "top_p": 1.0, "top_k": None, "num_beams": 1, "eos_token_id": None, "pad_token_id": None,
    }  # fmt: skip
    assert list(parameters)[:2] == ["self", "input_ids"]


def test_p16_output_has_the_documented_fields_and_new_tokens_only(sharp):
    assert OLMoGenerateOutput._fields[:3] == ("token_ids", "text", "scores")
    rows = prompts(3)
    out = sharp.generate(pad(rows, "left"), max_new_tokens=9)
    assert out.token_ids.shape[0] == len(out.text) == 3
    assert out.token_ids.shape[1] <= 9
    assert out.scores is None
    for ids, text in zip(out.token_ids.tolist(), out.text, strict=True):
        ids = ids[: ids.index(EOS)] if EOS in ids else ids
        assert text == sharp.tokenizer.decode(ids).removeprefix(" ")


def test_p14_ends_pad_and_minimum_are_those_of_the_call(sharp):
    ids = prompts(4)[3]
    free = sharp.generate(ids, max_new_tokens=12, eos_token_id=[]).token_ids[0].tolist()
    assert len(free) == 12
    end = free[3]
    first = free.index(end)
    ended = sharp.generate(pad([ids, ids.flip(0)], "right"), max_new_tokens=12, eos_token_id=[end, 259], pad_token_id=7)
    row = ended.token_ids[0].tolist()
    assert row[: first + 1] == free[: first + 1]
    assert all(token == 7 for token in row[first + 1 :])
    late = sharp.generate(ids, max_new_tokens=12, min_new_tokens=6, eos_token_id=end).token_ids[0].tolist()
    assert end not in late[:6]


def test_p10_the_context_caps_the_number_of_tokens(make_model):
    model = make_model(seed=5, llm__max_sequence_length=16)
    assert model.generate(torch.arange(1, 11), eos_token_id=[]).token_ids.shape == (1, 6)
    with pytest.raises(OLMoInputError, match="16 tokens and fills the context of 16"):
        model.generate(torch.arange(1, 17))
    with pytest.raises(OLMoInputError, match="17 tokens exceed the context"):
        model.generate(torch.arange(1, 18))


def test_a_long_row_beside_a_short_one_each_fill_their_own_context(make_model):
    model = make_model(seed=5, llm__max_sequence_length=16)
    rows = [torch.arange(1, 13), torch.arange(20, 25)]
    alone = [model.generate(row, eos_token_id=[]) for row in rows]
    for side in ("left", "right"):
        out = model.generate(pad(rows, side), eos_token_id=[], pad_token_id=65)
        assert out.text == [a.text[0] for a in alone]
        assert out.token_ids[0].tolist() == [*alone[0].token_ids[0].tolist(), *[65] * 7]
        assert out.token_ids[1].tolist() == alone[1].token_ids[0].tolist()


# -- greedy and sampled --------------------------------------------------------------------------------------------


@torch.no_grad()
def test_p11_greedy_is_the_argmax_loop_without_a_cache(sharp):
    """Step by step: each token is the argmax after all tokens before it, so the loop would have chosen the same."""
    rows = prompts(N_PROMPTS)
    found = sharp.generate(pad(rows, "left"), max_new_tokens=5, eos_token_id=[]).token_ids
    assert len({tuple(row) for row in found.tolist()}) > N_PROMPTS // 2
    whole = pad([torch.cat(pair) for pair in zip(rows, found, strict=True)], "right")
    best = sharp(whole, use_cache=False).logits.argmax(-1)
    for row, ids in enumerate(rows):
        assert best[row, len(ids) - 1 :][:5].tolist() == found[row].tolist()
    ids = rows[0]
    for _ in range(5):
        ids = torch.cat([ids, sharp(ids, use_cache=False).logits[0, -1:].argmax(-1)])
    assert ids[len(rows[0]) :].tolist() == found[0].tolist()


def test_p11_sampling_is_reproducible_by_seed_and_by_generator(sharp):
    ids = prompts(1)[0]

    def draw(**options):
        return sharp.generate(ids, max_new_tokens=20, do_sample=True, eos_token_id=[], **options).token_ids[0].tolist()

    assert draw(seed=3) == draw(seed=3) == draw(generator=torch.Generator().manual_seed(3))
    assert len({tuple(draw(seed=k)) for k in range(4)}) == 4
    state = torch.get_rng_state()
    draw(seed=3)
    assert torch.equal(torch.get_rng_state(), state)


def test_p11_p12_no_temperature_or_a_single_candidate_is_greedy(sharp):
    batch = pad(prompts(N_PROMPTS), "left")
    greedy = sharp.generate(batch, max_new_tokens=4, eos_token_id=[]).token_ids
    for options in ({"temperature": 0.0}, {"temperature": 1e-6}, {"top_k": 1}, {"top_p": 1e-9}):
        drawn = sharp.generate(batch, max_new_tokens=4, eos_token_id=[], do_sample=True, seed=0, **options).token_ids
        assert torch.equal(drawn, greedy), options


def test_p13_one_beam_is_greedy_and_more_are_no_worse(sharp):
    batch = pad(prompts(8), "left")
    settings = {"max_new_tokens": 5, "eos_token_id": [], "length_penalty": 0.0, "output_scores": True}
    greedy = sharp.generate(batch, **settings)
    beams = sharp.generate(batch, num_beams=4, **settings)
    assert torch.equal(sharp.generate(batch, num_beams=1, **settings).token_ids, greedy.token_ids)
    assert beams.scores.shape == (8,) and greedy.scores.shape == (8, 5)
    assert (beams.scores >= greedy.scores.sum(1) - 1e-4).float().mean() > 0.8
    assert beams.scores.sum() > greedy.scores.sum()


@torch.no_grad()
def test_scores_are_log_probabilities_of_the_tokens(sharp):
    ids = prompts(1)[0]
    out = sharp.generate(ids, max_new_tokens=6, eos_token_id=[], output_scores=True)
    whole = torch.cat([ids, out.token_ids[0]])
    logprobs = sharp(whole).logits[0, len(ids) - 1 : -1].log_softmax(-1)
    close(out.scores[0], logprobs.gather(1, out.token_ids[0][:, None])[:, 0])


# -- batches -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("side", ["left", "right"])
def test_p18_a_batch_of_mixed_lengths_and_pictures_equals_one_by_one(make_model, mode, side):
    model = make_model(seed=5, llm__init_std=0.5, bi_directional_attn=mode)
    preprocess = model.config.build_preprocessor(for_inference=True)
    examples = [
        preprocess(example("none")),
        preprocess(example("one", picture(60, 100, 1))),
        preprocess(example("a longer question on two", picture(56, 56, 2), picture(90, 40, 3))),
    ]
    batch = model.config.build_collator()(examples)
    if side == "left":
        rows = [e["input_ids"] for e in examples]
        batch["input_ids"] = pad(rows, "left")
        batch["attention_mask"] = batch["input_ids"] >= 0
        for row, ids in enumerate(rows):
            batch["image_input_idx"][row] = shifted(
                batch["image_input_idx"][row], batch["input_ids"].shape[1] - len(ids)
            )
    out = model.generate(**batch, max_new_tokens=8, eos_token_id=[])
    for row, inputs in enumerate(examples):
        alone = model.generate(**inputs, max_new_tokens=8, eos_token_id=[])
        assert out.token_ids[row].tolist() == alone.token_ids[0].tolist()
        assert out.text[row] == alone.text[0]


def test_p18_positions_of_pictures_may_be_left_out_of_a_batch(sharp, batch):
    _, together = batch
    without = {k: v for k, v in together.items() if k not in ("image_input_idx", "attention_mask")}
    wanted = sharp.generate(**together, max_new_tokens=4, eos_token_id=[]).token_ids
    assert torch.equal(sharp.generate(**without, max_new_tokens=4, eos_token_id=[]).token_ids, wanted)


@torch.no_grad()
def test_p17_decoding_equals_the_full_forward(sharp, inputs):
    out = sharp.generate(**inputs, max_new_tokens=12, eos_token_id=[]).token_ids[0]
    whole = {**inputs, "input_ids": torch.cat([inputs["input_ids"], out])}
    logits = sharp(**whole).logits[0, len(inputs["input_ids"]) - 1 : -1]
    assert logits.argmax(-1).tolist() == out.tolist()


def test_training_examples_can_be_handed_in_whole(sharp):
    """Labels are passed over, and a message tree is continued where its last conversation ends."""
    preprocess = sharp.config.build_preprocessor(for_inference=False, is_training=False)
    talks = [example(q, answer=a)["messages"] for q, a in (("what?", "a cat"), ("where?", "here"))]
    tree = preprocess({"image": picture(), "message_list": [{"messages": t} for t in talks]})
    last = preprocess({"image": picture(), "messages": talks[-1]})
    assert {"labels", "loss_masks", "metadata"} < set(last)
    wanted = sharp.generate(**last, max_new_tokens=8, eos_token_id=[]).token_ids
    assert torch.equal(sharp.generate(**tree, max_new_tokens=8, eos_token_id=[]).token_ids, wanted)


# -- text and its end ----------------------------------------------------------------------------------------------


def forced(model: Molmo, *texts: str):
    """A hook that makes row i write text i, whatever the model wants."""
    written = [[*model.tokenizer.encode(text), EOS] for text in texts]

    def hook(generated: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        out = torch.full_like(logits, -torch.inf)
        for row, ids in enumerate(written):
            out[row, ids[min(generated.shape[1], len(ids) - 1)]] = 0.0
        return out

    return hook


ANSWERS = [" a cat", "no space", " zwölf 猫 🐈 ", "", " ", " end. More", "almost STO", "a ST OP STOP b"]


@pytest.mark.parametrize("text", ANSWERS)
@pytest.mark.parametrize("stops", [(), ("STOP",), ("STOP", ". "), (" ",)], ids=str)
def test_streamed_text_is_the_generated_text(model, text, stops):
    options = {"max_new_tokens": 60, "logits_processors": [forced(model, text)], "stop_strings": stops}
    out = model.generate(torch.tensor([1, 2]), **options)
    pieces = list(model.stream(torch.tensor([1, 2]), **options))
    assert "".join(pieces) == out.text[0]
    assert all(pieces)
    heard: list[str] = []
    called = model.generate(torch.tensor([[1, 2]]), stream=heard.append, **options)
    assert heard == pieces
    assert called.text == out.text and torch.equal(called.token_ids, out.token_ids)
    whole = text
    for stop in stops:
        whole = whole.split(stop)[0] if len(stops) == 1 else whole
    if len(stops) < 2:
        assert out.text[0] == whole.removeprefix(" ")


def test_a_stop_string_ends_its_row_only_and_is_cut_off(model):
    hook = forced(model, " one.two.three", " one two three")
    rows = torch.tensor([[1], [2]])
    out = model.generate(rows, max_new_tokens=14, logits_processors=hook, stop_strings=".", pad_token_id=66)
    assert out.text == ["one", "one two three"]
    assert out.token_ids[0].tolist() == [*model.tokenizer.encode(" one."), *[66] * 9]


def test_streaming_leaves_gradients_and_training_as_they_are(make_config):
    model = build(make_config(llm__residual_dropout=0.5)).train()
    model.llm.blocks[0].eval()
    modes = [m.training for m in model.modules()]
    pieces = model.stream(torch.tensor([1, 2]), max_new_tokens=5, eos_token_id=[])
    for _ in range(3):
        next(pieces)
        assert torch.is_grad_enabled()
        assert [m.training for m in model.modules()] == modes
    pieces.close()
    model.generate(torch.tensor([1, 2]), max_new_tokens=2)
    assert [m.training for m in model.modules()] == modes


def test_dropout_is_off_while_generating(make_config):
    model = build(make_config(llm__residual_dropout=0.5, llm__init_std=0.5)).train()
    first = model.generate(torch.tensor([1, 2]), max_new_tokens=8).token_ids
    assert torch.equal(model.generate(torch.tensor([1, 2]), max_new_tokens=8).token_ids, first)


# -- what cannot be meant ------------------------------------------------------------------------------------------

BAD = {
    "unknown": ({"max_lenght": 3, "beams": 2}, "generate does not know beams, max_lenght; it takes .*max_new_tokens"),
    "beams and draws": ({"num_beams": 2, "do_sample": True}, "beam search takes the likeliest"),
    "seed and generator": ({"seed": 1, "generator": torch.Generator()}, "seed or generator, not both"),
    "seed": ({"seed": "one"}, "seed is 'one', wanted a whole number"),
    "temperature": ({"temperature": -1.0}, "temperature is -1.0"),
    "top_p": ({"top_p": 0.0}, "top_p is 0.0"),
    "top_k": ({"top_k": 0}, "top_k is 0"),
    "no tokens": ({"max_new_tokens": 0}, "max_new_tokens is 0"),
    "minimum": ({"min_new_tokens": 9, "max_new_tokens": 3}, "min_new_tokens is 9"),
    "stop strings": ({"stop_strings": [""]}, "stop_strings"),
    "end": ({"eos_token_id": 500}, "can never be generated"),
    "hooks": ({"logits_processors": [3]}, "logits_processors holds 3"),
    "penalty": ({"repetition_penalty": 0.0}, "repetition_penalty is 0.0"),
}


@pytest.mark.parametrize(("options", "match"), BAD.values(), ids=BAD)
def test_arguments_that_cannot_be_meant(model, options, match):
    with pytest.raises(OLMoInputError, match=match):
        model.generate(torch.tensor([[1, 2]]), **options)


def test_prompts_that_cannot_be_meant(model, inputs):
    with pytest.raises(OLMoInputError, match="row 1 is empty"):
        model.generate(torch.tensor([[1, 2], [-1, -1]]))
    with pytest.raises(OLMoInputError, match="at least one token"):
        model.generate(torch.zeros(1, 0).long())
    with pytest.raises(OLMoInputError, match="span 999"):
        model.generate(torch.tensor([[999]]))
    with pytest.raises(OLMoInputError, match="NaN"):
        model.generate(inputs["input_ids"], inputs["images"] * float("nan"))
    with pytest.raises(OLMoInputError, match="tokens of 4 crops, but images has 1"):
        model.generate(inputs["input_ids"], images=inputs["images"][:1])


def test_streaming_takes_one_row_and_no_beams_and_says_so_at_once(model):
    for options in ({}, {"stream": print}):
        call = model.generate if options else model.stream
        with pytest.raises(OLMoInputError, match="one example at a time, got a batch of 2"):
            call(torch.tensor([[1], [2]]), **options)
        with pytest.raises(OLMoInputError, match="cannot be streamed"):
            call(torch.tensor([1]), num_beams=2, **options)


def test_without_a_tokenizer_the_error_says_where_it_was_looked_for(make_config):
    config = make_config()
    config.source_dir = None
    with pytest.raises(OLMoConfigurationError, match="no such tokenizer file"):
        build(config).generate(torch.tensor([1]))


def test_picture_tokens_without_logits_are_never_written(sharp, inputs):
    out = sharp.generate(**inputs, max_new_tokens=20, do_sample=True, temperature=50.0, seed=1, eos_token_id=[])
    assert int(out.token_ids.max()) < IM_PATCH
