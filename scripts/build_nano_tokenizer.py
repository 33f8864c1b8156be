"""Train the tokenizer of molmo-nano on the text of Scenes and write it beside the model's configuration.

A byte-level BPE with pieces for a tiny model: a coordinate ("42.0") is one token, and so is the markup between two
coordinates (`" y1="`), so a point costs four tokens. Any other text still encodes, if need be byte by byte.

    python scripts/build_nano_tokenizer.py configs/molmo-nano
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from olmo.data.scenes.dataset import all_text_samples

VOCAB_SIZE = 832
PIECES = Regex(
    r"""\d+\.\d| ?<points? x1?="|" [xy]\d+="|" y="|" alt="|">|</points?>| ?\d| ?\p{L}+| ?[^\s\p{L}\d]+|\s+(?!\S)|\s+"""
)
END = "<|endoftext|>"


def samples(n_scenes: int) -> list[str]:
    """Formatted prompts and answers, and every coordinate often enough to become one token."""
    texts = []
    for index, text in enumerate(all_text_samples(n_scenes)):
        texts.append(f" User: {text} Assistant:" if index % 2 == 0 else f" {text}")
    coordinates = " ".join(f"{value / 10:.1f}" for value in range(0, 1001, 20))
    markup = "".join(f'<points x1="0.0" y1="2.0" x{k}="4.0" y{k}="6.0" alt="' for k in range(2, 13))
    return texts + [coordinates, markup, '<point x="', '" y="', '" alt="', '">', "</point>", "</points>"] * 400


def main(folder: Path) -> None:
    """Write tokenizer.json and tokenizer_config.json to `folder`."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(PIECES, behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=[END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(samples(4_000), trainer)
    if tokenizer.get_vocab_size() != VOCAB_SIZE:
        raise SystemExit(f"the text gives only {tokenizer.get_vocab_size()} tokens; lower VOCAB_SIZE")
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {"eos_token": END, "pad_token": END, "bos_token": None, "model_max_length": 1024}
    (folder / "tokenizer_config.json").write_text(json.dumps(names, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
