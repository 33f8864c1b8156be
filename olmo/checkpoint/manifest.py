"""The marker of a complete checkpoint: JSON with the size and the SHA-256 of every file, written after all of them.

    {"files": {"config.yaml": 812, ...}, "sha256": {"config.yaml": "9f86d0...", ...}}

A folder without it is not a checkpoint. Older checkpoints have no "sha256"; their files are compared by size.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from olmo.exceptions import OLMoCheckpointError
from olmo.io import sync_to_disk

COMPLETE = "COMPLETE"

_READ_BYTES = 2**24


@dataclass(frozen=True)
class Manifest:
    """What a checkpoint consists of.

    Attributes:
        files: size in bytes by name relative to the folder.
        sha256: checksum as hexadecimal digits by name.
    """

    files: Mapping[str, int] = field(default_factory=dict)
    sha256: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, folder: Path, names: Iterable[str]) -> Manifest:
        """Measure some files of a folder, and have the disk hold them."""
        files, sums = {}, {}
        for name in names:
            sync_to_disk(folder / name)
            files[name], sums[name] = (folder / name).stat().st_size, checksum(folder / name)
        return cls(files, sums)

    @classmethod
    def merged(cls, parts: Iterable[Mapping[str, Mapping[str, str]]]) -> Manifest:
        """One from the plain form of several."""
        files: dict[str, int] = {}
        sums: dict[str, str] = {}
        for part in parts:
            files |= {name: int(size) for name, size in part["files"].items()}
            sums |= part["sha256"]
        return cls(dict(sorted(files.items())), dict(sorted(sums.items())))

    @classmethod
    def parse(cls, text: str, where: object) -> Manifest:
        """Read the content of a marker.

        Raises:
            OLMoCheckpointError: it is not what `text` of this class writes.
        """
        try:
            values = json.loads(text)
            files = {str(name): int(size) for name, size in values["files"].items()}
            return cls(files, {str(name): str(digits) for name, digits in values.get("sha256", {}).items()})
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise OLMoCheckpointError(f"{where} cannot be read ({error}); copy the checkpoint again") from None

    @classmethod
    def read(cls, folder: Path) -> Manifest | None:
        """The marker of a folder; None where there is none."""
        marker = folder / COMPLETE
        return cls.parse(marker.read_text(encoding="utf-8"), marker) if marker.is_file() else None

    def plain(self) -> dict[str, dict[str, int] | dict[str, str]]:
        """Plain values, ready for JSON."""
        return {"files": dict(self.files), "sha256": dict(self.sha256)}

    def text(self) -> str:
        """The content of a marker."""
        return json.dumps(self.plain(), indent=1)

    def damage(self, folder: Path, names: Iterable[str] | None = None) -> list[str]:
        """What is wrong with files of a folder, a sentence each.

        Args:
            folder: folder they are in.
            names: files to look at; None for all.
        """
        found = []
        for name in self.files if names is None else names:
            file = folder / name
            if not file.is_file():
                found.append(f"{name} is missing")
            elif file.stat().st_size != self.files[name]:
                found.append(f"{name} has {file.stat().st_size} bytes instead of {self.files[name]}")
            elif name in self.sha256 and checksum(file) != self.sha256[name]:
                found.append(f"{name} has another checksum than when it was written")
        return found


def checksum(file: Path) -> str:
    """SHA-256 of a file as hexadecimal digits, as `sha256sum` prints it."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(_READ_BYTES):
            digest.update(block)
    return digest.hexdigest()
