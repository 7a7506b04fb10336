"""The aesthetic head and ImageReward, from their released form, against forwards written out here from the papers."""

import math
import string

import numpy as np
import pytest
import torch
from open_clip_models import random_model, release
from torch.nn import functional

from srpo.core.contracts.errors import InputError
from srpo.core.contracts.prompts import Prompt
from srpo.core.contracts.tensors import TextFeatures
from srpo.core.rewards.aesthetic import Aesthetic
from srpo.core.rewards.convert import CLIP_MEAN, CLIP_STD, convert_reward
from srpo.core.rewards.image_reward import ImageReward
from srpo.core.rewards.scores import Scorer, load_reward, plain_score

CPU = torch.device("cpu")
HEAD = (16, 12, 8, 4, 1)  # in place of 1024, 128, 64, 16, 1
PLACES = (0, 2, 4, 6, 7)  # dropout stands between, and is nothing when a reward judges
PROMPTS = [Prompt("a", "a red fox in the snow", "", "held_out"), Prompt("b", "two blue cups", "", "held_out")]


def random(*shape, scale=0.3):
    return scale * torch.randn(*shape)


def head_of(width, prefix):
    """A head in its released form."""
    sizes = (width, *HEAD)
    weights = {}
    for place, before, after in zip(PLACES, sizes, sizes[1:], strict=False):
        weights |= {f"{prefix}.{place}.weight": random(after, before), f"{prefix}.{place}.bias": random(after)}
    return weights


def through_head(weights, prefix, value):
    for place in PLACES:
        value = value @ weights[f"{prefix}.{place}.weight"].T + weights[f"{prefix}.{place}.bias"]
    return value[:, 0]


def pixels_of(number, size, seed=0):
    return torch.rand(number, 3, size, size, generator=torch.Generator().manual_seed(seed))


def normalised(pixels):
    mean, std = (torch.tensor(values).reshape(3, 1, 1) for values in (CLIP_MEAN, CLIP_STD))
    return (pixels - mean) / std


def check_gradient(reward, pixels):
    """Finite, not zero, and along itself what a central difference finds."""
    given = pixels.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(reward(given).sum(), given)
    norm = float(gradient.norm())
    assert math.isfinite(norm)
    assert norm > 1e-3
    step, direction = 0.02, gradient / gradient.norm()
    with torch.no_grad():
        found = (reward(pixels + step * direction).sum() - reward(pixels - step * direction).sum()) / (2 * step)
    assert float(found) == pytest.approx(norm, rel=0.02)


@pytest.fixture(scope="module")
def aesthetic(tmp_path_factory):
    """``(open_clip's model, head, files of the release, reward folder)``."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("aesthetic")
    model, config = random_model(quick_gelu=True)
    convert_reward("open_clip", release(folder / "files", model, config), folder / "clip")
    head = head_of(config["embed_dim"], "layers")
    torch.save(head, folder / "sac+logos+ava1-l14-linearMSE.pth")
    files = {path.name: path for path in (folder / "clip").iterdir()}
    files["head"] = folder / "sac+logos+ava1-l14-linearMSE.pth"
    convert_reward("aesthetic", files, folder / "reward")
    return model, head, files, folder / "reward"


def test_the_aesthetic_grade_is_the_head_on_clips_feature(aesthetic):
    model, head, _, folder = aesthetic
    pixels = pixels_of(5, 28)
    with torch.no_grad():
        expected = through_head(head, "layers", model.encode_image(normalised(pixels), normalize=True))
        found = Aesthetic.load(folder, CPU)(pixels)
    assert float(expected.std()) > 1e-2
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_the_aesthetic_grade_has_a_gradient_in_the_pixels(aesthetic):
    for size in (28, 50):
        check_gradient(Aesthetic.load(aesthetic[3], CPU), pixels_of(2, size))


def test_the_aesthetic_folder_holds_no_text_tower(aesthetic):
    """And every file of it may be read by another user of a shared cache."""
    assert all(path.stat().st_mode & 0o044 == 0o044 for path in aesthetic[3].iterdir())
    assert {path.name for path in aesthetic[3].iterdir()} == {
        "config.json",
        "head.safetensors",
        "model.safetensors",
        "preprocessor_config.json",
    }


def test_a_head_that_does_not_fit_is_refused(aesthetic, tmp_path):
    files, head = aesthetic[2], aesthetic[1]
    wrong = {
        "24 of CLIP": head_of(20, "layers"),
        "end in one number": {name: value for name, value in head.items() if not name.startswith("layers.7")},
        r"layers\.<number>": {"weight": torch.ones(2)},
    }
    for said, weights in wrong.items():
        torch.save(weights, tmp_path / "head.pth")
        with pytest.raises(InputError, match=said):
            convert_reward("aesthetic", files | {"head": tmp_path / "head.pth"}, tmp_path / "reward")


# ImageReward, small: the widths of BLIP large are 1024 and 768, its depths 24 and 12.
VISION, TEXT, PATCH, IMAGE = 128, 48, 8, 32
TEXT_HEADS = 4
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "fox", "in", "the", "snow", "two", "blue", "cup"]
VOCABULARY = [*WORDS, "##s", ".", ",", "real", "flat", *(f"##{letter}" for letter in string.ascii_lowercase)]


def linear(name, before, after):
    return {f"{name}.weight": random(after, before, scale=0.1), f"{name}.bias": random(after, scale=0.1)}


def norm(name, width):
    return {f"{name}.weight": 1 + random(width, scale=0.1), f"{name}.bias": random(width, scale=0.1)}


def released_image_reward():
    """Random weights under the names of ImageReward.pt, those that nothing reads included."""
    see, read = "blip.visual_encoder", "blip.text_encoder"
    weights = {
        f"{see}.cls_token": random(1, 1, VISION),
        f"{see}.pos_embed": random(1, 1 + (IMAGE // PATCH) ** 2, VISION),
        f"{see}.patch_embed.proj.weight": random(VISION, 3, PATCH, PATCH, scale=0.1),
        f"{see}.patch_embed.proj.bias": random(VISION),
        **norm(f"{see}.norm", VISION),
        f"{read}.embeddings.position_ids": torch.arange(40)[None],
        f"{read}.embeddings.word_embeddings.weight": random(len(VOCABULARY) + 2, TEXT),
        f"{read}.embeddings.position_embeddings.weight": random(40, TEXT),
        **norm(f"{read}.embeddings.LayerNorm", TEXT),
        **linear("blip.vision_proj", VISION, 16),
        **linear("blip.text_proj", TEXT, 16),
        **head_of(TEXT, "mlp.layers"),
    }
    for layer in range(2):
        block = f"{see}.blocks.{layer}"
        weights |= norm(f"{block}.norm1", VISION) | norm(f"{block}.norm2", VISION)
        weights |= linear(f"{block}.attn.qkv", VISION, 3 * VISION) | linear(f"{block}.attn.proj", VISION, VISION)
        weights |= linear(f"{block}.mlp.fc1", VISION, 96) | linear(f"{block}.mlp.fc2", 96, VISION)
        block = f"{read}.encoder.layer.{layer}"
        for kind, width in (("attention", TEXT), ("crossattention", VISION)):
            weights |= linear(f"{block}.{kind}.self.query", TEXT, TEXT)
            weights |= linear(f"{block}.{kind}.self.key", width, TEXT) | linear(
                f"{block}.{kind}.self.value", width, TEXT
            )
            weights |= linear(f"{block}.{kind}.output.dense", TEXT, TEXT)
            weights |= norm(f"{block}.{kind}.output.LayerNorm", TEXT)
        weights |= linear(f"{block}.intermediate.dense", TEXT, 64) | linear(f"{block}.output.dense", 64, TEXT)
        weights |= norm(f"{block}.output.LayerNorm", TEXT)
    return weights


def reference_grade(weights, pixels, ids, mask):
    """BLIP's two encoders and the head, from the papers: [B] of normalised pixels and tokens."""

    def apply(name, value):
        return value @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def normed(name, value, eps):
        return functional.layer_norm(value, value.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"], eps)

    def attend(query, key, value, heads, allowed=None):
        query, key, value = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in (query, key, value))
        scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
        if allowed is not None:
            scores = scores.masked_fill(~allowed[:, None, None, :], -torch.inf)
        return (scores.softmax(-1) @ value).transpose(1, 2).flatten(2)

    see, read = "blip.visual_encoder", "blip.text_encoder"
    kernel, bias = (weights[f"{see}.patch_embed.proj.{part}"] for part in ("weight", "bias"))
    patches = functional.conv2d(pixels, kernel, bias, stride=PATCH).flatten(2).transpose(1, 2)
    first = weights[f"{see}.cls_token"].expand(len(pixels), -1, -1)
    image = torch.cat([first, patches], 1) + weights[f"{see}.pos_embed"]
    for layer in range(2):
        block = f"{see}.blocks.{layer}"
        parts = apply(f"{block}.attn.qkv", normed(f"{block}.norm1", image, 1e-6)).chunk(3, -1)
        image = image + apply(f"{block}.attn.proj", attend(*parts, VISION // 64))
        inner = functional.gelu(apply(f"{block}.mlp.fc1", normed(f"{block}.norm2", image, 1e-6)))
        image = image + apply(f"{block}.mlp.fc2", inner)
    image = normed(f"{see}.norm", image, 1e-6)

    words = weights[f"{read}.embeddings.word_embeddings.weight"][ids]
    places = weights[f"{read}.embeddings.position_embeddings.weight"][: ids.shape[1]]
    text = normed(f"{read}.embeddings.LayerNorm", words + places, 1e-12)
    for layer in range(2):
        block = f"{read}.encoder.layer.{layer}"
        for kind, source, allowed in (("attention", None, mask.bool()), ("crossattention", image, None)):
            source = text if source is None else source
            query = apply(f"{block}.{kind}.self.query", text)
            key, value = (apply(f"{block}.{kind}.self.{part}", source) for part in ("key", "value"))
            out = apply(f"{block}.{kind}.output.dense", attend(query, key, value, TEXT_HEADS, allowed))
            text = normed(f"{block}.{kind}.output.LayerNorm", text + out, 1e-12)
        inner = functional.gelu(apply(f"{block}.intermediate.dense", text))
        text = normed(f"{block}.output.LayerNorm", text + apply(f"{block}.output.dense", inner), 1e-12)
    # The published mean and deviation of the grades.
    return (through_head(weights, "mlp.layers", text[:, 0]) - 0.16717362830052426) / 1.0333394966054072


@pytest.fixture(scope="module")
def image_reward(tmp_path_factory):
    """``(released weights, files of the release, reward folder)``."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("image_reward")
    weights = released_image_reward()
    torch.save(weights, folder / "ImageReward.pt")
    (folder / "med_config.json").write_text(f'{{"num_attention_heads": {TEXT_HEADS}, "hidden_act": "gelu"}}')
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n")
    files = {name: folder / name for name in ("med_config.json", "vocab.txt")} | {"weights": folder / "ImageReward.pt"}
    convert_reward("image_reward", files, folder / "reward")
    return weights, files, folder / "reward"


def test_image_reward_equals_a_forward_from_the_papers(image_reward):
    weights, _, folder = image_reward
    reward = ImageReward.load(folder, CPU)
    texts = ["a red fox in the snow", "two blue cups, a fox", "", "fox " * 60]
    pixels = pixels_of(4, IMAGE)
    ids = torch.zeros(4, 35, dtype=torch.long)
    number = {word: place for place, word in enumerate(VOCABULARY)}
    read = (
        ["a", "red", "fox", "in", "the", "snow"],
        ["two", "blue", "cup", "##s", ",", "a", "fox"],
        [],
        ["fox"] * 33,  # cut to 35 tokens
    )
    for row, words in zip(ids, read, strict=True):
        tokens = ["[CLS]", *words, "[SEP]"]
        row[: len(tokens)] = torch.tensor([number[token] for token in tokens])
    with torch.no_grad():
        expected = reference_grade(weights, normalised(pixels), ids, ids > 0)
        found = reward(pixels, texts)
    assert float(expected.std()) > 1e-2
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_image_reward_has_a_gradient_in_the_pixels(image_reward):
    reward = ImageReward.load(image_reward[2], CPU)
    check_gradient(lambda pixels: reward(pixels, ["a red fox", "two cups"]), pixels_of(2, 40))


def test_weights_that_are_not_image_reward_are_refused(image_reward, tmp_path):
    weights, files, _ = image_reward
    key, head = "blip.text_encoder.encoder.layer.1.crossattention.self.key.bias", "mlp.layers.7.weight"
    wrong = {
        "patch_embed": {"a": torch.ones(2)},
        "visual_encoder.extra": weights | {"blip.visual_encoder.extra": torch.ones(2)},
        r"crossattention\.self\.key\.bias.*None": {n: value for n, value in weights.items() if n != key},
        r"mlp\.layers": {n: value for n, value in weights.items() if n != head},
    }
    for said, found in wrong.items():
        torch.save(found, tmp_path / "other.pt")
        with pytest.raises(InputError, match=said):
            convert_reward("image_reward", files | {"weights": tmp_path / "other.pt"}, tmp_path / "reward")
    with pytest.raises(InputError, match=r"vocab\.txt"):
        convert_reward("image_reward", {"weights": files["weights"]}, tmp_path / "reward")
    assert not (tmp_path / "reward").exists()


def test_as_a_judge_image_reward_reads_the_prompt_under_every_word(image_reward):
    words = TextFeatures({}, ("Real", "Snow"), ("Flat",))
    pixels = pixels_of(2, IMAGE)
    reward = ImageReward.load(image_reward[2], CPU)
    found = Scorer.load(image_reward[2], words, CPU)(pixels, PROMPTS)
    with torch.no_grad():

        def grades(word):
            return reward(pixels, [f"{word}{prompt.prompt}" for prompt in PROMPTS])

        style = (grades("Real. ") + grades("Snow. ")) / 2 - grades("Flat. ")
        torch.testing.assert_close(found["score"], grades(""), rtol=0, atol=1e-5)
    torch.testing.assert_close(found["srp"], style, rtol=0, atol=1e-5)
    assert float(style.abs().min()) > 1e-4
    torch.testing.assert_close(plain_score(reward, pixels, words, PROMPTS), found["score"], rtol=0, atol=1e-5)


def test_as_a_judge_an_image_only_reward_gives_its_grade(aesthetic):
    pixels, none = pixels_of(2, 28), TextFeatures({}, (), ())
    grade = Aesthetic.load(aesthetic[3], CPU)(pixels)
    found = Scorer.load(aesthetic[3], none, CPU)(pixels, PROMPTS)
    assert found.keys() == {"score", "srp"}
    for value in found.values():
        torch.testing.assert_close(value, grade, rtol=0, atol=1e-6)
    torch.testing.assert_close(plain_score(load_reward(aesthetic[3], CPU), pixels, none, PROMPTS), grade)


@pytest.mark.parametrize("kind", ["aesthetic", "image_reward"])
def test_bfloat16_grades_nearly_the_same_and_float16_is_refused(request, kind):
    folder = request.getfixturevalue(kind)[-1]
    pixels, none = pixels_of(2, 28), TextFeatures({}, (), ())
    precise, rough = (
        plain_score(load_reward(folder, CPU, dtype), pixels, none, PROMPTS) for dtype in (torch.float32, torch.bfloat16)
    )
    assert rough.dtype == torch.float32
    np.testing.assert_allclose(rough.detach(), precise.detach(), atol=0.1)
    with pytest.raises(InputError, match=r"torch\.float16"):
        load_reward(folder, CPU, torch.float16)
