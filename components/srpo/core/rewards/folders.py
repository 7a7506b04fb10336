"""Reward folders: which kind of reward one holds, and what that kind can be used for. Needs no torch."""

import json
from pathlib import Path

from srpo.core.contracts.errors import InputError, require

DUAL_ENCODERS = ("clip", "siglip")  # image and text meet in a cosine: text features are computed once
IMAGE_ONLY = ("aesthetic",)  # no text at all
JOINT = ("image_reward",)  # image and text attend to each other: no text feature
# Raise it when a conversion (srpo.core.rewards.convert) writes something else than before: caches keep what they have
# converted, and take up a released file again only under another number.
CONVERSION = 1
KINDS = (*DUAL_ENCODERS, *IMAGE_ONLY, *JOINT)


def check_reward_folder(folder: Path) -> str:
    """The kind of a reward folder (``model_type``); raises :class:`InputError` when it is none that can be loaded."""
    try:
        kind = json.loads((folder / "config.json").read_text(encoding="utf-8"))["model_type"]
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(f"reward folder {str(folder)!r} has no readable config.json") from None
    require(kind in KINDS, f"model_type in {str(folder)!r}", kind, f"one of {', '.join(sorted(KINDS))}")
    return str(kind)
