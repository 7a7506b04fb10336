"""Two tokenizers of the kinds that FLUX uses, made from the world's own captions; no hub involved."""

import json

from tokenizers import Tokenizer, models, trainers
from transformers import CLIPTokenizer, T5TokenizerFast

from srpo.tiny import world

MAX_LENGTH = 16  # the longest caption has 13 tokens with start and end
_START, _END = "<|startoftext|>", "<|endoftext|>"


def captions() -> list[str]:
    """Every caption of the world in every style."""
    words = (None, *world.POSITIVE_WORDS, *world.NEGATIVE_WORDS)
    templates = range(len(world.TEMPLATES))
    return [world.caption(scene, t, word) for scene in world.all_scenes() for t in templates for word in words]


def clip_tokenizer() -> CLIPTokenizer:
    """Byte-level BPE, merged until every word of the world is one token."""
    frame = CLIPTokenizer().backend_tokenizer
    learner = Tokenizer(models.BPE(unk_token=_END, end_of_word_suffix="</w>"))
    learner.normalizer, learner.pre_tokenizer = frame.normalizer, frame.pre_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=1000, special_tokens=[_START, _END], end_of_word_suffix="</w>", show_progress=False
    )
    learner.train_from_iterator(captions(), trainer)
    learnt = json.loads(learner.to_str())["model"]
    merges = [tuple(pair) for pair in learnt["merges"]]
    return CLIPTokenizer(vocab=learnt["vocab"], merges=merges, model_max_length=MAX_LENGTH)


def t5_tokenizer(**options: object) -> T5TokenizerFast:
    """A unigram list with one piece per word; other words become <unk>."""
    words = sorted({word for text in captions() for word in text.split()})
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -9.0)]
    pieces += [(f"▁{word}", -1.0) for word in words]
    return T5TokenizerFast(vocab=pieces, extra_ids=0, model_max_length=MAX_LENGTH, **options)


def siglip_tokenizer() -> T5TokenizerFast:
    """The word list again, without an attention mask: SigLIP reads its padding, so it is always the same."""
    return t5_tokenizer(model_input_names=["input_ids"])
