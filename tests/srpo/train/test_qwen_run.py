"""The stages from a folder of a QwenImagePipeline to images of the trained model, which plain diffusers makes too."""

import json

import numpy as np
from diffusers import QwenImageTransformer2DModel
from PIL import Image
from qwen_models import small_pipeline
from tiny_runs import TRAIN, TinyRun

from srpo.core.backbones.conditioning import read_conditioning
from srpo.core.backbones.qwen_image import QwenImage
from srpo.core.contracts.tensors import EmbeddingsReader
from srpo.core.execution.stage import whole_artifact
from srpo.core.objective import draws


def test_a_folder_of_qwen_image_is_trained_and_diffusers_loads_the_result(tmp_path):
    pipeline = small_pipeline()
    pipeline.save_pretrained(tmp_path / "qwen")
    run, drawn = TinyRun(tmp_path), {"train_prompts": 4}
    # The recipe's settings for the method, with true guidance; everything else is cut down.
    recipe = {"branches": "denoise", "k_denoise": [0.0, 0.0], "loss": "reward", "late_weighting": True}
    cut = {"steps": 1, "guidance": 3.5, "gradient_checkpointing": "always", "guard_tolerance": 2.0}
    made = ("models", "prompts", "embeddings", "text_features")
    for name, config, inputs, output in (
        ("prepare_prompts", {"train_prompts": 6, "held_out_prompts": 2}, (), "prompts"),
        ("fetch_base", {"model": str(tmp_path / "qwen")}, (), "models"),
        ("cache_rewards", drawn, ("models", "prompts"), "text_features"),
        ("encode_prompts", drawn | {"dtype": "float32"}, ("models", "prompts"), "embeddings"),
        ("train", TRAIN | recipe | cut | {"sigma_high": 0.9, "sigma_low": 0.2, "guard_drift": 1e9}, made, "checkpoint"),
        (
            "sample",
            {"resolution": 32, "steps": 4, "noises": 1, "max_prompts": 2, "compute_dtype": "float32"},
            (*made, "checkpoint"),
            "samples",
        ),
    ):
        run.artifacts |= run.stage(name, config, inputs, (output,))

    weights = json.loads((run.artifacts["checkpoint"] / "checkpoint.json").read_text())["weights"]
    assert weights.endswith("weights-000001"), "the untrained base would show nothing"
    trained = QwenImageTransformer2DModel.from_pretrained(run.workspace / weights)
    reader = EmbeddingsReader(run.artifacts["embeddings"] / "embeddings.parquet")
    backbone = QwenImage(pipeline.transformer, pipeline.vae)
    shape = (1, 16, 32 // backbone.vae_scale, 32 // backbone.vae_scale)
    for name, transformer in (("base", pipeline.transformer), ("tuned", trained)):
        pipeline.transformer = transformer
        images = sorted((whole_artifact(run.artifacts["samples"], run.workspace) / "images").glob(f"*-{name}.png"))
        assert len(images) == 2
        for image in images:
            prompt_id = image.name.removesuffix(f"-0-{name}.png")
            condition = read_conditioning(reader, [prompt_id])
            expected = pipeline(
                prompt_embeds=condition.prompt_embeds,
                prompt_embeds_mask=condition.pooled.long(),
                negative_prompt_embeds=condition.negative.prompt_embeds,
                negative_prompt_embeds_mask=condition.negative.pooled.long(),
                true_cfg_scale=3.5,
                latents=backbone.pack(draws.noise(shape, 0, "sample", prompt_id, 0)),
                num_inference_steps=4,
                height=32,
                width=32,
            ).images[0]
            with Image.open(image) as opened:
                assert np.abs(np.asarray(expected).astype(int) - np.asarray(opened)).max() <= 1
