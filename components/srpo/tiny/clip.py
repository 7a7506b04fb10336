"""The reward: a CLIPModel that scores images of the tiny world against captions. Its text tower also serves FLUX."""

import json
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTextModel, CLIPVisionConfig

from srpo.tiny import tokenizers
from srpo.tiny.recipes import Recipe
from srpo.tiny.training import fit, make_pool, measure_scorer, round_to_bf16

IMAGE_SIZE = 32
# Those of the released CLIP models.
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
PREPROCESSOR = {
    "image_processor_type": "CLIPImageProcessor",
    "do_convert_rgb": True,
    "do_resize": True,
    "size": {"shortest_edge": IMAGE_SIZE},
    "resample": 3,
    "do_center_crop": True,
    "crop_size": {"height": IMAGE_SIZE, "width": IMAGE_SIZE},
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": MEAN,
    "image_std": STD,
}


def build(seed: int) -> CLIPModel:
    """Random weights. Text: 2 layers of 64; vision: 3 layers of 96 over 4 x 4 patches."""
    torch.manual_seed(seed)
    tokenizer = tokenizers.clip_tokenizer()
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=tokenizers.MAX_LENGTH,
        projection_dim=64,
        # From the tokenizer: with the default eos id, 2, the model pools at the largest token id instead.
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    vision = CLIPVisionConfig(
        hidden_size=96,
        intermediate_size=384,
        num_hidden_layers=3,
        num_attention_heads=4,
        image_size=IMAGE_SIZE,
        patch_size=4,
        projection_dim=64,
    )
    return CLIPModel(CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=64))


def normalise(pixels: Tensor) -> Tensor:
    """[N, 3, 32, 32] in [0, 1] to what the vision tower expects."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    return (pixels - mean) / std


def token_ids(captions: list[str]) -> Tensor:
    """int64 [N, 16], padded."""
    tokenizer = tokenizers.clip_tokenizer()
    return tokenizer(captions, padding="max_length", return_tensors="pt").input_ids


def image_features(model: CLIPModel, pixels: Tensor) -> Tensor:
    """Unit features [N, 64] of pixels [N, 3, 32, 32] in [0, 1]."""
    return F.normalize(model.get_image_features(pixel_values=normalise(pixels)).pooler_output, dim=-1)


def text_features(model: CLIPModel, ids: Tensor) -> Tensor:
    """Unit features [N, 64] of token ids [N, 16]."""
    return F.normalize(model.get_text_features(input_ids=ids).pooler_output, dim=-1)


def train(model: CLIPModel, recipe: Recipe) -> dict[str, float]:
    """Contrastive training (softmax over the batch, both ways)."""
    pool = make_pool(recipe.seed, recipe.examples)
    ids = token_ids(pool.captions)
    targets = torch.arange(recipe.batch)

    def loss(indices: Tensor, generator: torch.Generator) -> Tensor:
        image, text = image_features(model, pool.pixels[indices]), text_features(model, ids[indices])
        logits = model.logit_scale.exp() * image @ text.T
        return (F.cross_entropy(logits, targets) + F.cross_entropy(logits.T, targets)) / 2

    final = fit("reward", recipe, model.parameters(), loss)
    round_to_bf16(model)
    fresh = make_pool(recipe.seed + 1000, 480)
    image = image_features(model, fresh.pixels)
    return {"loss": final, **measure_scorer(fresh, image, lambda texts: text_features(model, token_ids(texts)))}


def save(model: CLIPModel, path: Path) -> None:
    """Everything a released CLIP reward has: weights, tokenizer, preprocessor."""
    model.bfloat16().save_pretrained(path)
    tokenizers.clip_tokenizer().save_pretrained(path)
    (path / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR, indent=2) + "\n")


def text_tower(model: CLIPModel) -> CLIPTextModel:
    """The reward's text tower as the pooled text encoder of FLUX."""
    tower = CLIPTextModel(model.text_model.config)
    tower.load_state_dict(model.text_model.state_dict())
    return tower.eval().requires_grad_(False)
