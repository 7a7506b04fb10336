"""Two tokenizers of the kinds that FLUX uses, made from the world's own captions; no hub involved."""

import re
import string
from collections import Counter
from itertools import pairwise
from typing import Any

from transformers import CLIPTokenizer, T5Tokenizer

from srpo.tiny import world

MAX_LENGTH = 16  # the longest caption has 13 tokens with start and end
_START, _END, _WORD_END = "<|startoftext|>", "<|endoftext|>", "</w>"


def captions() -> list[str]:
    """Every caption of the world in every style."""
    words = (None, *world.POSITIVE_WORDS, *world.NEGATIVE_WORDS)
    templates = range(len(world.TEMPLATES))
    return [world.caption(scene, t, word) for scene in world.all_scenes() for t in templates for word in words]


def clip_tokenizer() -> CLIPTokenizer:
    """Byte-level BPE, merged until every word of the world is one token."""
    words = sorted({word for text in captions() for word in re.findall(r"[a-z]+|[^a-z\s]+", text.lower())})
    merges: Any = learn_merges(words)  # pairs, which CLIPTokenizer takes and does not declare
    alphabet = string.ascii_lowercase + string.digits + "'+,-./!?"
    # A word's last piece carries the mark. Single characters are all there, so that no prompt is without tokens.
    pieces = [_START, _END, *alphabet, *(letter + _WORD_END for letter in alphabet)]
    pieces += [left + right for left, right in merges]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=MAX_LENGTH)


def learn_merges(words: list[str]) -> list[tuple[str, str]]:
    """Byte-pair merges that make each word one piece: the most frequent pair first, ties by the alphabet.

    By hand, because the trainer of the `tokenizers` package breaks ties differently in every process.
    """
    spelt = [[*word[:-1], word[-1] + _WORD_END] for word in words]
    merges = []
    while pairs := Counter(pair for pieces in spelt for pair in pairwise(pieces)):
        left, right = best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        for pieces in spelt:
            for i in range(len(pieces) - 2, -1, -1):
                if pieces[i : i + 2] == [left, right]:
                    pieces[i : i + 2] = [left + right]
    return merges


def t5_tokenizer(**options: object) -> T5Tokenizer:
    """A unigram list with one piece per word; other words become <unk>."""
    words = sorted({word for text in captions() for word in text.split()})
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -9.0)]
    pieces += [(f"▁{word}", -1.0) for word in words]
    return T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=MAX_LENGTH, **options)


def siglip_tokenizer() -> T5Tokenizer:
    """The word list again, without an attention mask: SigLIP reads its padding, so it is always the same."""
    return t5_tokenizer(model_input_names=["input_ids"])
