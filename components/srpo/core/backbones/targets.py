"""The matrices that a LoRA adapter is put beside. Needs no torch."""

from collections.abc import Iterable
from pathlib import Path

from srpo.core.contracts.config import nearest
from srpo.core.contracts.errors import InputError
from srpo.core.storage.tensor_files import specs_of


def check_targets(targets: Iterable[str], transformer: Path) -> None:
    """Refuse a target of the adapter that no matrix of the transformer in this folder bears.

    Raises:
        InputError: names the target, and names that are there.
    """
    matrices = [spec.name for spec in specs_of(transformer) if spec.name.endswith(".weight") and len(spec.shape) == 2]
    for target in targets:
        if not any(f".{name}".endswith(f".{target}.weight") for name in matrices):
            known = sorted({name.split(".", 2)[-1].removesuffix(".weight") for name in matrices if "blocks." in name})
            raise InputError(
                f"train.lora_targets has {target!r}, which no matrix of the transformer is called"
                f"{nearest(target, known)}: it must be the end of a name, as {', '.join(known[:4])}"
            )
