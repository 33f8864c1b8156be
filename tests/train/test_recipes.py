"""Every recipe in configs/ loads, and says the numbers it claims to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from olmo.models.molmo.molmo import MolmoConfig
from olmo.models.video_olmo.video_olmo_config import VideoOlmoConfig
from olmo.train.train_config import TrainConfig

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


def is_recipe(path: Path) -> bool:
    return "run_dir" in (yaml.safe_load(path.read_text(encoding="utf-8")) or {})


RECIPES = sorted(path for path in CONFIGS.rglob("*.yaml") if is_recipe(path))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: str(path.relative_to(CONFIGS)))
def test_a_recipe_loads_with_its_model(path: Path) -> None:
    config = TrainConfig.load(path)
    if config.model is not None:
        MolmoConfig.load(path.parent / config.model, config.model_overrides)


def test_every_mode_has_a_full_and_a_debug_size() -> None:
    names = {str(path.relative_to(CONFIGS)) for path in RECIPES}
    assert {f"{folder}{mode}.yaml" for folder in ("", "debug/") for mode in MODES} <= names


MODES = ("pretrain", "multitask", "instruct", "finetune", "video")


@pytest.mark.parametrize(
    ("mode", "batch", "length", "rates", "warmups"),
    [
        ("pretrain", 128, {"epochs": 4.0}, (2e-4, 6e-6, 2e-5), (200, 2000, 2000)),
        ("multitask", 256, {"max_steps": 30_000}, (5e-6, 5e-6, 1e-5), (200, 200, 200)),
        ("instruct", 128, {"max_steps": 2_000}, (5e-6, 5e-6, 1e-5), (200, 200, 200)),
        ("video", 64, {"max_steps": 8_000}, (5e-6, 5e-6, 1e-5), (200, 200, 200)),
    ],
)
def test_full_recipes_have_the_paper_s_numbers(
    mode: str, batch: int, length: dict[str, Any], rates: tuple[float, ...], warmups: tuple[int, ...]
) -> None:
    config = TrainConfig.load(CONFIGS / f"{mode}.yaml")
    parts = [config.optimizer.connector, config.optimizer.vit, config.optimizer.llm]
    assert config.batch_size == batch and {name: getattr(config, name) for name in length} == length
    assert tuple(p.lr for p in parts) == rates and tuple(p.warmup_steps for p in parts) == warmups
    optimizer = config.optimizer
    assert (optimizer.beta1, optimizer.beta2, optimizer.eps, optimizer.weight_decay) == (0.9, 0.95, 1e-6, 0.0)
    assert (optimizer.clip_norm, optimizer.final_lr_ratio, config.z_loss) == (1.0, 0.1, 1e-4)
    assert optimizer.is_embedding_frozen and config.precision == "amp_bf16" and config.sequence_length == 2304


def test_dropout_and_prompts_of_the_modes() -> None:
    pretrain, multitask = (
        MolmoConfig.load(CONFIGS / "molmo-7b-d.yaml", TrainConfig.load(CONFIGS / f"{mode}.yaml").model_overrides)
        for mode in ("pretrain", "multitask")
    )
    assert (pretrain.llm.residual_dropout, pretrain.llm.response_residual_dropout) == (0.0, 0.1)
    assert (multitask.llm.residual_dropout, multitask.llm.response_residual_dropout) == (0.1, 0.0)
    assert pretrain.data_formatter.system_prompt == "style_and_length"
    assert multitask.data_formatter.loss_token_weighting == "root_subsegments"
    assert [g.weight for g in TrainConfig.load(CONFIGS / "multitask.yaml").data.groups] == [0.15, 0.5, 0.35]


def test_fine_tuning_keeps_to_the_documents_practice() -> None:
    """Promise 37: rates of 1e-6 to 1e-5, the ViT frozen first, overfitting watched."""
    config = TrainConfig.load(CONFIGS / "finetune.yaml")
    parts = [config.optimizer.connector, config.optimizer.vit, config.optimizer.llm]
    assert all(1e-6 <= part.lr <= 1e-5 for part in parts)
    assert config.optimizer.vit.first_step > 0
    assert config.watch.overfitting is not None and config.evaluation is not None


def test_video_tuning_mixes_captions_questions_and_choices() -> None:
    config = TrainConfig.load(CONFIGS / "video.yaml")
    assert [group.weight for group in config.data.groups] == [0.4, 0.4, 0.2]
    for group, fields, split in zip(
        config.data.groups, ("cap", "oe", "mc"), ("caption", "open_ended", "multi_choice"), strict=True
    ):
        assert {(source.fields, source.split) for source in group.sources} == {(f"llava_video_{fields}", split)}
        assert len({source.subset for source in group.sources}) == 8
    model = MolmoConfig.load(CONFIGS / config.model, config.model_overrides)
    assert isinstance(model, VideoOlmoConfig) and (model.max_frames, model.frame_sampling) == (16, "uniform")
