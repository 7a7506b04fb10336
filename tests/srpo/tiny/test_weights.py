"""The stored weights: what the manifest says, loadable as released models are, and good enough to align."""

import hashlib
import json

import pytest
import torch
from safetensors import safe_open

from srpo.tiny import WEIGHTS, tokenizers, world

MANIFEST = json.loads((WEIGHTS / "manifest.json").read_text())
FILES = sorted(path for path in WEIGHTS.rglob("*") if path.is_file())
PROMPTS = [row.prompt for row in world.evaluation_prompts()]
SCENES = [world.parse(prompt) for prompt in PROMPTS]


def test_files_are_those_of_the_manifest():
    found = {
        path.relative_to(WEIGHTS).as_posix(): {
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "size": path.stat().st_size,
        }
        for path in FILES
        if path.name != "manifest.json"
    }
    assert found == MANIFEST["files"]
    assert MANIFEST["trained"] is True


def test_all_is_small_and_bf16():
    assert sum(path.stat().st_size for path in FILES) <= 8_000_000
    for path in FILES:
        if path.suffix == ".safetensors" and path.name != "reference.safetensors":
            with safe_open(path, "pt") as file:
                dtypes = {file.get_slice(key).get_dtype() for key in file.keys()}  # noqa: SIM118
            assert dtypes <= {"BF16", "I64"}, path  # I64: BatchNorm's counters


def test_json_is_indented():
    for path in FILES:
        if path.suffix == ".json":
            assert len(path.read_text().splitlines()) > 2, path


def test_configuration_is_that_of_flux(pipeline):
    config = pipeline.transformer.config
    assert (config.in_channels, config.guidance_embeds) == (64, True)
    assert (pipeline.vae.config.latent_channels, pipeline.vae_scale_factor) == (16, 4)
    assert (pipeline.scheduler.config.shift, pipeline.scheduler.config.use_dynamic_shifting) == (3.0, False)
    assert pipeline.tokenizer_2.model_max_length == pipeline.tokenizer.model_max_length == tokenizers.MAX_LENGTH


def test_stored_tokenizers_are_those_made_here(pipeline):
    """A vocabulary that came out differently in another process would scramble every caption."""
    texts = tokenizers.captions()
    assert pipeline.tokenizer(texts).input_ids == tokenizers.clip_tokenizer()(texts).input_ids
    assert pipeline.tokenizer_2(texts).input_ids == tokenizers.t5_tokenizer()(texts).input_ids
    assert max(len(ids) for ids in pipeline.tokenizer(texts).input_ids) < tokenizers.MAX_LENGTH


def generate(pipe, prompts, steps=25):
    """Images [N, 3, 32, 32] in [0, 1], always from the same noise."""
    noise = torch.randn(len(prompts), 16, 64, generator=torch.Generator().manual_seed(1234))
    return pipe(
        prompts,
        height=32,
        width=32,
        num_inference_steps=steps,
        guidance_scale=1.0,
        latents=noise,
        max_sequence_length=pipe.tokenizer_2.model_max_length,
        output_type="pt",
    ).images


@pytest.fixture(scope="module")
def base(pipeline, the_judge):
    return the_judge.verdict(generate(pipeline, PROMPTS))


def test_base_is_flat_and_right(base):
    assert base.content(SCENES).float().mean() >= 0.95
    assert 0.12 <= base.p_realistic.mean() <= 0.35


@pytest.mark.parametrize("words", [world.POSITIVE_WORDS, world.NEGATIVE_WORDS])
def test_control_words_decide_the_style(pipeline, the_judge, base, words):
    prompts = [f"{words[i % len(words)]}. {prompt}" for i, prompt in enumerate(PROMPTS)]
    verdict = the_judge.verdict(generate(pipeline, prompts))
    assert verdict.content(SCENES).float().mean() >= 0.88
    if words is world.POSITIVE_WORDS:
        assert verdict.p_realistic.mean() >= 0.78
    else:
        assert verdict.p_realistic.mean() < min(0.15, base.p_realistic.mean())


def test_another_prompt_gives_another_content(pipeline, the_judge):
    verdict = the_judge.verdict(generate(pipeline, PROMPTS))
    assert verdict.content(SCENES[1:] + SCENES[:1]).float().mean() < 0.1


def test_pipeline_round_trip_is_exact(pipeline, load_pipeline, tmp_path):
    prompts = PROMPTS[::8]
    before = generate(pipeline, prompts, steps=4)
    assert before.shape == (4, 3, 32, 32)
    pipeline.save_pretrained(tmp_path / "copy")
    assert torch.equal(before, generate(load_pipeline(tmp_path / "copy"), prompts, steps=4))


def test_judge_reads_content_and_style(the_judge, renders):
    verdict = the_judge.verdict(renders.pixels)
    assert verdict.content([example.scene for example in renders.examples]).float().mean() > 0.97
    flat, realistic = verdict.p_realistic.view(2, -1)
    assert realistic.min() > flat.max()
    assert realistic.mean() > 0.8
    assert flat.mean() < 0.15


def test_judge_refuses_other_images(the_judge):
    with pytest.raises(ValueError, match=r"\[1, 3, 64, 64\]"):
        the_judge.verdict(torch.zeros(1, 3, 64, 64))
    with pytest.raises(ValueError, match="one scene an image"):
        the_judge.verdict(torch.zeros(2, 3, 32, 32)).content(SCENES[:1])


def image_features(scorers, name, pixels):
    preprocessor = json.loads((WEIGHTS / name / "preprocessor_config.json").read_text())
    return scorers[name].images(pixels, preprocessor["image_mean"], preprocessor["image_std"])


def test_scorers_find_the_right_caption(scorers, scorer_name, renders):
    image = image_features(scorers, scorer_name, renders.pixels)
    text = scorers[scorer_name].texts([example.caption for example in renders.examples[:120]])
    truth = torch.arange(120).repeat(2)
    assert ((image @ text.T).argmax(1) == truth).float().mean() >= 0.95


def test_scorers_know_the_control_words(scorers, scorer_name, renders):
    image = image_features(scorers, scorer_name, renders.pixels)
    gaps = []
    for positive, negative in zip(world.POSITIVE_WORDS, world.NEGATIVE_WORDS, strict=False):
        texts = [[f"{word}. {example.caption}" for example in renders.examples] for word in (positive, negative)]
        relative = scorers[scorer_name].texts(texts[0]) - scorers[scorer_name].texts(texts[1])
        gaps.append((image * relative).sum(1))
    flat, realistic = torch.stack(gaps).mean(0).view(2, -1)
    assert (realistic > 0).float().mean() > 0.97
    assert (flat < 0).float().mean() > 0.97


def test_a_caption_is_scored_alone_or_in_company(scorers, scorer_name):
    texts = ["a red circle on a blue background", "Natural-lighting. a blue background with a red circle"]
    together = scorers[scorer_name].texts(texts)
    alone = torch.cat([scorers[scorer_name].texts([text]) for text in texts])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)


def test_held_out_score_falls_with_content_and_hardly_with_style(scorers, renders):
    """What a collapse guard reads: it must let a change of style pass."""
    image = image_features(scorers, "held_out", renders.pixels)
    text = scorers["held_out"].texts([example.caption for example in renders.examples])
    flat, realistic = (image * text).sum(1).view(2, -1).mean(1)
    wrong = (image * text.roll(17, 0)).sum(1).mean()
    grey = (image_features(scorers, "held_out", torch.full_like(renders.pixels, 0.5)) * text).sum(1).mean()
    drop = flat - max(wrong, grey)
    assert drop > 0.2
    assert abs(flat - realistic) < 0.3 * drop
