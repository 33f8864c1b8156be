"""Tokenizers: byte-level BPE files plus the multimodal special tokens, and text decoding in whole characters.

`Tokenizer` wraps a `tokenizer.json`, `build_tokenizer` finds that file for a configuration, `IncrementalDecoder` turns
a stream of ids into text. Knows nothing of prompts or pictures. Reads local files only.

Special ids: the vocabulary is filled up to the language model's `vocab_size`, then the picture tokens follow, as in the
released Molmo v1 processors.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizers
from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import HFValidationError
from tokenizers import AddedToken, decoders

from olmo.config import BaseConfig
from olmo.exceptions import OLMoConfigurationError, OLMoInputError

IM_START, IM_END, IM_PATCH, IM_COL, IMAGE = "<im_start>", "<im_end>", "<im_patch>", "<im_col>", "<|image|>"
MULTIMODAL_TOKENS = (IM_START, IM_END, IM_PATCH, IM_COL, IMAGE)
"""Names in id order; the first one's id is the language model's vocab_size."""

DEFAULT_EOS = "<|endoftext|>"
FILLER = "|<EXTRA_TOKENS_{}>|"
_FILLER_PATTERN = re.compile(r"\|<EXTRA_TOKENS_\d+>\|")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_IDENTIFIER_PREFIXES = ("mm:", "hf-")


@dataclass(kw_only=True)
class TokenizerConfig(BaseConfig):
    """Where the tokenizer of a model is found."""

    identifier: str | None = None
    """A `tokenizer.json` (path relative to the configuration file), or a hub id, looked up in the local cache only."""


class Tokenizer:
    """A byte-level BPE tokenizer with the picture tokens of Molmo.

    It never adds special tokens by itself, and a special token's name inside a text is read as ordinary characters, so
    a prompt that spells `<im_patch>` cannot pose as a picture.

    Attributes:
        vocab_size: the language model's vocabulary size; the picture tokens follow it.
        eos_token_id: end of a message.
        bos_token_id: first token of every sequence; the end token where the tokenizer has no true one.
        pad_token_id: filler for generated ids. Models pad their inputs with -1 instead.
        im_start_id: opens a picture's tokens; likewise `im_end_id`, `im_patch_id`, `im_col_id`.
        image_id: the `<|image|>` placeholder.
    """

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        vocab_size: int,
        *,
        eos_token: str = DEFAULT_EOS,
        bos_token: str | None = None,
        pad_token: str | None = None,
    ) -> None:
        """Wrap a tokenizer.

        Args:
            backend: tokenizer with a byte-level decoder; taken over and changed.
            vocab_size: vocabulary size of the language model, picture tokens not counted.
            eos_token: name of the end-of-text token.
            bos_token: name of the first token, None where there is none.
            pad_token: name of the padding token, None for the end-of-text token.

        Raises:
            OLMoConfigurationError: a named token is missing, the picture tokens have other ids than the rule gives, the
                vocabulary is too small, or the tokenizer is not byte-level.
        """
        if not isinstance(backend.decoder, decoders.ByteLevel):
            raise OLMoConfigurationError(
                f"the tokenizer decodes with {type(backend.decoder).__name__}; only byte-level BPE tokenizers (Qwen2, "
                "OLMo, GPT-NeoX, SmolLM2) are supported"
            )
        self.vocab_size = vocab_size
        self.eos_token_id = _id_of(backend, eos_token, "end-of-text")
        self.bos_token_id = self.eos_token_id if bos_token is None else _id_of(backend, bos_token, "first")
        self.pad_token_id = self.eos_token_id if pad_token is None else _id_of(backend, pad_token, "padding")
        self._names = {"eos_token": eos_token, "bos_token": bos_token, "pad_token": pad_token or eos_token}
        ids = [vocab_size + i for i in range(len(MULTIMODAL_TOKENS))]
        self.im_start_id, self.im_end_id, self.im_patch_id, self.im_col_id, self.image_id = ids
        self._multimodal = dict(zip(ids, MULTIMODAL_TOKENS, strict=True))
        _check_multimodal(backend, self._multimodal)
        self._set_backend(backend)

    @classmethod
    def from_file(cls, path: str | Path, vocab_size: int) -> Tokenizer:
        """Read `tokenizer.json`; token names come from the `tokenizer_config.json` or special tokens map beside it.

        Args:
            path: the file, or the folder that holds it.
            vocab_size: vocabulary size of the language model, picture tokens not counted.

        Raises:
            OLMoConfigurationError: no such file, not a tokenizer, or it does not fit `vocab_size`.
        """
        file = Path(path)
        if file.is_dir():
            file = file / "tokenizer.json"
        if not file.is_file():
            raise OLMoConfigurationError(f"no such tokenizer file: {file}")
        try:
            backend = tokenizers.Tokenizer.from_file(str(file))
        except Exception as error:  # the library raises plain Exception for every fault in the file
            raise OLMoConfigurationError(f"{file} is not a tokenizer.json: {error}") from None
        named = _names_beside(file)
        return cls(
            backend,
            vocab_size,
            eos_token=named.get("eos_token") or DEFAULT_EOS,
            bos_token=named.get("bos_token"),
            pad_token=named.get("pad_token"),
        )

    def encode(self, text: str) -> list[int]:
        """Ids of `text`, without special tokens.

        Raises:
            OLMoInputError: not a string, or it holds half a surrogate pair.
        """
        if not isinstance(text, str):
            raise OLMoInputError(f"text to encode must be a str, got {type(text).__name__}")
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise OLMoInputError(
                f"text holds a lone surrogate at character {error.start}, which no encoding can write; decode the "
                "source with errors='replace'"
            ) from None
        return list(self._backend.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: Iterable[int], skip_special_tokens: bool = True) -> str:
        """Text of `ids`; ids that stand for no text (-1, fillers, past the vocabulary) are left out.

        Args:
            ids: token ids, a list or a tensor of rank 1.
            skip_special_tokens: leave out special tokens; else they appear by name.
        """
        data = b"".join(self.token_bytes(int(i), skip_special_tokens) for i in ids)
        return data.decode("utf-8", errors="replace")

    def token_bytes(self, token_id: int, skip_special_tokens: bool = True) -> bytes:
        """Bytes that one id adds to a text; may be a part of a character, or empty."""
        data, is_special = self._bytes.get(token_id) or self._look_up(token_id)
        return b"" if is_special and skip_special_tokens else data

    def save(self, folder: str | Path) -> None:
        """Write `tokenizer.json` (picture tokens included, as released) and `tokenizer_config.json`."""
        target = Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        backend = self._backend
        if backend.token_to_id(IMAGE) is None:
            backend = tokenizers.Tokenizer.from_str(backend.to_str())
            # The library gives out consecutive ids, so the gap up to vocab_size is filled with names nobody uses.
            first = _next_id(backend)
            fillers = [FILLER.format(k) for k in range(self.vocab_size - first)]
            missing = [*fillers, *(name for name in MULTIMODAL_TOKENS if backend.token_to_id(name) is None)]
            backend.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in missing])
            assert all(backend.token_to_id(n) == i for i, n in self._multimodal.items()), "picture ids follow the rule"
        backend.save(str(target / "tokenizer.json"))
        settings = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            **self._names,
            "additional_special_tokens": list(MULTIMODAL_TOKENS),
            "clean_up_tokenization_spaces": False,
        }
        (target / "tokenizer_config.json").write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")

    def _set_backend(self, backend: tokenizers.Tokenizer) -> None:
        known = [n for n in (*MULTIMODAL_TOKENS, self._names["eos_token"]) if n and backend.token_to_id(n) is not None]
        backend.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in known])
        backend.no_truncation()
        backend.no_padding()
        backend.encode_special_tokens = True
        self._backend = backend
        self._special = {i for i, token in backend.get_added_tokens_decoder().items() if token.special}
        self._bytes: dict[int, tuple[bytes, bool]] = {}

    def _look_up(self, token_id: int) -> tuple[bytes, bool]:
        name = self._multimodal.get(token_id) or (self._backend.id_to_token(token_id) if token_id >= 0 else None)
        if name is None or _FILLER_PATTERN.fullmatch(name):
            found = (b"", True)
        else:
            found = (_bytes_of(name), token_id in self._special or token_id in self._multimodal)
        self._bytes[token_id] = found
        return found

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_backend": self._backend.to_str(), "_bytes": {}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        # The library's own pickling forgets encode_special_tokens; prompts could forge pictures in a data worker.
        self.__dict__.update(state)
        self._set_backend(tokenizers.Tokenizer.from_str(state["_backend"]))


class IncrementalDecoder:
    """Text of a growing list of ids, given out in whole characters; constant work per token.

    The concatenation of all `push` results and `flush` equals `Tokenizer.decode` of all ids.
    """

    def __init__(self, tokenizer: Tokenizer, skip_special_tokens: bool = True) -> None:
        self._tokenizer = tokenizer
        self._skip_special_tokens = skip_special_tokens
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token_id: int) -> str:
        """Text that became complete with this id, possibly empty."""
        return self._utf8.decode(self._tokenizer.token_bytes(int(token_id), self._skip_special_tokens))

    def flush(self) -> str:
        """What is left at the end: a replacement character if the last character never became whole, else nothing."""
        rest = self._utf8.decode(b"", final=True)
        self._utf8.reset()
        return rest


def build_tokenizer(config: TokenizerConfig, vocab_size: int, source_dir: Path | None = None) -> Tokenizer:
    """Find and read the tokenizer that a configuration names. Never the network.

    Args:
        config: `identifier` is a file or folder (relative to `source_dir`, or absolute) or a hub id. A hub id takes the
            `tokenizer.json` beside the configuration first, then the local Hugging Face cache. None: the file beside
            the configuration.
        vocab_size: vocabulary size of the language model, picture tokens not counted.
        source_dir: folder of the configuration file; None for a configuration made in memory.

    Raises:
        OLMoConfigurationError: nothing found; the message says what to fetch or to set.
    """
    beside = (source_dir / "tokenizer.json") if source_dir is not None else None
    has_beside = beside is not None and beside.is_file()
    if config.identifier is None:
        if not has_beside:
            where = f"there is no {beside}" if beside else "the configuration was not read from a file"
            raise OLMoConfigurationError(
                f"no tokenizer: {where}; set it to the path of a tokenizer.json or to a hub id such as 'Qwen/Qwen2-7B'",
                "llm.tokenizer.identifier",
            )
        assert beside is not None, "has_beside"
        return Tokenizer.from_file(beside, vocab_size)
    identifier = config.identifier
    for prefix in _IDENTIFIER_PREFIXES:
        identifier = identifier.removeprefix(prefix)
    named = (source_dir or Path()) / identifier
    if named.exists():
        return Tokenizer.from_file(named, vocab_size)
    if not _HUB_ID.fullmatch(identifier) or identifier.endswith(".json"):
        raise OLMoConfigurationError(f"no such tokenizer file: {named}", "llm.tokenizer.identifier")
    if has_beside and beside is not None:
        return Tokenizer.from_file(beside, vocab_size)
    return Tokenizer.from_file(_cached_file(identifier, beside), vocab_size)


def _cached_file(repo_id: str, beside: Path | None) -> Path:
    try:
        found = try_to_load_from_cache(repo_id, "tokenizer.json")
    except HFValidationError as error:
        raise OLMoConfigurationError(f"no such file, nor a hub id: {error}", "llm.tokenizer.identifier") from None
    if isinstance(found, str):
        return Path(found)
    place = f"no {beside}, and it" if beside else "it"
    raise OLMoConfigurationError(
        f"tokenizer.json of {repo_id!r} is not on this machine ({place} is not in the Hugging Face cache); fetch it "
        f"with `hf download {repo_id} tokenizer.json tokenizer_config.json`, or set the path of a tokenizer.json",
        "llm.tokenizer.identifier",
    )


def _names_beside(file: Path) -> dict[str, str]:
    names: dict[str, str] = {}
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        sibling = file.parent / name
        if not sibling.is_file():
            continue
        try:
            values = json.loads(sibling.read_text(encoding="utf-8"))
        except ValueError as error:
            raise OLMoConfigurationError(f"{sibling} is not valid JSON: {error}") from None
        for key in ("eos_token", "bos_token", "pad_token"):
            value = values.get(key) if isinstance(values, dict) else None
            content = value.get("content") if isinstance(value, dict) else value
            if isinstance(content, str):
                names.setdefault(key, content)
    return names


def _id_of(backend: tokenizers.Tokenizer, name: str, role: str) -> int:
    found = backend.token_to_id(name)
    if found is None:
        raise OLMoConfigurationError(
            f"the tokenizer has no {role} token {name!r}; name the right one in the tokenizer_config.json beside it"
        )
    return int(found)


def _check_multimodal(backend: tokenizers.Tokenizer, expected: dict[int, str]) -> None:
    first = min(expected)
    for token_id, name in expected.items():
        found = backend.token_to_id(name)
        if found is not None and found != token_id:
            raise OLMoConfigurationError(
                f"the tokenizer file gives {name!r} the id {found}, but with llm.vocab_size={first} it must be "
                f"{token_id}; the tokenizer belongs to another model, or vocab_size is wrong"
            )
        other = backend.id_to_token(token_id)
        if found is None and other is not None:
            raise OLMoConfigurationError(
                f"the tokenizer has {_next_id(backend)} tokens, more than llm.vocab_size={first}: id {token_id}, meant "
                f"for {name!r}, is {other!r}; raise vocab_size or use the tokenizer of this model"
            )


def _next_id(backend: tokenizers.Tokenizer) -> int:
    return max(backend.get_vocab(with_added_tokens=True).values()) + 1


def _byte_alphabet() -> dict[str, int]:
    """Characters that byte-level BPE writes for bytes: printable ones for themselves, the others from U+0100 on.

    Source: the byte-to-unicode table of GPT-2 (Radford et al. 2019).
    """
    own = [b for b in range(256) if 33 <= b <= 126 or 161 <= b <= 172 or 174 <= b <= 255]
    others = [b for b in range(256) if b not in own]
    return {**{chr(b): b for b in own}, **{chr(256 + i): b for i, b in enumerate(others)}}


_ALPHABET = _byte_alphabet()


def _bytes_of(token: str) -> bytes:
    """Bytes of a vocabulary entry; entries outside the byte alphabet (added tokens) stand for themselves."""
    if all(c in _ALPHABET for c in token):
        return bytes(_ALPHABET[c] for c in token)
    return token.encode("utf-8")
