"""The embedded default: a procedural world of captioned images, and a tiny FLUX pipeline with rewards made from it."""

from pathlib import Path

# flux/, reward/, held_out/, judge/ and manifest.json, as `python -m srpo.tiny.make` wrote them.
WEIGHTS = Path(__file__).parent / "weights"
