"""Put a trained molmo-nano into the package: float16 weights, configuration and tokenizer in one folder.

python scripts/pack_nano.py runs/nano_wide/final
python scripts/pack_nano.py runs/he_nano_final             a HeMolmo, beside the other
python scripts/pack_nano.py runs/nano_clips/final          a VideoOlmo, the third
"""

from __future__ import annotations

import sys
from pathlib import Path

from olmo.models.auto import from_pretrained
from olmo.models.he_molmo.he_molmo import HeMolmo
from olmo.models.video_olmo.video_olmo import VideoOlmo

MODELS = Path(__file__).resolve().parents[1] / "olmo" / "models"
LIMIT_BYTES, VIDEO_LIMIT_BYTES = 16 * 1024 * 1024, 32 * 1024 * 1024


def main(trained: Path) -> None:
    """Write a bundled model from a trained checkpoint."""
    model = from_pretrained(trained, dtype="float16")
    folders = {HeMolmo: "nano_he", VideoOlmo: "nano_video"}
    target = MODELS / folders.get(type(model), "nano")
    model.save_checkpoint(target, sharded=False)
    size = sum(p.stat().st_size for p in target.rglob("*") if p.is_file())
    limit = VIDEO_LIMIT_BYTES if isinstance(model, VideoOlmo) else LIMIT_BYTES
    if size > limit:
        raise SystemExit(f"{target} takes {size} bytes; the repository allows {limit}")
    print(f"{model.num_params():,} parameters, {size:,} bytes in {target}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
