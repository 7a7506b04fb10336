"""FLUX.1-dev, HPSv2.1 and PickScore in their true shapes and released forms, with few blocks and random weights.

Widths, configurations, classes, file names, dtypes and sharded files are those that are published; only the number of
blocks is not, so that a machine without a GPU can hold and train it.
"""

import shutil
from pathlib import Path

import torch
import yaml
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
from open_clip_models import open_clip, vocabulary
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

LAYERS = 1  # of each text and image encoder
# Of the transformer. A double block would need 6 GB more in training: 16 bytes for each of its parameters, and copies.
DOUBLE_BLOCKS, SINGLE_BLOCKS = 0, 1


def write_models(folder: Path) -> Path:
    """Write all three below ``folder``; returns a catalogue that gives them their published names."""
    folder.mkdir()
    write_flux(folder / "flux")
    write_hps(folder / "hps")
    write_pickscore(folder / "pickscore", folder / "hps")
    tokenizer = {"source": "hps", "files": ["vocab.json", "merges.txt"]}
    hps = {"source": "hps", "files": ["HPS_v2.1_compressed.pt"], "also": [tokenizer], "convert": "hpsv2"}
    catalogue = {
        "base": {"black-forest-labs/FLUX.1-dev": {"source": "flux", "licence": "flux-1-dev-non-commercial-license"}},
        "rewards": {
            "hpsv2.1": hps | {"licence": "Apache-2.0"},
            "pickscore": {"source": "pickscore", "licence": "MIT"},
        },
    }
    (folder / "models.yaml").write_text(yaml.safe_dump(catalogue), encoding="utf-8")
    return folder / "models.yaml"


def write_flux(folder: Path) -> None:
    """The pipeline as it is on the hub: bfloat16, the large weights in several files with an index."""
    transformer = random_weights(
        lambda: FluxTransformer2DModel(
            num_layers=DOUBLE_BLOCKS,
            num_single_layers=SINGLE_BLOCKS,
            attention_head_dim=128,
            num_attention_heads=24,
            joint_attention_dim=4096,
            pooled_projection_dim=768,
            guidance_embeds=True,
        )
    )
    vae = random_weights(
        lambda: AutoencoderKL(
            block_out_channels=(128, 256, 512, 512),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
            latent_channels=16,
            sample_size=1024,
            scaling_factor=0.3611,
            shift_factor=0.1159,
            use_quant_conv=False,
            use_post_quant_conv=False,
        )
    )
    clip = random_weights(
        lambda: CLIPTextModel(
            CLIPTextConfig(
                hidden_size=768,
                intermediate_size=3072,
                num_attention_heads=12,
                num_hidden_layers=LAYERS,
                bos_token_id=0,
                eos_token_id=2,
            )
        )
    )
    t5 = random_weights(
        lambda: T5EncoderModel(
            T5Config(
                vocab_size=32128,
                d_model=4096,
                d_kv=64,
                d_ff=10240,
                num_heads=64,
                num_layers=LAYERS,
                feed_forward_proj="gated-gelu",
            )
        )
    )
    scheduler = FlowMatchEulerDiscreteScheduler(
        shift=3.0, use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15, base_image_seq_len=256
    )
    words = folder / "tokenizer"
    words.mkdir(parents=True)
    vocabulary(words)
    clip_tokenizer = CLIPTokenizer.from_pretrained(words, model_max_length=77)
    pipeline = FluxPipeline(scheduler, vae, clip, clip_tokenizer, t5, t5_tokenizer(), transformer)
    pipeline.save_pretrained(folder, max_shard_size="200MB")
    (words / "tokenizer.json").unlink()  # the hub has the vocabulary and the merges
    assert len(list((folder / "transformer").glob("*.safetensors"))) > 1


def t5_tokenizer() -> T5Tokenizer:
    """A word list of the size of T5's: the words of the prompts, and fillers that no prompt has."""
    text = "a the of in on at with and photo painting cat dog house mountain lake city night morning old red"
    words = text.split()
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -9.0), *((f"▁{word}", -1.0) for word in words)]
    pieces += [(f"filler{number}", -20.0) for number in range(32000 - len(pieces))]
    return T5Tokenizer(vocab=pieces, extra_ids=100, model_max_length=512)


def write_hps(folder: Path) -> None:
    """HPSv2.1 as it is released: open_clip's ViT-H/14 in a `.pt`; and the tokenizer of laion's."""
    folder.mkdir()
    config = open_clip().get_model_config("ViT-H-14")
    config["vision_cfg"]["layers"] = config["text_cfg"]["layers"] = LAYERS
    torch.manual_seed(1)
    model = open_clip().CLIP(**config)
    torch.save({"epoch": 1, "state_dict": model.state_dict()}, folder / "HPS_v2.1_compressed.pt")
    vocabulary(folder)


def write_pickscore(folder: Path, words: Path) -> None:
    """PickScore as it is released: a transformers CLIP of the shape of ViT-H/14."""
    text = {"hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16, "hidden_act": "gelu"}
    vision = {"hidden_size": 1280, "intermediate_size": 5120, "num_attention_heads": 16, "hidden_act": "gelu"}
    layers = {"num_hidden_layers": LAYERS}
    config = CLIPConfig(
        projection_dim=1024, text_config=text | layers, vision_config=vision | layers | {"patch_size": 14}
    )
    torch.manual_seed(2)
    CLIPModel(config).save_pretrained(folder)
    CLIPImageProcessor().save_pretrained(folder)
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(words / name, folder / name)
    CLIPTokenizer.from_pretrained(words, model_max_length=77).save_pretrained(folder)


def random_weights(make):
    """The model that ``make`` makes, in bfloat16: matrices random, norms 1, biases 0; without a float32 copy of it."""
    with torch.device("meta"):
        model = make().to(torch.bfloat16)
    model.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if value.ndim > 1:
                value.normal_(0, 0.02, generator=generator)
            else:
                value.fill_(float("norm" in name and name.endswith("weight")))
    if hasattr(model, "tie_weights"):
        model.tie_weights()
    return model.eval()
