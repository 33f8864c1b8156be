"""Compiled decoding says what plain decoding says, compiles twice at most, and gives its caches back.

The backend is torch's `eager`: the step is traced whole and its graph run as it is. The one test with inductor is slow.
"""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from he_models import opinionated
from tiny import build, example, pad, picture
from video_clips import prepared, video

from olmo.exceptions import OLMoConfigurationError
from olmo.generation.step import DecodeStep
from olmo.models import compiled_decoding
from olmo.models.compiled_decoding import LENGTH_STEP, MOST_KEPT, CompiledDecoding
from olmo.models.generate import prefill
from olmo.models.he_molmo.he_molmo import HeMolmo, HeMolmoConfig
from olmo.models.molmo.molmo import Molmo
from olmo.models.prefix_cache import PrefixCache
from olmo.models.text_inputs import text_inputs
from olmo.models.video_olmo.video_olmo import VideoOlmo, VideoOlmoConfig
from olmo.nn import moe
from olmo.nn.kv_cache import KVCache
from olmo.nn.static_cache import StaticKVCache

SHARP = {"llm__init_std": 0.5}
GROUPED = {**SHARP, "llm__n_heads": 4, "llm__n_kv_heads": 2, "llm__qkv_bias": True}
ROUTED = {
    **SHARP, "llm__block_type": "olmoe", "llm__n_experts": 4, "llm__experts_per_token": 2, "llm__qk_norm": True,
}  # fmt: skip
N_NEW = 12


def n_graphs() -> int:
    return torch._dynamo.utils.counters["stats"]["unique_graphs"]


def answers(model, rows, **options) -> list[list[int]]:
    """Greedy tokens of texts of different lengths in one batch, padded on the left, and of the first one alone."""
    both = []
    for ids in (pad(rows, "left"), rows[0]):
        both += model.generate(ids, max_new_tokens=N_NEW, eos_token_id=[], **options).token_ids.tolist()
    return both


def texts(n: int = 3, seed: int = 0) -> list[torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return [torch.randint(0, 256, (5 + 4 * i,), generator=rng) for i in range(n)]


@pytest.fixture(scope="module")
def plain(make_config) -> Molmo:
    return build(make_config(**GROUPED, llm__max_sequence_length=1024), seed=5)


@pytest.fixture(scope="module")
def compiled(plain) -> Molmo:
    """The same weights with a compiled step; nothing in it is compiled a second time for another test."""
    return copy.deepcopy(plain).compile_decoding(backend="eager")


@pytest.fixture(autouse=True)
def no_failure(request):
    """A compiler that gives up says so in a warning, and then a comparison would be one of plain with plain."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="the decoding step cannot be compiled")
        yield


# -- the same answers ----------------------------------------------------------------------------------------------


def test_greedy_answers_of_one_row_and_of_many_with_pictures(plain, compiled, batch):
    examples, together = batch
    for inputs in (*examples, together):
        wanted = plain.generate(**inputs, max_new_tokens=N_NEW, eos_token_id=[], output_scores=True)
        found = compiled.generate(**inputs, max_new_tokens=N_NEW, eos_token_id=[], output_scores=True)
        assert found.token_ids.tolist() == wanted.token_ids.tolist() and found.text == wanted.text
        torch.testing.assert_close(found.scores, wanted.scores, atol=1e-5, rtol=0)
    assert compiled.compiled_decoding.n_steps == 4 * (N_NEW - 1)


@pytest.mark.parametrize(
    "options",
    [
        {"do_sample": True, "temperature": 1.3, "top_p": 0.9, "seed": 3},
        {"num_beams": 3, "output_scores": True},
        {"num_beams": 3, "eos_token_id": list(range(100, 180)), "length_penalty": 0.5},
        {"eos_token_id": list(range(60, 120))},
        {"repetition_penalty": 1.5, "min_new_tokens": 4},
        {"logits_processors": lambda ids, logits: logits.flip(-1)},
    ],
    ids=["sampling", "beams", "beams that end", "rows that end", "penalty", "hook"],
)
def test_every_way_of_choosing(plain, compiled, options):
    rows = pad(texts(), "left")
    options = {"eos_token_id": [], **options}
    before = compiled.compiled_decoding.n_steps
    wanted = plain.generate(rows, max_new_tokens=N_NEW, **options)
    found = compiled.generate(rows, max_new_tokens=N_NEW, **options)
    assert found.token_ids.tolist() == wanted.token_ids.tolist() and found.text == wanted.text
    assert compiled.compiled_decoding.n_steps > before


def test_guesses_read_several_tokens_at_once_on_the_same_cache(plain, compiled):
    ids = torch.tensor([7, 8, 9, 10] * 8)
    wanted = plain.generate(ids, max_new_tokens=60, eos_token_id=[]).token_ids
    assert torch.equal(compiled.generate(ids, max_new_tokens=60, eos_token_id=[], prompt_lookup=4).token_ids, wanted)


def test_the_turns_of_a_chat(plain, compiled):
    first = texts(1)[0]
    compiled.prefix_cache = PrefixCache()
    try:
        for more in range(3):
            ids = torch.cat([first, torch.arange(40, 40 + 5 * more)])
            wanted = plain.generate(ids, max_new_tokens=N_NEW, eos_token_id=[]).token_ids
            assert torch.equal(compiled.generate(ids, max_new_tokens=N_NEW, eos_token_id=[]).token_ids, wanted)
        assert compiled.prefix_cache.n_reused > 0
    finally:
        compiled.prefix_cache = None


def test_streams_that_run_side_by_side_have_caches_of_their_own(plain, compiled):
    rows = texts(3, seed=2)
    wanted = [plain.generate(ids, max_new_tokens=N_NEW, eos_token_id=[]).text[0] for ids in rows]
    streams = [compiled.stream(ids, max_new_tokens=N_NEW, eos_token_id=[]) for ids in rows]
    found = ["", "", ""]
    open_streams = dict(enumerate(streams))
    while open_streams:
        for i, pieces in list(open_streams.items()):
            piece = next(pieces, None)
            if piece is None:
                del open_streams[i]
            else:
                found[i] += piece
    assert found == wanted


def routed(make_config):
    return build(make_config(**ROUTED), seed=5), {}


def he_molmo(make_config):
    config = HeMolmoConfig.from_molmo(make_config(**SHARP), pooling_h=2, pooling_w=2, selection_ratio=0.5)
    model = opinionated(HeMolmo(config, seed=5)).eval()
    return model, config.build_preprocessor(for_inference=True)(example("what is it?", picture(60, 100)))


def video_olmo(make_config):
    model = VideoOlmo(VideoOlmoConfig.from_molmo(make_config(**SHARP), pooling_h=2, pooling_w=2, max_frames=4)).eval()
    return model, prepared(model, video(4))


def quantised(scheme):
    return lambda make_config: (build(make_config(**SHARP, llm__mlp_hidden_size=64), seed=5).quantize(scheme), {})


MODELS = {
    "routed": routed,
    "he_molmo": he_molmo,
    "video_olmo": video_olmo,
    "int8": quantised("int8"),
    "int8-dynamic": quantised("int8-dynamic"),
    "int4": quantised("int4"),
}


@pytest.mark.parametrize("kind", MODELS)
def test_every_kind_of_model(make_config, kind):
    model, inputs = MODELS[kind](make_config)
    rows = texts()
    given = dict(inputs) if inputs else None
    wanted = answers(model, rows), given and model.generate(**given, max_new_tokens=N_NEW).token_ids.tolist()
    model.compile_decoding(backend="eager")
    assert (answers(model, rows), given and model.generate(**given, max_new_tokens=N_NEW).token_ids.tolist()) == wanted
    assert model.compiled_decoding.failure is None and model.compiled_decoding.n_steps >= 2 * (N_NEW - 1)


@pytest.mark.parametrize("kind", [kind for kind in MODELS if kind != "routed"])
def test_prompts_of_every_kind_of_model(make_config, kind):
    model, inputs = MODELS[kind](make_config)
    rows, given = texts(), dict(inputs)
    wanted = answers(model, rows), given and model.generate(**given, max_new_tokens=N_NEW).token_ids.tolist()
    model.compile_decoding(backend="eager", prompts=True)
    assert (answers(model, rows), given and model.generate(**given, max_new_tokens=N_NEW).token_ids.tolist()) == wanted
    assert model.compiled_decoding.failure is None and model.compiled_decoding.n_prompts == 2 + bool(given)


@pytest.mark.parametrize("mode", ["within_image", "image_tokens", "image_to_question"])
def test_prompts_that_look_ahead(make_config, batch, mode):
    model = build(make_config(**GROUPED, bi_directional_attn=mode), seed=5)
    examples, together = batch
    wanted = [model.generate(**inputs, max_new_tokens=4).token_ids.tolist() for inputs in (*examples, together)]
    model.compile_decoding(backend="eager", prompts=True)
    found = [model.generate(**inputs, max_new_tokens=4).token_ids.tolist() for inputs in (*examples, together)]
    assert found == wanted and model.compiled_decoding.n_prompts == len(wanted)


def test_prompts_that_are_not_compiled(plain, make_config):
    routed_model = build(make_config(**ROUTED), seed=5).compile_decoding(backend="eager", prompts=True)
    answers(routed_model, texts())
    one_token = copy.deepcopy(plain).compile_decoding(backend="eager", prompts=True)
    one_token.generate(torch.tensor([7]), max_new_tokens=3, eos_token_id=[])
    for model in (routed_model, one_token):
        assert model.compiled_decoding.n_prompts == 0 and model.compiled_decoding.n_steps > 0
        assert model.compiled_decoding.failure is None


@pytest.mark.slow  # a C++ compiler takes its time
@pytest.mark.parametrize("settings", [GROUPED, ROUTED], ids=["dense", "routed"])
def test_inductor(make_config, settings):
    model = build(make_config(**settings), seed=5)
    rows = texts()
    wanted = answers(model, rows)
    model.compile_decoding(prompts=True)
    assert answers(model, rows) == wanted
    assert model.compiled_decoding.failure is None and model.compiled_decoding.n_steps == 2 * (N_NEW - 1)
    assert model.compiled_decoding.n_prompts == (0 if settings is ROUTED else 2)


# -- compiled once -------------------------------------------------------------------------------------------------


def test_neither_steps_nor_lengths_nor_numbers_of_rows_compile_again(plain):
    model = copy.deepcopy(plain).compile_decoding(backend="eager")
    before = n_graphs()
    model.generate(texts(1)[0], max_new_tokens=3, eos_token_id=[])
    assert n_graphs() == before + 1
    model.generate(pad(texts(2), "left"), max_new_tokens=3, eos_token_id=[])
    assert n_graphs() == before + 2
    with torch._dynamo.config.patch(error_on_recompile=True):
        for n_rows, n_new in ((1, 30), (2, 30), (3, 5), (5, 5), (1, 2 * LENGTH_STEP), (4, LENGTH_STEP)):
            model.generate(pad(texts(n_rows), "right"), max_new_tokens=n_new, eos_token_id=[])
    assert n_graphs() == before + 2 and model.compiled_decoding.failure is None


def test_each_model_has_its_own_count_of_compilations(plain):
    """torch gives up on a function after a few; many models in one process are no reason to."""
    with torch._dynamo.config.patch(recompile_limit=2):
        for _ in range(3):
            model = copy.deepcopy(plain).compile_decoding(backend="eager")
            model.generate(texts(1)[0], max_new_tokens=2, eos_token_id=[])
            assert model.compiled_decoding.failure is None and model.compiled_decoding.n_steps == 1


def test_neither_lengths_nor_numbers_of_prompts_compile_again(plain):
    model = copy.deepcopy(plain).compile_decoding(backend="eager", prompts=True)
    one, more = texts(1)[0], pad(texts(2), "right")
    for ids in (one, more):
        model.generate(ids, max_new_tokens=2, eos_token_id=[])
    before = n_graphs()
    with torch._dynamo.config.patch(error_on_recompile=True):
        for ids in (torch.cat([one, one]), pad(texts(5), "right"), pad(texts(3), "right"), torch.arange(200)):
            model.generate(ids, max_new_tokens=2, eos_token_id=[])
    assert n_graphs() == before and model.compiled_decoding.n_prompts == 6
    assert copy.deepcopy(model).compiled_decoding.prompts, "a copy reads prompts in the same way"


# -- caches --------------------------------------------------------------------------------------------------------


def a_past(length: int = 5, batch_size: int = 1) -> KVCache:
    shape = (batch_size, 2, length, 4)
    return KVCache.from_tuple([(torch.randn(shape), torch.randn(shape)) for _ in range(2)])


def test_a_cache_is_used_again_at_the_same_address_once_it_is_free():
    decoding = CompiledDecoding(backend="eager")
    lease, other = decoding.lease(a_past(), 10), decoding.lease(a_past(), 10)
    first = [t.data_ptr() for t in (*lease.cache.keys, *lease.cache.values, lease.cache.place)]
    assert lease.cache.max_length == LENGTH_STEP and other.cache is not lease.cache
    del lease
    past = a_past(7)
    again = decoding.lease(past, LENGTH_STEP - 7)
    assert [t.data_ptr() for t in (*again.cache.keys, *again.cache.values, again.cache.place)] == first
    assert all(
        torch.equal(a, b)
        for x, y in zip(again.cache.as_tuple(), past.as_tuple(), strict=True)
        for a, b in zip(x, y, strict=True)
    )
    assert decoding.lease(a_past(7), LENGTH_STEP - 6).cache.max_length == 2 * LENGTH_STEP


def test_a_cache_made_in_inference_mode_is_written_to_outside_of_it():
    decoding, past = CompiledDecoding(backend="eager"), a_past()
    with torch.inference_mode():
        decoding.lease(past, 1)
    kept = decoding.lease(past, 1).cache
    assert not kept.keys[0].is_inference() and not kept.place.is_inference()
    assert torch.equal(kept.as_tuple()[0][0], past.as_tuple()[0][0])


def test_only_so_many_caches_are_kept():
    decoding = CompiledDecoding(backend="eager")
    leases = [decoding.lease(a_past(batch_size=n), 1) for n in range(1, MOST_KEPT + 3)]
    assert decoding.n_bytes == sum(lease.cache.n_bytes for lease in leases[-MOST_KEPT:])
    decoding.clear()
    assert decoding.n_bytes == 0 and all(lease.cache.length == 5 for lease in leases)


def test_training_lets_go_of_them(plain):
    model = copy.deepcopy(plain).compile_decoding(backend="eager")
    model.generate(texts(1)[0], max_new_tokens=2, eos_token_id=[])
    assert model.compiled_decoding.n_bytes > 0
    model.train()
    assert model.compiled_decoding.n_bytes == 0


def test_rows_may_become_more_or_fewer_and_the_cache_may_be_too_small(plain, compiled, monkeypatch):
    """A step as whoever drives it may use it: rows repeat, go, and more tokens come than were announced."""
    monkeypatch.setattr(compiled_decoding, "LENGTH_STEP", 16)
    ids = torch.stack([texts(1)[0], texts(1, seed=1)[0]])
    found, wanted = [], []
    for model, logits in ((compiled, found), (plain, wanted)):
        with torch.no_grad():
            step, first = prefill(model, text_inputs(ids, model.config.llm), 2)
            drive(step, first, logits)
        assert isinstance(step.cache, StaticKVCache) is (model is compiled)
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-5)


def drive(step: DecodeStep, logits: torch.Tensor, all_logits: list[torch.Tensor]) -> None:
    for rows in ([0, 1], [1, 0, 1], [2, 0, 1], [0]):
        step.reorder(torch.tensor(rows))
        logits = logits[rows]
        for _ in range(6):
            logits = step(logits.argmax(-1))
            all_logits.append(logits)


# -- what cannot be compiled ---------------------------------------------------------------------------------------


def hooked(make_config, monkeypatch):
    """With a hook that a user keeps from the compiler."""
    model = build(make_config(**GROUPED), seed=5)
    model.llm.blocks[0].register_forward_hook(torch.compiler.disable(lambda *_: None))
    return model


def with_many_experts(make_config, monkeypatch):
    """Too many pairs of token and expert for one graph: the usual way has to count them on the host."""
    monkeypatch.setattr(moe, "MOST_GATHERED", 1)
    return build(make_config(**ROUTED), seed=5)


@pytest.mark.parametrize("make", [hooked, with_many_experts])
def test_where_the_compiler_fails_it_is_said_once_and_answers_are_the_same(make_config, monkeypatch, make):
    model = make(make_config, monkeypatch)
    wanted = answers(model, texts())
    model.compile_decoding(backend="eager")
    with pytest.warns(UserWarning, match="cannot be compiled here") as said:
        assert answers(model, texts()) == wanted
    assert len(said) == 1 and model.compiled_decoding.n_steps == 0 and model.compiled_decoding.failure


@pytest.mark.parametrize(
    ("mode", "backend"), [("fastest", "inductor"), ("reduce-overhead", "eager"), (None, "nothing")]
)
def test_modes_and_backends_that_do_not_exist(plain, mode, backend):
    with pytest.raises(OLMoConfigurationError, match="cannot be meant"):
        plain.compile_decoding(mode, backend=backend)
    assert plain.compiled_decoding is None


def test_a_model_over_several_places_is_not_compiled(make_config, tmp_path):
    pytest.importorskip("accelerate")
    build(make_config()).save_checkpoint(tmp_path / "stored")
    places = {"": "cpu", "llm.blocks.1": "disk"}
    model = Molmo.from_pretrained(tmp_path / "stored", device_map=places, offload_folder=tmp_path / "disk")
    with pytest.raises(OLMoConfigurationError, match="on one device"):
        model.compile_decoding()
