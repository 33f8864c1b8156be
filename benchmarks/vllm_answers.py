"""Greedy answers of exported models in vLLM against ours, token by token; `make test-vllm` runs it.

Random models of the released layout, small ones. vLLM's own class has the sizes of the released picture encoder in its
code, so there the encoder is as large as that; the plugin reads them, and gets a small one. Each model is exported as
`molmo export` does, loaded by vLLM in another environment, and asked about drawn scenes in the chat protocol. `ours` is
the share of answers that are equal to the last token.

    python benchmarks/vllm_answers.py --vllm-python .vllm/bin/python --save
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from harness import Row, hardware, parse_options, report
from PIL import Image

from olmo.data.scenes.dataset import ScenesDataset
from olmo.data.scenes.scene import make_scene
from olmo.models.auto import model_class
from olmo.models.base import ModelBase
from olmo.models.bundled import bundled_model_folder
from olmo.models.export.hf_folder import export_hf
from olmo.models.feature_cache import FeatureCache
from olmo.models.molmo.molmo_config import MolmoConfig

N_QUESTIONS, N_QUICK = 20, 4
EACH = 4
"""Questions about one picture; both sides encode it once."""

N_TOKENS, CONTEXT = 24, 1024
NEAR = 1e-3
"""Two tokens whose log probabilities are closer than this are a tie, which rounding may decide either way."""

SIZES = ((320, 240), (460, 300), (224, 224), (180, 330), (300, 200))
"""Width and height of the pictures, in turn; the second has two high-resolution crops, the others one."""

_LLM = {
    "d_model": 256, "n_heads": 4, "n_kv_heads": 2, "n_layers": 4, "mlp_hidden_size": 512, "vocab_size": 1824,
    "qkv_bias": True, "additional_vocab_size": 128, "max_sequence_length": CONTEXT, "init_std": 0.08,
    "rope": {"theta": 1e6}, "norm_eps": 1e-6,
}  # fmt: skip
_ROUTED = {"block_type": "olmoe", "n_experts": 8, "experts_per_token": 2, "qkv_bias": False, "qk_norm": True,
           "n_kv_heads": 4, "norm_eps": 1e-5}  # fmt: skip


_SMALL_ENCODER = {"d_model": 128, "n_heads": 2, "n_layers": 10, "mlp_hidden_size": 256}


@dataclass(frozen=True, kw_only=True)
class Case:
    """One model in one engine.

    Args:
        model_name: class of the model.
        llm: changes of the language model.
        plugin: the plugin takes part.
        has_released_encoder: the encoder has the released size; vLLM's own class always has.
        has_patch_embedding: False sets the embedding of `<im_patch>` to zero.
        must_agree: answers have to be equal; otherwise the row shows what is not to be relied on.
        settings: for our `generate`.
    """

    model_name: str = "molmo"
    llm: Mapping[str, Any] | None = None
    plugin: bool = True
    has_released_encoder: bool = False
    has_patch_embedding: bool = True
    must_agree: bool = True
    settings: Mapping[str, Any] | None = None


CASES = {
    "Molmo, vLLM's class, <im_patch> zero": Case(plugin=False, has_released_encoder=True, has_patch_embedding=False),
    "Molmo, plugin": Case(),
    "Molmo, QK norm and norm after, plugin": Case(llm={"qk_norm": True, "norm_after": True, "qkv_bias": False}),
    "MolmoE, plugin": Case(llm=_ROUTED),
    "HeMolmo at ratio 1, plugin": Case(model_name="he_molmo", settings={"selection_ratio": 1.0}),
    "VideoOlmo on pictures, plugin": Case(model_name="video_olmo"),
    "Molmo, vLLM's class": Case(plugin=False, has_released_encoder=True, must_agree=False),
}
"""The first comes without any code of ours in vLLM; the last shows why there is a plugin."""


def main() -> None:
    """Ask everything, report, and fail where answers that must agree do not."""
    options = parse_options(__doc__.splitlines()[0], add_options)
    machine = hardware()
    names = list(CASES)[: 2 if options.quick else None] if options.cases is None else options.cases
    n_questions = options.questions or (N_QUICK if options.quick else N_QUESTIONS)
    rows, seen = [], {}
    for name in names:
        row, seen = compare(name, CASES[name], n_questions, options)
        rows.append(row)
        print(json.dumps(row.as_dict()), file=sys.stderr, flush=True)
    notes = {"questions": n_questions, "tokens_each": N_TOKENS, "near_tie": NEAR, "engine": seen}
    report("vllm", "share of equal answers", rows, options=options, packages=("molmo",), machine=machine, notes=notes)
    wrong = [row.case for row in rows if CASES[row.case].must_agree and row.extra and row.extra["real_differences"]]
    if wrong:
        sys.exit(f"answers differ, and not by a near tie: {', '.join(wrong)}")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of this script."""
    parser.add_argument("--vllm-python", required=True, help="Python of the environment that has vLLM")
    parser.add_argument("--cases", nargs="+", choices=list(CASES), help="some of the cases")
    parser.add_argument("--questions", type=int, help="fewer questions than 20")


def compare(name: str, case: Case, n_questions: int, options: Any) -> tuple[Row, dict[str, Any]]:
    """One case: the share of equal answers, and the versions of what answered."""
    model = random_model(case)
    questions, pictures = asked(n_questions)
    ours = our_answers(model, questions, pictures, case.settings or {})
    with tempfile.TemporaryDirectory() as place:
        export_hf(model, Path(place) / "model")
        theirs = their_answers(Path(place), questions, pictures, case, options)
    pairs = list(zip(ours, theirs["answers"], strict=True))
    equal = sum(a["ids"] == b["ids"] for a, b in pairs)
    ties = sum(a["ids"] != b["ids"] and is_near_tie(a["ids"], b) for a, b in pairs)
    facts = {
        "same_prompts": sum(a["prompt"] == b["prompt"] for a, b in pairs),
        "near_ties": ties,
        "real_differences": len(pairs) - equal - ties,
        "different_answers_among_ours": len({tuple(a["ids"]) for a in ours}),
        "largest_difference_of_log_probabilities": largest_difference(pairs),
        "vllm_seconds": theirs["seconds"],
    }
    return Row(case=name, ours=equal / len(pairs), extra=facts), theirs["versions"]


def config_of(case: Case) -> MolmoConfig:
    """The configuration of a case, with the tokenizer of the bundled model."""
    tokenizer = {"identifier": str(bundled_model_folder() / "tokenizer.json")}
    values = {
        "model_name": case.model_name,
        "llm": {**_LLM, **(case.llm or {}), "tokenizer": tokenizer},
        "vision_backbone": {"vit": {} if case.has_released_encoder else _SMALL_ENCODER, "vit_layers": [-2, -9]},
        "mm_preprocessor": {"max_crops": 2, "legacy_image_mask": True},
    }
    return model_class(case.model_name).config_class.from_dict(values)


def random_model(case: Case) -> ModelBase:
    """A random model in which pictures count as much as text."""
    model = model_class(case.model_name)(config_of(case), seed=1).eval()
    with torch.no_grad():
        connector = model.vision_backbone.connector  # type: ignore[union-attr]
        for name, weight in connector.named_parameters():
            if weight.ndim == 2 and name != "pad_embed":  # so that what is seen counts beside what is read
                weight.normal_(std=2.0 / weight.shape[1] ** 0.5, generator=torch.Generator().manual_seed(len(name)))
        connector.pad_embed.normal_(generator=torch.Generator().manual_seed(3))
        patch_row = model.config.image_token_ids.patch - model.config.llm.resolved_embedding_size
        if not case.has_patch_embedding:
            model.llm.wte.new_embedding[patch_row] = 0.0
    return model


def asked(n_questions: int) -> tuple[list[str], list[Image.Image]]:
    """Questions about drawn scenes, `EACH` about one, and its picture beside each, scaled to one of `SIZES`."""
    by_scene: dict[int, list[str]] = {}
    for seed, question in ScenesDataset().evaluation_items(-(-n_questions // EACH)):
        by_scene.setdefault(seed, []).append(question.prompt)
    questions, pictures = [], []
    for number, (seed, prompts) in enumerate(by_scene.items()):
        picture = make_scene(seed).image.resize(SIZES[number % len(SIZES)])
        questions += prompts[:EACH]
        pictures += [picture] * len(prompts[:EACH])
    return questions[:n_questions], pictures[:n_questions]


@torch.no_grad()
def our_answers(
    model: ModelBase, questions: Sequence[str], pictures: Sequence[Image.Image], settings: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Ids of prompt and answer, and the log probability of each token of the answer."""
    preprocess = model.config.build_preprocessor(for_inference=True)
    model.feature_cache, found = FeatureCache(), []
    for question, picture in zip(questions, pictures, strict=True):
        inputs = preprocess({"image": picture, "prompt": question})
        out = model.generate(**inputs, max_new_tokens=N_TOKENS, output_scores=True, **settings)
        ids, logprobs = out.token_ids[0].tolist(), out.scores[0].tolist()
        found.append({"prompt": inputs["input_ids"].tolist(), "ids": ids, "logprobs": logprobs})
    return found


def their_answers(
    place: Path, questions: Sequence[str], pictures: Sequence[Image.Image], case: Case, options: Any
) -> dict[str, Any]:
    """What vLLM answers, in a process of its own."""
    paths = [place / f"{number}.png" for number in range(len(pictures))]
    for path, picture in zip(paths, pictures, strict=True):
        picture.save(path)
    requests = {"questions": list(questions), "pictures": [str(p) for p in paths], "n_tokens": N_TOKENS,
                "context": CONTEXT}  # fmt: skip
    (place / "requests.json").write_text(json.dumps(requests), encoding="utf-8")
    command = [options.vllm_python, str(Path(__file__).with_name("vllm_side.py")), str(place / "model"),
               str(place / "requests.json"), str(place / "answers.json")]  # fmt: skip
    environment = {**os.environ, "VLLM_PLUGINS": "olmo" if case.plugin else "", "OMP_NUM_THREADS": str(options.threads)}
    with (place / "vllm.log").open("w") as log:
        done = subprocess.run(command, env=environment, stdout=log, stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        text = (place / "vllm.log").read_text(encoding="utf-8", errors="replace")
        sys.exit(f"vLLM failed with exit code {done.returncode}:\n{text[-8000:]}")
    return dict(json.loads((place / "answers.json").read_text(encoding="utf-8")))


def is_near_tie(ours: Sequence[int], theirs: Mapping[str, Any]) -> bool:
    """Whether our token is, at the first that differs, the second best of theirs and as good as the best."""
    for mine, step in zip(ours, theirs["best"], strict=False):
        (best, high), *rest = step
        if mine != best:
            return any(mine == other and high - low < NEAR for other, low in rest)
    return False  # one is the beginning of the other


def largest_difference(pairs: Sequence[tuple[dict[str, Any], dict[str, Any]]]) -> float:
    """Of the log probabilities of tokens on which both agree, up to the first on which they do not."""
    worst = 0.0
    for ours, theirs in pairs:
        for mine, value, step in zip(ours["ids"], ours["logprobs"], theirs["best"], strict=False):
            if step[0][0] != mine:
                break
            worst = max(worst, abs(value - step[0][1]))
    return worst


if __name__ == "__main__":
    main()
