"""How long prompts are in tokens of the base model's text encoders, counted without torch."""

import json
from pathlib import Path
from typing import NamedTuple

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

from srpo.core.contracts.errors import InputError

FOLDERS = ("tokenizer", "tokenizer_2")  # of a diffusers pipeline; the last one's encoder has a state a token
NO_LIMIT = 2**31 - 1  # transformers writes 10^30 for it, which no table of ours can hold
START, END = "<|startoftext|>", "<|endoftext|>"  # of CLIP
# How the two kinds of tokenizers that pipelines keep as bare vocab.json and merges.txt cut a text before merging.
CLIP = r"'(?:[stmd]|re|ve|ll)|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"
QWEN = (
    r"(?i:'(?:[stmd]|re|ve|ll))|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


class Encoder(NamedTuple):
    """A tokenizer and how many tokens its encoder takes."""

    name: str
    tokenizer: Tokenizer
    limit: int

    def lengths(self, texts: list[str]) -> list[int]:
        """Tokens of each text, with those that mark its start and end."""
        return [len(encoding.ids) for encoding in self.tokenizer.encode_batch(texts)]


def load(folder: Path) -> list[Encoder]:
    """The tokenizers of a diffusers pipeline.

    Raises:
        InputError: the folder has none, or one that the `tokenizers` library cannot read.
    """
    encoders = [_load(folder / name) for name in FOLDERS if (folder / name).is_dir()]
    if not encoders:
        raise InputError(f"model folder {str(folder)!r} has no tokenizer: it must have one of {', '.join(FOLDERS)}")
    return encoders


def _load(folder: Path) -> Encoder:
    try:
        settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
        if (folder / "tokenizer.json").is_file():
            tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        else:
            kind = str(settings.get("tokenizer_class")).removesuffix("Fast")
            make = {"CLIPTokenizer": _clip, "Qwen2Tokenizer": _qwen}.get(kind)
            if make is None:
                raise InputError(
                    f"tokenizer {str(folder)!r} is of the class {kind} and has no tokenizer.json: it must have one"
                )
            tokenizer = make(str(folder / "vocab.json"), str(folder / "merges.txt"))
    except InputError:
        raise
    except Exception as error:  # the library raises Exception itself
        raise InputError(f"tokenizer {str(folder)!r} cannot be read: {error}") from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return Encoder(folder.name, tokenizer, min(int(settings.get("model_max_length") or NO_LIMIT), _positions(folder)))


def _positions(folder: Path) -> int:
    """How many tokens the encoder of the tokenizer in ``folder`` has places for: some tokenizers name no limit."""
    settings = folder.with_name(folder.name.replace("tokenizer", "text_encoder")) / "config.json"
    try:
        return int(json.loads(settings.read_text(encoding="utf-8"))["max_position_embeddings"])
    except (OSError, ValueError, KeyError, TypeError):
        return NO_LIMIT


def _clip(vocabulary: str, merges: str) -> Tokenizer:
    model = models.BPE.from_file(vocabulary, merges, end_of_word_suffix="</w>", unk_token=END)
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(CLIP), "removed", invert=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    ids = {name: int(tokenizer.token_to_id(name) or 0) for name in (START, END)}
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{START} $A {END}", special_tokens=list(ids.items())
    )
    return tokenizer


def _qwen(vocabulary: str, merges: str) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE.from_file(vocabulary, merges))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    return tokenizer
