"""Put a trained molmo-nano into the package: float16 weights, configuration and tokenizer in one folder.

python scripts/pack_nano.py runs/nano_wide/final
"""

from __future__ import annotations

import sys
from pathlib import Path

from olmo.models.auto import from_pretrained

TARGET = Path(__file__).resolve().parents[1] / "olmo" / "models" / "nano"
LIMIT_BYTES = 16 * 1024 * 1024


def main(trained: Path) -> None:
    """Write the bundled model from a trained checkpoint."""
    model = from_pretrained(trained, dtype="float16")
    model.save_checkpoint(TARGET, sharded=False)
    size = sum(p.stat().st_size for p in TARGET.rglob("*") if p.is_file())
    if size > LIMIT_BYTES:
        raise SystemExit(f"{TARGET} takes {size} bytes; the repository allows {LIMIT_BYTES}")
    print(f"{model.num_params():,} parameters, {size:,} bytes in {TARGET}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
