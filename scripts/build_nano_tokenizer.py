"""Train the tokenizer of molmo-nano on the text of Scenes and write it beside the model's configuration.

A byte-level BPE with pieces for a tiny model: a coordinate ("42.0") is one token, and so is the markup between two
coordinates (`" y1="`), so a point costs four tokens. Any other text still encodes, if need be byte by byte. With
`--wide` the text is that of wide scenes and of moving ones, and times ("2.5 ") are tokens too.

    python scripts/build_nano_tokenizer.py configs/molmo-nano
    python scripts/build_nano_tokenizer.py configs/molmo-nano-wide --wide
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from olmo.data.scenes import ScenesConfig
from olmo.data.scenes.dataset import all_text_samples
from olmo.data.scenes.moving.dataset import moving_text_samples
from olmo.data.scenes.moving.moving_config import MovingScenesConfig
from olmo.data.scenes.scenes_config import Task

VOCAB_SIZES = {False: 832, True: 1824}
PIECES = Regex(
    r"""\d+\.\d| ?<points? x1?="|" [xy]\d+="|" y="|" alt="|">|</points?>| ?\d| ?\p{L}+| ?[^\s\p{L}\d]+|\s+(?!\S)|\s+"""
)
END = "<|endoftext|>"


def scene_text(is_wide: bool) -> Iterator[str]:
    """Prompts and answers in turn."""
    if not is_wide:
        yield from all_text_samples(4_000)
        return
    every_task = dict.fromkeys((task.value for task in Task), 1.0)
    yield from all_text_samples(8_000, ScenesConfig(concept_set="wide", max_count=10, max_objects=12,
                                                    min_object_share=0.12, task_weights=every_task))  # fmt: skip
    yield from moving_text_samples(8_000, MovingScenesConfig(concept_set="wide"))


def samples(is_wide: bool) -> list[str]:
    """Formatted prompts and answers, and every coordinate often enough to become one token."""
    texts = []
    for index, text in enumerate(scene_text(is_wide)):
        texts.append(f" User: {text} Assistant:" if index % 2 == 0 else f" {text}")
    if is_wide:  # the times of frames, to the tenth
        texts += [" ".join(f"{quarter / 4:.1f}" for quarter in [*range(0, 48), *range(48, 120, 2)])] * 400
    coordinates = " ".join(f"{value / 10:.1f}" for value in range(0, 1001, 20))
    markup = "".join(f'<points x1="0.0" y1="2.0" x{k}="4.0" y{k}="6.0" alt="' for k in range(2, 13))
    return texts + [coordinates, markup, '<point x="', '" y="', '" alt="', '">', "</point>", "</points>"] * 400


def main(folder: Path, is_wide: bool) -> None:
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
        vocab_size=VOCAB_SIZES[is_wide],
        special_tokens=[END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(samples(is_wide), trainer)
    if tokenizer.get_vocab_size() != VOCAB_SIZES[is_wide]:
        raise SystemExit(f"the text gives only {tokenizer.get_vocab_size()} tokens; lower VOCAB_SIZES")
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {"eos_token": END, "pad_token": END, "bos_token": None, "model_max_length": 1024}
    (folder / "tokenizer_config.json").write_text(json.dumps(names, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="folder of the model's configuration")
    parser.add_argument("--wide", action="store_true", help="words of wide scenes and of moving ones")
    args = parser.parse_args()
    main(args.folder, args.wide)
