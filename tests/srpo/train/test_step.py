"""The training step against the method written out plainly, on the tiny model."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from diffusers import FluxPipeline
from tiny_runs import load_step_parts

from srpo.core.contracts.order import prompt_order
from srpo.core.objective import draws
from srpo.core.objective.schedule import sampler_sigmas
from srpo.core.storage.models import read_models
from srpo.train.estimates import interval
from srpo.train.step import gradient_step, step_noise, words


@pytest.fixture(scope="module")
def parts(tiny_run):
    return load_step_parts(tiny_run)


def gradients(flux):
    found = {n: p.grad.clone() for n, p in flux.transformer.named_parameters() if p.grad is not None}
    flux.transformer.zero_grad(set_to_none=True)
    return found


def close(first, second, tolerance=1e-5):
    assert first.keys() == second.keys()
    scale = max(float(value.abs().max()) for value in second.values())
    return max(float((first[n] - second[n]).abs().max()) for n in first) <= tolerance * scale


def plain_srpo_gradient(config, flux, reward, texts, step):
    """One SRPO step as method.md states it, sample by sample, from diffusers' model and numpy text features."""
    size, device = config.resolution, torch.device("cpu")
    order = prompt_order((step + 1) * config.batch_size, len(texts.prompts), config.seed)
    noise = step_noise(config, flux, step, [0])
    word, other = draws.word_pair(
        texts.rewards["reward"].positive_words, texts.rewards["reward"].negative_words, config.seed, step
    )
    grid = np.linspace(config.sigma_high, config.sigma_low, config.sigma_bins + 1)
    start = int(
        torch.randint(len(grid) - config.interval_bins, (), generator=draws.generator(config.seed, "interval", step, 0))
    )
    high, low = grid[start], grid[start + config.interval_bins]
    place = (low - config.sigma_low) / (config.sigma_high - config.sigma_low)
    for number in order[-config.batch_size :]:
        prompt_id = texts.prompts[number].prompt_id
        condition = texts.conditioning([prompt_id], device, torch.float32)

        def v(x, sigma, guidance, given=condition):
            return flux.velocity(x, torch.tensor([sigma], dtype=torch.float32), given, guidance, size, size)

        with torch.no_grad():
            x0 = noise
            sigmas = sampler_sigmas(config.rollout_steps, config.shift).tolist()
            for now, after in itertools.pairwise(sigmas):
                x0 = x0 + (after - now) * v(x0, now, config.rollout_guidance)
        c1, c2 = (torch.tensor(texts.rewards["reward"](prompt_id, w)) for w in (word, other))
        x = (1 - high) * x0 + high * noise
        x0_hat = (x - (high - low) * v(x, high, config.guidance) - low * noise) / (1 - low)
        f = reward.tower(flux.decode(x0_hat, size, size))[0]
        k = 0.10 + 0.15 * place
        denoise = torch.relu(0.7 - ((1 + k) * (f @ c1) - f @ c2))
        x = (1 - low) * x0 + low * noise
        x0_hat = (x + (high - low) * v(x, low, config.guidance) - high * noise) / (1 - high)
        f = reward.tower(flux.decode(x0_hat, size, size))[0]
        k = 0.30 - 0.29 * place
        inversion = torch.relu(0.7 - ((1 + k) * (f @ c2) - f @ c1))
        ((denoise + inversion) / 2 / config.batch_size).backward()


def test_the_step_is_the_published_method(parts):
    config, flux, rewards, texts = parts
    sums = gradient_step(config, flux, rewards, texts, 3, [0, 1, 2, 3], 1 / 4)
    ours = gradients(flux)
    plain_srpo_gradient(config, flux, rewards[0], texts, 3)
    assert close(ours, gradients(flux), 1e-4)
    assert 0 < sums["loss"] / 4 < 1.4


@pytest.mark.parametrize("change", [{}, {"shared_noise": False, "words_per": "sample", "interval_per_sample": True}])
def test_micro_batches_and_ranks_add_up_to_the_batch(parts, change):
    config, flux, rewards, texts = parts
    config = dataclasses.replace(config, **change)
    gradient_step(config, flux, rewards, texts, 1, [0, 1, 2, 3], 1 / 4)
    whole = gradients(flux)
    small = dataclasses.replace(config, micro_batch_size=1)
    for rows in ([0, 2], [1, 3]):
        gradient_step(small, flux, rewards, texts, 1, rows, 1 / 4)
    assert close(gradients(flux), whole)


def test_every_caption_of_a_batch_has_its_own_words(parts):
    config, _, _, texts = parts
    by_sample = dataclasses.replace(config, words_per="sample")
    assert len(set(words(by_sample, texts, "reward", 0, list(range(30))))) > 5
    assert len(set(words(config, texts, "reward", 0, list(range(30))))) == 1


METHODS = {
    "refl": {"method": "refl", "reward_form": "sgp"},
    "draft": {"method": "draft", "reward_form": "sgp"},
    "draft_lv": {"method": "draft_lv", "reward_form": "sgp"},
    "plain": {"reward_form": "plain", "branches": "denoise", "loss": "reward"},
    "srp": {"reward_form": "srp"},
    "cfg": {"reward_form": "cfg", "loss": "reward"},
    "injections": {"injections": 2},
    "matched": {"matched_destination": True},
    "no margin": {"loss": "reward", "late_weighting": True, "branches": "denoise"},
    "image pairs": {"image_pairs": 0.05},
}


@pytest.mark.parametrize("name", METHODS)
def test_every_method_gives_a_gradient_of_its_own(parts, name):
    config, flux, rewards, texts = parts
    gradient_step(config, flux, rewards, texts, 0, [0, 1], 1 / 2)
    published = gradients(flux)
    gradient_step(dataclasses.replace(config, **METHODS[name]), flux, rewards, texts, 0, [0, 1], 1 / 2)
    found = gradients(flux)
    assert all(torch.isfinite(value).all() for value in found.values())
    assert max(float(value.abs().max()) for value in found.values()) > 0
    assert not close(found, published, 1e-3)


def test_several_rewards_are_a_weighted_sum(parts):
    config, flux, rewards, texts = parts
    config = dataclasses.replace(config, loss="reward")
    one = rewards[0]
    gradient_step(config, flux, [one], texts, 0, [0, 1], 1 / 2)
    single = gradients(flux)
    halves = [dataclasses.replace(one, weight=0.5), dataclasses.replace(one, weight=1.0)]
    gradient_step(config, flux, halves, texts, 0, [0, 1], 1 / 2)
    assert close({n: v / 1.5 for n, v in gradients(flux).items()}, single)


def test_the_vae_and_the_reward_are_frozen(parts):
    config, flux, rewards, texts = parts
    gradient_step(config, flux, rewards, texts, 0, [0], 1.0)
    gradients(flux)
    for model in (flux.vae, rewards[0].tower.model):
        assert all(p.grad is None and not p.requires_grad for p in model.parameters())


def test_the_velocity_sees_the_plain_prompt_only(parts):
    """Other control words change the reward, not what the model is asked: rollouts stay the same."""
    config, flux, rewards, texts = parts
    seen = []
    velocity = flux.velocity

    def watched(x, sigma, condition, *rest):
        seen.append(condition.prompt_embeds.clone())
        return velocity(x, sigma, condition, *rest)

    flux.velocity = watched
    try:
        gradient_step(config, flux, rewards, texts, 0, [0, 1], 1 / 2)
    finally:
        del flux.velocity
        gradients(flux)
    order = prompt_order(config.batch_size, len(texts.prompts), config.seed)[:2]
    plain = texts.conditioning([texts.prompts[n].prompt_id for n in order], torch.device("cpu"), torch.float32)
    assert len(seen) == config.rollout_steps + 1, "both branches are one call"
    assert all(torch.equal(embeds, plain.prompt_embeds) for embeds in seen[:-1])
    assert torch.equal(seen[-1], plain.prompt_embeds.repeat(2, 1, 1))


def test_the_embeddings_are_those_of_the_plain_prompt(parts, tiny_run):
    """What reaches the velocity is what diffusers' own pipeline makes of the prompt as it stands in the table."""
    texts = parts[3]
    base = read_models(tiny_run.artifacts["models"], tiny_run.workspace)["base"].folder
    pipeline = FluxPipeline.from_pretrained(base, transformer=None, vae=None, torch_dtype=torch.float32)
    length = pipeline.tokenizer_2.model_max_length
    order = prompt_order(4, len(texts.prompts), 0)
    chosen = [texts.prompts[place] for place in order]
    states, pooled, _ = pipeline.encode_prompt([p.prompt for p in chosen], None, max_sequence_length=length)
    found = texts.conditioning([p.prompt_id for p in chosen], torch.device("cpu"), torch.float32)
    torch.testing.assert_close(found.prompt_embeds, states, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.pooled, pooled, rtol=1e-4, atol=1e-5)


def test_the_late_weight_scales_the_gradient(parts):
    config, flux, rewards, texts = parts
    config = dataclasses.replace(config, loss="reward", branches="denoise", sigma_high=0.9, sigma_low=0.2)
    gradient_step(config, flux, rewards, texts, 0, [0, 1], 1 / 2)
    plain = gradients(flux)
    gradient_step(dataclasses.replace(config, late_weighting=True), flux, rewards, texts, 0, [0, 1], 1 / 2)
    u = (float(interval(config, 0, 0, 0)[1]) - 0.2) / 0.7
    assert close(gradients(flux), {name: value * 3 * u / (1 + 2 * u) for name, value in plain.items()})


def test_noise_and_interval_are_shared_by_the_batch_or_not_as_configured(parts):
    config, flux, _, _ = parts
    noise = step_noise(config, flux, 0, [0, 1, 2])
    highs = [float(interval(config, 0, 0, sample)[0]) for sample in (0, 1, 2)]
    assert torch.equal(noise[0], noise[2])
    assert len(set(highs)) == 1
    assert not torch.equal(noise, step_noise(config, flux, 1, [0, 1, 2]))
    assert float(interval(config, 0, 1, 0)[0]) != highs[0]  # each injection has its own
    own = dataclasses.replace(config, shared_noise=False, interval_per_sample=True)
    noise = step_noise(own, flux, 0, [0, 1, 2])
    highs = [float(interval(own, 0, 0, sample)[0]) for sample in (0, 1, 2)]
    assert not torch.equal(noise[0], noise[2])
    assert len(set(highs)) == 3


def test_saturated_pixels_get_a_gradient_from_the_reward(parts):
    _, _, rewards, _ = parts
    pixels = (1.2 + 0.5 * draws.noise((1, 3, 32, 32), 0, "pixels").abs()).requires_grad_()
    rewards[0].tower(pixels)[0, 0].backward()
    assert (pixels.grad.abs() > 0).float().mean() > 0.9


def test_offline_latents_replace_the_rollout_and_are_cached(parts, tmp_path):
    from PIL import Image

    from srpo.core.contracts.errors import InputError
    from srpo.train.batches import Latents

    config, flux, rewards, texts = parts
    order = prompt_order(config.batch_size, len(texts.prompts), config.seed)
    ids = [texts.prompts[n].prompt_id for n in order[:2]]
    images, cache, encoded = tmp_path / "images", tmp_path / "cache", []
    images.mkdir()
    config = dataclasses.replace(config, offline_images=str(images))
    encode = flux.encode

    def step(base="a digest"):
        gradient_step(config, flux, rewards, texts, 0, [0, 1], 1 / 2, Latents(config, base, cache))
        return gradients(flux)

    with pytest.raises(InputError, match=f"has no {ids[0]}.png"):
        step()
    for number, prompt_id in enumerate(ids):
        pixels = np.full((48, 40, 3), 60 + 100 * number, dtype=np.uint8)
        Image.fromarray(pixels).save(images / f"{prompt_id}.png")
    flux.encode = lambda pixels: encoded.append(1) or encode(pixels)
    try:
        first = step()
        assert len(encoded) == 2
        assert close(first, step(), 0)
        assert len(encoded) == 2, "the second time the cached latents are enough"
        Image.fromarray(pixels[::-1] // 2).save(images / f"{ids[0]}.png")
        assert not close(first, step(), 1e-3)
        assert len(encoded) == 3, "another image is another latent"
        step("another model")
        assert len(encoded) == 5
    finally:
        del flux.encode
    assert sorted(path.suffix for path in images.iterdir()) == [".png", ".png"], "nothing is written beside the images"
