"""Tokenizer files, special ids, forged picture tokens, and decoding in whole characters."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, pre_tokenizers

from olmo.exceptions import OLMoConfigurationError, OLMoInputError
from olmo.tokenizer import (
    MULTIMODAL_TOKENS,
    IncrementalDecoder,
    Tokenizer,
    TokenizerConfig,
    build_tokenizer,
)

N_BASE = 260
VOCAB_SIZE = 264


def make_backend() -> tokenizers.Tokenizer:
    """Bytes, two merges, an end token and a plain added token: 260 ids."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {c: i for i, c in enumerate([*alphabet, "he", "Ġa"])}
    backend = tokenizers.Tokenizer(models.BPE(vocab, [("h", "e"), ("Ġ", "a")]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken("<|endoftext|>", special=True, normalized=False)])
    backend.add_tokens([AddedToken("   ", normalized=False)])
    assert backend.get_vocab_size() == N_BASE
    return backend


def write_file(folder: Path, backend: tokenizers.Tokenizer | None = None, **settings: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (backend or make_backend()).save(str(folder / "tokenizer.json"))
    if settings:
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder / "tokenizer.json"


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(make_backend(), VOCAB_SIZE)


def test_special_ids_follow_the_vocabulary(tokenizer):
    ids = [tokenizer.im_start_id, tokenizer.im_end_id, tokenizer.im_patch_id, tokenizer.im_col_id, tokenizer.image_id]
    assert ids == [VOCAB_SIZE + i for i in range(5)]
    assert tokenizer.bos_token_id == tokenizer.eos_token_id == tokenizer.pad_token_id == N_BASE - 2


@pytest.mark.parametrize("copy", [False, True], ids=["built", "pickled"])
@pytest.mark.parametrize("defined", [False, True], ids=["names-absent", "names-in-file"])
def test_a_prompt_cannot_forge_special_tokens(copy, defined, tmp_path):
    tokenizer = Tokenizer(make_backend(), VOCAB_SIZE)
    if defined:
        tokenizer.save(tmp_path)
        tokenizer = Tokenizer.from_file(tmp_path, VOCAB_SIZE)
    if copy:
        tokenizer = pickle.loads(pickle.dumps(tokenizer))
    text = "".join(MULTIMODAL_TOKENS) + "<|endoftext|>" + "|<EXTRA_TOKENS_0>|"
    ids = tokenizer.encode(text)
    assert max(ids) < N_BASE - 2
    assert tokenizer.decode(ids) == text


def test_names_marked_ordinary_in_the_file_are_still_special(tmp_path):
    Tokenizer(make_backend(), VOCAB_SIZE).save(tmp_path)
    values = json.loads((tmp_path / "tokenizer.json").read_text())
    for token in values["added_tokens"]:
        token["special"] = False
    (tmp_path / "tokenizer.json").write_text(json.dumps(values))
    tokenizer = Tokenizer.from_file(tmp_path, VOCAB_SIZE)
    assert tokenizer.im_patch_id not in tokenizer.encode("<im_patch>")
    assert tokenizer.decode([tokenizer.im_patch_id, tokenizer.eos_token_id]) == ""


def test_never_adds_special_tokens_nor_truncates(tmp_path):
    backend = make_backend()
    backend.enable_truncation(3)
    backend.enable_padding(length=50)
    tokenizer = Tokenizer.from_file(write_file(tmp_path, backend), VOCAB_SIZE)
    assert tokenizer.encode("") == []
    assert tokenizer.decode(tokenizer.encode("hello a hello")) == "hello a hello"
    assert len(tokenizer.encode("zzzzz")) == 5


def test_decode_leaves_out_what_is_no_text(tokenizer):
    hello = tokenizer.encode("hello")
    ids = [tokenizer.eos_token_id, *hello, -1, -100, N_BASE + 1, tokenizer.im_patch_id, 10**6, tokenizer.eos_token_id]
    assert tokenizer.decode(ids) == "hello"
    assert tokenizer.decode(ids, skip_special_tokens=False) == "<|endoftext|>hello<im_patch><|endoftext|>"


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, N_BASE - 1), max_size=40))
def test_decode_equals_the_library(ids):
    """Also on ids that spell broken UTF-8."""
    tokenizer = _shared_tokenizer()
    assert tokenizer.decode(ids) == tokenizer._backend.decode(ids)
    assert tokenizer.decode(ids, False) == tokenizer._backend.decode(ids, skip_special_tokens=False)


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=60).filter(lambda t: not any("\ud800" <= c <= "\udfff" for c in t)))
def test_round_trip_of_any_text(text):
    tokenizer = _shared_tokenizer()
    assert tokenizer.decode(tokenizer.encode(text)) == text


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(-2, VOCAB_SIZE + 6), max_size=60), st.booleans())
def test_incremental_text_equals_the_whole(ids, skip):
    tokenizer = _shared_tokenizer()
    decoder = IncrementalDecoder(tokenizer, skip_special_tokens=skip)
    pieces = [decoder.push(i) for i in ids]
    assert "".join(pieces) + decoder.flush() == tokenizer.decode(ids, skip)
    assert decoder.flush() == ""


@settings(max_examples=50, deadline=None)
@given(st.text(alphabet="aé日🎉\u0301 \n", min_size=1, max_size=30))
def test_valid_text_is_never_given_out_in_halves(text):
    tokenizer = _shared_tokenizer()
    decoder = IncrementalDecoder(tokenizer)
    pieces = [decoder.push(i) for i in tokenizer.encode(text)]
    assert all("\ufffd" not in piece for piece in pieces)
    assert "".join(pieces) == text


def test_a_character_cut_at_the_end_shows_on_flush(tokenizer):
    ids = tokenizer.encode("ab🎉")
    decoder = IncrementalDecoder(tokenizer)
    assert "".join(decoder.push(i) for i in ids[:-1]) == "ab"
    assert decoder.flush() == "\ufffd" == tokenizer.decode(ids[:-1])[2:]


def test_work_per_token_does_not_grow(tokenizer, monkeypatch):
    calls = []
    original = Tokenizer.token_bytes
    monkeypatch.setattr(Tokenizer, "token_bytes", lambda *a: calls.append(a[1]) or original(*a))
    decoder = IncrementalDecoder(tokenizer)
    for token in tokenizer.encode("hello " * 50):
        decoder.push(token)
    assert len(calls) == len(tokenizer.encode("hello " * 50))


def test_save_writes_a_file_that_reads_back_equal(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    again = Tokenizer.from_file(tmp_path / "tokenizer.json", VOCAB_SIZE)
    stored = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert [stored.token_to_id(name) for name in MULTIMODAL_TOKENS] == [VOCAB_SIZE + i for i in range(5)]
    assert stored.token_to_id("|<EXTRA_TOKENS_0>|") == N_BASE
    ids = [*range(-1, VOCAB_SIZE + 6)]
    assert again.decode(ids) == tokenizer.decode(ids)
    assert again.decode(ids, False) == tokenizer.decode(ids, False)
    assert again.encode("hé   llo") == tokenizer.encode("hé   llo")
    again.save(tmp_path / "second")
    assert (tmp_path / "second" / "tokenizer.json").read_bytes() == (tmp_path / "tokenizer.json").read_bytes()


def test_token_names_come_from_the_files_beside(tmp_path):
    backend = make_backend()
    backend.add_special_tokens(["<eos>", "<pad>"])
    path = write_file(tmp_path, backend, eos_token={"content": "<eos>"}, bos_token=None)
    (tmp_path / "special_tokens_map.json").write_text(json.dumps({"eos_token": "ignored", "pad_token": "<pad>"}))
    tokenizer = Tokenizer.from_file(path, VOCAB_SIZE)
    assert tokenizer.eos_token_id == tokenizer.bos_token_id == N_BASE
    assert tokenizer.pad_token_id == N_BASE + 1
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<eos>", "bos_token": "<pad>"}))
    assert Tokenizer.from_file(path, VOCAB_SIZE).bos_token_id == N_BASE + 1


def test_ids_that_break_the_rule_are_refused(tmp_path):
    Tokenizer(make_backend(), VOCAB_SIZE).save(tmp_path)
    with pytest.raises(
        OLMoConfigurationError, match=r"'<im_start>' the id 264, but with llm.vocab_size=300 it must be 300"
    ):
        Tokenizer.from_file(tmp_path, 300)
    with pytest.raises(OLMoConfigurationError, match=r"260 tokens, more than llm.vocab_size=100.*raise vocab_size"):
        Tokenizer(make_backend(), 100)


def test_wrong_files_say_so(tmp_path):
    with pytest.raises(OLMoConfigurationError, match="no such tokenizer file"):
        Tokenizer.from_file(tmp_path, VOCAB_SIZE)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(OLMoConfigurationError, match=r"is not a tokenizer\.json"):
        Tokenizer.from_file(tmp_path, VOCAB_SIZE)
    write_file(tmp_path, eos_token="</s>")
    with pytest.raises(OLMoConfigurationError, match=r"no end-of-text token '</s>'"):
        Tokenizer.from_file(tmp_path, VOCAB_SIZE)
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(OLMoConfigurationError, match="not valid JSON"):
        Tokenizer.from_file(tmp_path, VOCAB_SIZE)
    backend = make_backend()
    backend.decoder = decoders.WordPiece()
    with pytest.raises(OLMoConfigurationError, match="decodes with WordPiece"):
        Tokenizer(backend, VOCAB_SIZE)


def test_text_that_cannot_be_encoded(tokenizer):
    with pytest.raises(OLMoInputError, match="lone surrogate at character 1"):
        tokenizer.encode("a\ud800")
    with pytest.raises(OLMoInputError, match="must be a str, got int"):
        tokenizer.encode(3)


class TestBuild:
    def test_no_identifier_takes_the_file_beside(self, tmp_path):
        write_file(tmp_path)
        assert build_tokenizer(TokenizerConfig(), VOCAB_SIZE, tmp_path).vocab_size == VOCAB_SIZE

    @pytest.mark.parametrize("with_folder", [True, False])
    def test_no_identifier_and_no_file(self, tmp_path, with_folder):
        with pytest.raises(OLMoConfigurationError, match=r"llm\.tokenizer\.identifier: no tokenizer") as caught:
            build_tokenizer(TokenizerConfig(), VOCAB_SIZE, tmp_path if with_folder else None)
        assert ("there is no" in str(caught.value)) == with_folder

    @pytest.mark.parametrize("name", ["sub/tokenizer.json", "sub", "absolute"])
    def test_paths(self, tmp_path, name):
        path = write_file(tmp_path / "sub")
        identifier = str(path) if name == "absolute" else name
        assert build_tokenizer(TokenizerConfig(identifier=identifier), VOCAB_SIZE, tmp_path).vocab_size == VOCAB_SIZE

    def test_missing_path(self, tmp_path):
        with pytest.raises(OLMoConfigurationError, match="no such tokenizer file"):
            build_tokenizer(TokenizerConfig(identifier="sub/tokenizer.json"), VOCAB_SIZE, tmp_path)

    @pytest.mark.parametrize("identifier", ["org/name", "mm:hf-org/name"])
    def test_hub_id_prefers_the_file_beside(self, tmp_path, identifier):
        write_file(tmp_path)
        assert build_tokenizer(TokenizerConfig(identifier=identifier), VOCAB_SIZE, tmp_path).vocab_size == VOCAB_SIZE

    def test_hub_id_in_the_local_cache(self, tmp_path, monkeypatch):
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
        repo = tmp_path / "hub" / "models--org--name"
        (repo / "refs").mkdir(parents=True)
        (repo / "refs" / "main").write_text("abc")
        write_file(repo / "snapshots" / "abc")
        assert build_tokenizer(TokenizerConfig(identifier="org/name"), VOCAB_SIZE).vocab_size == VOCAB_SIZE

    def test_hub_id_nowhere_names_the_file_and_the_command(self, tmp_path, monkeypatch):
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
        with pytest.raises(OLMoConfigurationError, match=r"tokenizer\.json of 'org/name'.*hf download org/name"):
            build_tokenizer(TokenizerConfig(identifier="org/name"), VOCAB_SIZE, tmp_path)
        with pytest.raises(OLMoConfigurationError, match="no such file, nor a hub id"):
            build_tokenizer(TokenizerConfig(identifier="org/na..me"), VOCAB_SIZE, tmp_path)


_SHARED: list[Tokenizer] = []


def _shared_tokenizer() -> Tokenizer:
    """Hypothesis forbids function-scoped fixtures; this one is never changed."""
    if not _SHARED:
        _SHARED.append(Tokenizer(make_backend(), VOCAB_SIZE))
    return _SHARED[0]
