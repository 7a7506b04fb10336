"""Our rollout, guidance, text encoding and decoding against diffusers' own QwenImagePipeline, on small models of its
classes; and stages and a training step that start from a folder of it.
"""

import json

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from qwen_models import WIDTH, small_models, small_pipeline, small_text_model
from tiny_runs import TRAIN, TinyRun

from srpo.core.backbones.conditioning import Conditioning, read_conditioning
from srpo.core.backbones.load import backbone_of, load_text_encoder
from srpo.core.backbones.pipelines import check_folder, check_guidance, latent_unit
from srpo.core.backbones.qwen_image import QwenImage
from srpo.core.backbones.qwen_text import QWEN_TOKENS as LENGTH
from srpo.core.backbones.qwen_text import QwenTextEncoder
from srpo.core.contracts.config import from_mapping
from srpo.core.contracts.errors import InputError
from srpo.core.contracts.tensors import EmbeddingsReader
from srpo.core.objective.direct_align import euler_rollout
from srpo.core.objective.schedule import sampler_sigmas
from srpo.core.rewards.dual_encoder import ImageTower
from srpo.core.storage.models import read_models
from srpo.train.batches import Texts
from srpo.train.config import Config
from srpo.train.step import Reward, gradient_step

CPU = torch.device("cpu")


def padded(lengths, negative=None):
    """Random conditioning of prompts of these lengths, as it is stored: padded with zeros, and the mask."""
    mask = (torch.arange(LENGTH)[None] < torch.tensor(lengths)[:, None]).float()
    return Conditioning(torch.randn(len(lengths), LENGTH, WIDTH) * mask[..., None], mask, negative)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("models") / "qwen"
    small_pipeline().save_pretrained(place)
    return place


@pytest.fixture(scope="module")
def encoded(folder, tmp_path_factory):
    """The stages up to the embeddings, from a folder of the pipeline."""
    run = TinyRun(tmp_path_factory.mktemp("run"))
    drawn = {"train_prompts": 8}
    for name, config, inputs, output in (
        ("prepare_prompts", {"train_prompts": 6, "held_out_prompts": 2}, (), "prompts"),
        ("fetch_base", {"model": str(folder)}, (), "models"),
        ("cache_rewards", drawn, ("models", "prompts"), "text_features"),
        ("encode_prompts", drawn | {"dtype": "float32"}, ("models", "prompts"), "embeddings"),
    ):
        run.artifacts |= run.stage(name, config, inputs, (output,))
    return run


@pytest.mark.parametrize(
    ("height", "width", "lengths", "guidance"), [(32, 32, (7, 7), 1.0), (48, 24, (7, 4), 1.0), (48, 24, (7, 4), 3.5)]
)
def test_rollout_and_decode_equal_the_pipeline(height, width, lengths, guidance):
    pipeline = small_pipeline()
    backbone = QwenImage(pipeline.transformer, pipeline.vae)
    condition = padded(lengths, padded((5,)))
    noise = backbone.pack(torch.randn(2, 16, height // backbone.vae_scale, width // backbone.vae_scale))
    other = condition.negative
    expected = pipeline(
        prompt_embeds=condition.prompt_embeds,
        prompt_embeds_mask=condition.pooled.long(),
        negative_prompt_embeds=other.prompt_embeds.expand(2, -1, -1),
        negative_prompt_embeds_mask=other.pooled.expand(2, -1).long(),
        true_cfg_scale=guidance,
        latents=noise,
        height=height,
        width=width,
        num_inference_steps=5,
        output_type="pt",
    ).images
    with torch.no_grad():
        x0 = euler_rollout(
            lambda x, sigma: backbone.velocity(x, sigma, condition, guidance, height, width),
            noise,
            sampler_sigmas(5, 3.0),
        )
        found = backbone.decode(x0, height, width)
    assert noise.shape[1:] == backbone.latent_shape(height, width)
    torch.testing.assert_close(found.clamp(0, 1), expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (48, 24)])
def test_the_models_own_schedule_equals_the_pipeline(height, width):
    """By the image's size, and stretched to its end."""
    pipeline = small_pipeline()
    pipeline.scheduler = FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=True, base_shift=0.5, max_shift=0.9, max_image_seq_len=8192, shift_terminal=0.02
    )
    scheduler = FlowMatchEulerDiscreteScheduler.from_config(pipeline.scheduler.config)
    backbone, condition = QwenImage(pipeline.transformer, pipeline.vae, scheduler=scheduler), padded((7,))
    noise = backbone.pack(torch.randn(1, 16, height // backbone.vae_scale, width // backbone.vae_scale))
    expected = pipeline(
        prompt_embeds=condition.prompt_embeds,
        prompt_embeds_mask=condition.pooled.long(),
        true_cfg_scale=1.0,
        latents=noise,
        height=height,
        width=width,
        num_inference_steps=5,
        output_type="pt",
    ).images
    with torch.no_grad():
        x0 = euler_rollout(
            lambda x, sigma: backbone.velocity(x, sigma, condition, 1.0, height, width),
            noise,
            backbone.sigmas(5, None, height, width),
        )
        found = backbone.decode(x0, height, width)
    torch.testing.assert_close(found.clamp(0, 1), expected, rtol=0, atol=2e-5)
    assert float(backbone.sigmas(5, None, height, width)[-2]) == pytest.approx(0.02)


def test_guidance_is_true_already(folder):
    with pytest.raises(InputError, match=r"true_guidance is 2\.0.*Qwen-Image"):
        check_guidance(folder, 2.0)
    check_guidance(folder, 1.0)
    backbone = QwenImage(*small_models())
    with pytest.raises(InputError, match=r"true_guidance is 2\.0"):
        backbone.velocity(torch.randn(1, 16, 64), torch.tensor([0.9]), padded((4,)), 1.0, 32, 32, 2.0)


def test_true_guidance_needs_the_negative_prompt():
    backbone = QwenImage(*small_models())
    x, sigma = torch.randn(1, 16, 64), torch.tensor([0.9])
    with pytest.raises(InputError, match=r"guidance is 3\.5"):
        backbone.velocity(x, sigma, padded((4,)), 3.5, 32, 32)


def test_the_velocity_sees_the_exact_sigma():
    """A sigma rounded to a whole timestep of 1000 would make these two calls equal."""
    backbone, condition, x = QwenImage(*small_models()), padded((4,)), torch.randn(1, 16, 64)
    first, second = (backbone.velocity(x, torch.tensor([s]), condition, 1.0, 32, 32) for s in (0.9001, 0.9004))
    assert not torch.equal(first, second)


def test_padding_changes_nothing():
    """Of a prompt alone, or beside a longer one."""
    backbone, condition, x = QwenImage(*small_models()), padded((9, 4)), torch.randn(2, 16, 64)
    sigma = torch.tensor([0.9, 0.4])
    noisy = Conditioning(condition.prompt_embeds + (1 - condition.pooled[..., None]), condition.pooled)
    together = backbone.velocity(x, sigma, condition, 1.0, 32, 32)
    torch.testing.assert_close(backbone.velocity(x, sigma, noisy, 1.0, 32, 32), together)
    alone = backbone.velocity(x[1:], sigma[1:], condition[1:], 1.0, 32, 32)
    torch.testing.assert_close(alone, together[1:], rtol=1e-4, atol=1e-5)


def test_decoding_does_not_clamp_so_saturated_pixels_get_a_gradient():
    transformer, vae = small_models()
    with torch.no_grad():  # push the decoder's output far above 1
        vae.decoder.conv_out.bias += 5.0
    backbone = QwenImage(transformer, vae)
    gradients = []
    for again in (False, True):
        if again:
            backbone.recompute_decoder()
        torch.manual_seed(1)
        x0 = torch.randn(1, 16, 64, requires_grad=True)
        pixels = backbone.decode(x0, 32, 32)
        assert pixels.min() > 1
        pixels.sum().backward()
        gradients.append(x0.grad)
    assert gradients[0].abs().sum() > 0
    torch.testing.assert_close(*gradients)
    assert all(parameter.grad is None for parameter in vae.parameters())  # the VAE is frozen


def test_encoded_latents_have_the_statistics_of_the_configuration():
    transformer, vae = small_models()
    backbone = QwenImage(transformer, vae)
    pixels = torch.rand(2, 3, 32, 16)
    latents = backbone.unpack(backbone.encode(pixels), 32, 16)
    expected = vae.encode(pixels[:, :, None] * 2 - 1).latent_dist.mode()
    mean, deviation = (torch.tensor(v)[:, None, None, None] for v in (vae.config.latents_mean, vae.config.latents_std))
    torch.testing.assert_close(latents[:, :, None] * deviation + mean, expected)


def test_packing_is_undone_by_unpacking():
    backbone = QwenImage(*small_models())
    latents = torch.randn(2, 16, 12, 8)
    assert torch.equal(backbone.unpack(backbone.pack(latents), 48, 32), latents)


def test_a_size_that_diffusers_would_cut_is_refused(folder):
    with pytest.raises(InputError, match=r"height is 30.*multiple of 8"):
        QwenImage(*small_models()).latent_shape(30, 32)
    assert latent_unit(folder) == 8


def test_a_transformer_made_empty_computes_as_one_that_was_loaded(folder):
    """Sharding starts from a model on the meta device; its rotary tables are not among its weights."""
    kind = backbone_of(folder)
    loaded = kind.load(folder, CPU, torch.float32)
    empty = kind.empty_transformer(folder / "transformer")
    assert all(parameter.is_meta for parameter in empty.parameters())
    empty.to_empty(device=CPU).load_state_dict(loaded.transformer.state_dict())
    x, sigma, condition = torch.randn(1, 16, 64), torch.tensor([0.9]), padded((4,))
    found, expected = (b.velocity(x, sigma, condition, 1.0, 32, 32) for b in (kind(empty.eval(), loaded.vae), loaded))
    torch.testing.assert_close(found, expected)


def test_embeddings_are_those_of_the_pipeline():
    pipeline, encoder = small_pipeline(), QwenTextEncoder(*small_text_model())
    for prompts in (["a cat in {braces}"], ["a cat", "a much longer prompt with a dog", " "]):
        with torch.no_grad():
            states, mask = pipeline.encode_prompt(prompts, device=CPU)
        found, length = encoder(prompts), states.shape[1]
        assert found.prompt_embeds.shape == (len(prompts), LENGTH, WIDTH)
        assert torch.equal(found.prompt_embeds[:, :length], states)
        assert torch.equal(found.pooled[:, :length], torch.ones(1, length) if mask is None else mask.float())
        assert not found.prompt_embeds[:, length:].any()
        assert not found.pooled[:, length:].any()


def test_a_prompt_that_is_too_long_is_cut_as_the_pipeline_cuts_it():
    pipeline, encoder = small_pipeline(), QwenTextEncoder(*small_text_model())
    with torch.no_grad():
        states, mask = pipeline.encode_prompt(["long " * 200], device=CPU, max_sequence_length=LENGTH)
    assert mask is None
    torch.testing.assert_close(encoder(["long " * 200]).prompt_embeds, states)


def test_stored_embeddings_carry_the_mask_and_the_negative_prompt(encoded, folder):
    reader = EmbeddingsReader(encoded.artifacts["embeddings"] / "embeddings.parquet")
    assert reader.info.prompt_embeds_shape == (LENGTH, WIDTH)
    assert reader.info.pooled_shape == (LENGTH,)
    found = read_conditioning(reader, [name for name in reader.places if name][:2])
    assert ((found.pooled == 0) | (found.pooled == 1)).all()
    expected = load_text_encoder(folder, CPU, torch.float32)([" "])
    assert torch.equal(found.negative.prompt_embeds, expected.prompt_embeds)
    assert torch.equal(found.negative.pooled, expected.pooled)


@pytest.mark.parametrize("guidance", [1.0, 3.5])
def test_a_training_step_gives_the_whole_transformer_a_gradient(encoded, guidance):
    """The settings of the recipe, cut down: the denoise branch, no discount, no margin, the multiplier lambda."""
    models = read_models(encoded.artifacts["models"], encoded.workspace)
    base = models["base"].folder
    kind = backbone_of(base)
    backbone = kind(kind.load(base, CPU, torch.float32).transformer.train(), kind.load_vae(base, CPU, torch.float32))
    texts = Texts.open(
        *(encoded.artifacts[name] for name in ("prompts", "embeddings", "text_features")),
        ["reward"],
        models["base"].digest,
    )
    reward = Reward("reward", ImageTower.load(models["reward"].folder, CPU), 1.0)
    recipe = {"branches": "denoise", "k_denoise": (0.0, 0.0), "loss": "reward", "late_weighting": True}
    cut = {"batch_size": 2, "rollout_steps": 2, "guidance": guidance, "sigma_high": 0.9, "sigma_low": 0.2}
    config = from_mapping(Config, TRAIN | recipe | cut, "train")
    backbone.transformer.enable_gradient_checkpointing()
    sums = gradient_step(config, backbone, [reward], texts, 0, [0, 1], 1 / 2)
    assert sums["loss"] != 0
    still = {n for n, p in backbone.transformer.named_parameters() if p.grad is None or not p.grad.any()}
    # What the last block makes of the text goes nowhere.
    assert all(name.startswith("transformer_blocks.1.") and ("txt" in name or "add" in name) for name in still), still
    assert all(
        parameter.grad.isfinite().all() for n, parameter in backbone.transformer.named_parameters() if n not in still
    )
    assert all(parameter.grad is None for parameter in backbone.vae.parameters())


def test_a_folder_of_another_variant_is_refused(folder, tmp_path):
    place = tmp_path / "variant"
    for part in ("transformer", "vae", "text_encoder", "tokenizer", "scheduler"):
        (place / part).mkdir(parents=True)
    with pytest.raises(InputError, match=r"no readable model_index\.json"):
        check_folder(place)
    (place / "model_index.json").write_text((folder / "model_index.json").read_text())
    (place / "transformer" / "config.json").write_text(json.dumps({"guidance_embeds": True}))
    with pytest.raises(InputError, match="guidance_embeds"):
        check_folder(place)
