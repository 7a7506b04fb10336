"""The held-out reward: a SiglipModel with its own seed and draw of data. It judges; nothing is trained on it."""

import json
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import SiglipConfig, SiglipModel

from srpo.tiny import tokenizers, world
from srpo.tiny.recipes import Recipe
from srpo.tiny.training import fit, make_pool, measure_scorer, round_to_bf16

IMAGE_SIZE = 32
# Its captions without a control word come with every style alike. So its score of a plain caption speaks of
# content and hardly of style: a model that turns realistic keeps it, one that loses the scene does not.
FLAT_SHARE = world.PLAIN_FLAT_TO
PREPROCESSOR = {
    "image_processor_type": "SiglipImageProcessor",
    "do_convert_rgb": True,
    "do_resize": True,
    "size": {"height": IMAGE_SIZE, "width": IMAGE_SIZE},
    "resample": 3,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}


def build(seed: int) -> SiglipModel:
    """Random weights. Text and vision: 2 layers of 64 each, 4 x 4 patches, attention pooling."""
    torch.manual_seed(seed)
    tokenizer = tokenizers.siglip_tokenizer()
    tower = {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4}
    text = {
        **tower,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": tokenizers.MAX_LENGTH,
        "projection_size": 64,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = {**tower, "image_size": IMAGE_SIZE, "patch_size": 4}
    model = SiglipModel(SiglipConfig(text_config=text, vision_config=vision))
    # The paper's start: a strong negative bias, as nearly all pairs of a batch do not belong together.
    with torch.no_grad():
        model.logit_scale.fill_(2.3)
        model.logit_bias.fill_(-4.0)
    return model


def token_ids(captions: list[str]) -> Tensor:
    """int64 [N, 16]: always padded to 16, as the text tower pools at the last position."""
    tokenizer = tokenizers.siglip_tokenizer()
    return tokenizer(captions, padding="max_length", return_tensors="pt").input_ids


def image_features(model: SiglipModel, pixels: Tensor) -> Tensor:
    """Unit features [N, 64] of pixels [N, 3, 32, 32] in [0, 1]."""
    return F.normalize(model.get_image_features(pixel_values=pixels * 2 - 1).pooler_output, dim=-1)


def text_features(model: SiglipModel, ids: Tensor) -> Tensor:
    """Unit features [N, 64] of token ids [N, 16]."""
    return F.normalize(model.get_text_features(input_ids=ids).pooler_output, dim=-1)


def train(model: SiglipModel, recipe: Recipe) -> dict[str, float]:
    """Pairwise sigmoid loss over all pairs of the batch."""
    pool = make_pool(recipe.seed, recipe.examples, FLAT_SHARE)
    ids = token_ids(pool.captions)

    def loss(indices: Tensor, generator: torch.Generator) -> Tensor:
        image, text = image_features(model, pool.pixels[indices]), text_features(model, ids[indices])
        logits = model.logit_scale.exp() * image @ text.T + model.logit_bias
        # The same caption twice in a batch belongs to both images.
        same = (ids[indices][:, None] == ids[indices][None]).all(-1)
        return -F.logsigmoid(torch.where(same, logits, -logits)).sum() / recipe.batch

    final = fit("held-out reward", recipe, model.parameters(), loss)
    round_to_bf16(model)
    fresh = make_pool(recipe.seed + 1000, 480, FLAT_SHARE)
    image = image_features(model, fresh.pixels)
    return {"loss": final, **measure_scorer(fresh, image, lambda texts: text_features(model, token_ids(texts)))}


def save(model: SiglipModel, path: Path) -> None:
    """Weights, tokenizer, preprocessor."""
    model.bfloat16().save_pretrained(path)
    tokenizers.siglip_tokenizer().save_pretrained(path)
    (path / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR, indent=2) + "\n")
