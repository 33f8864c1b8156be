"""Draw the clips that ship with the project: the one of `molmo demo` and the one in `examples/clips`.

Both are moving scenes from seeds of the evaluation range, which no training clip has, kept as animated WebP without
loss, so that showing them needs no video decoder. Run it again after changing a seed or the generator:

    python scripts/build_demo_clip.py
"""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
from PIL import Image, ImageSequence

from olmo.data.scenes.moving import MovingScene, MovingScenesConfig, MovingTask, make_moving_question, make_moving_scene
from olmo.data.scenes.moving.dataset import moving_question_rng

ROOT = Path(__file__).resolve().parent.parent
DEMO_SEED, EXAMPLE_SEED = 2_000_001_526, 2_000_001_515
SIDE_PX = 336
MAX_BYTES = 300_000
TASKS = (MovingTask.describing, MovingTask.order, MovingTask.action)


def main() -> None:
    """Write both clips, and the questions of the demo with their true answers."""
    config = MovingScenesConfig(image_size=SIDE_PX)
    assets = ROOT / "olmo" / "cli" / "assets"
    demo = make_moving_scene(DEMO_SEED, config)
    save_clip(demo, assets / "demo_clip.webp")
    save_clip(make_moving_scene(EXAMPLE_SEED, config), ROOT / "examples" / "clips" / "moving.webp")
    rng = moving_question_rng(DEMO_SEED)
    asked = [question for task in TASKS if (question := make_moving_question(demo, rng, task)) is not None]
    if len(asked) != len(TASKS):
        raise SystemExit(f"the clip of seed {DEMO_SEED} offers no question of some task; choose another seed")
    content = {"seed": DEMO_SEED, "questions": [q.prompt for q in asked], "answers": [q.answer for q in asked]}
    (assets / "demo_clip.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def save_clip(scene: MovingScene, path: Path) -> None:
    """Write the frames of a scene as an animated WebP, and check that it reads back as they were."""
    frames = [Image.fromarray(frame) for frame in scene.frames]
    shown_ms = round(1000 * (scene.seconds[1] - scene.seconds[0]))
    data = io.BytesIO()
    frames[0].save(data, "WEBP", save_all=True, append_images=frames[1:], duration=shown_ms, lossless=True, method=6)
    read = [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(Image.open(data))]
    if len(read) != len(frames) or not np.array_equal(np.stack(read), scene.frames):
        raise SystemExit(
            f"the {len(frames)} frames of seed {scene.seed} come back as {len(read)}: the encoder joins equal ones; "
            "choose a seed where every frame differs from the one before"
        )
    if data.tell() > MAX_BYTES:
        raise SystemExit(
            f"the clip of seed {scene.seed} takes {data.tell():,} bytes, over {MAX_BYTES:,}; choose another"
        )
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data.getvalue())


if __name__ == "__main__":
    main()
