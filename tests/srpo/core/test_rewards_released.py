"""Released reward files against the reference implementation, open_clip itself, on random weights."""

import json
import os
import shutil

import numpy as np
import pytest
import torch
from open_clip_models import open_clip, random_model, release
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch.nn import functional
from transformers import AutoTokenizer, CLIPConfig, CLIPModel, modeling_utils

from srpo.core.contracts.errors import InputError
from srpo.core.rewards.checkpoints import check_complete, read_checkpoint
from srpo.core.rewards.convert import convert_reward
from srpo.core.rewards.dual_encoder import ImageTower, TextTower
from srpo.core.rewards.open_clip import renamed, to_transformers

CPU = torch.device("cpu")
TEXTS = [
    "a red circle on a blue background",
    "Real. a red circle on a blue background",
    "Natural-lighting. Ein Käfer (Nr. 3), naïve café — 12 o'clock, it's 50% off!",
    "日本の庭園、霧の朝 🦊",
    "A VERY long prompt " * 20,
    "",
]


@pytest.fixture(scope="module", params=[False, True], ids=["gelu", "quick_gelu"])
def released(request, tmp_path_factory):
    """``(open_clip's model, reward folder)``; weights in the released form, converted."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("released")
    model, config = random_model(quick_gelu=request.param)
    convert_reward("open_clip", release(folder / "files", model, config), folder / "reward")
    return model, folder / "reward"


def pixels_of(number, size=28, seed=0):
    return torch.rand(number, 3, size, size, generator=torch.Generator().manual_seed(seed))


def test_scores_equal_those_of_open_clip(released):
    model, folder = released
    tower, texts = ImageTower.load(folder, CPU), TextTower.load(folder, CPU)
    pixels = pixels_of(5)
    normalised = (pixels - tower.preprocess.mean) / tower.preprocess.std
    with torch.no_grad():
        images = model.encode_image(normalised, normalize=True)
        tokens = open_clip().SimpleTokenizer(context_length=16)(TEXTS)
        expected = images @ model.encode_text(tokens, normalize=True).T
        found = tower(pixels) @ texts(TEXTS).T
    assert float(expected.std()) > 1e-2, "scores that tell images and texts apart"
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_tokens_equal_those_of_open_clip(released):
    folder = released[1]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    theirs = open_clip().SimpleTokenizer(context_length=16)(TEXTS)
    ours = tokenizer(TEXTS, padding="max_length", max_length=16, truncation=True, return_tensors="pt").input_ids
    for own, their in zip(ours.tolist(), theirs.tolist(), strict=True):
        end = their.index(49407) + 1  # what follows is padding, which causal attention never sees
        assert own[:end] == their[:end]


def test_a_reward_folder_says_how_its_images_are_made(tmp_path):
    model, config = random_model()
    files = release(tmp_path / "files", model, config, mean=[0.5] * 3, std=[0.25] * 3, resize_mode="longest")
    convert_reward("open_clip", files, tmp_path / "open")
    tower = ImageTower.load(tmp_path / "open", CPU)
    assert tower.preprocess.mean.flatten().tolist() == [0.5] * 3
    assert tower.preprocess.std.flatten().tolist() == [0.25] * 3


def test_names_and_shapes_of_vit_h_14():
    """The whole of HPSv2's model, on the meta device: every weight finds its place, none is left over."""
    with torch.device("meta"):
        model = open_clip().CLIP(**open_clip().get_model_config("ViT-H-14"))
    weights = model.state_dict()
    config = to_transformers(weights, None)
    check_complete(lambda: CLIPModel(config), renamed(weights))
    assert (config.vision_config.num_attention_heads, config.text_config.num_attention_heads) == (16, 16)
    assert (config.vision_config.image_size, config.vision_config.num_hidden_layers) == (224, 32)
    assert config.vision_config.hidden_act == config.text_config.hidden_act == "gelu"


def test_names_and_shapes_of_openai_vit_l_14():
    stated = open_clip().get_model_config("ViT-L-14-quickgelu")
    with torch.device("meta"):
        weights = open_clip().CLIP(**stated).state_dict()
        published = CLIPModel(
            CLIPConfig(
                projection_dim=768,
                vision_config={
                    "hidden_size": 1024,
                    "intermediate_size": 4096,
                    "num_hidden_layers": 24,
                    "num_attention_heads": 16,
                    "patch_size": 14,
                },
                text_config={"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12},
            )
        ).state_dict()
    config = to_transformers(weights, stated)
    assert config.text_config.hidden_act == "quick_gelu"
    assert {name: value.shape for name, value in renamed(weights).items()} == {
        name: value.shape for name, value in published.items()
    }


class Code:
    """What a pickle would run when it is read."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_checkpoint_is_refused_and_not_run(tmp_path, zipped):
    weights = {"state_dict": {"a": torch.ones(2), "b": Code(tmp_path / "ran")}}
    torch.save(weights, tmp_path / "evil.pt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(InputError, match=r"evil\.pt.*carry code.*mkdir"):
        convert_reward("hpsv2", {"weights": tmp_path / "evil.pt"}, tmp_path / "reward")
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "reward").exists()


def test_a_file_that_is_no_checkpoint_is_refused(tmp_path):
    (tmp_path / "page.pt").write_text("<!DOCTYPE html><html><body>404 Not Found</body></html>")
    (tmp_path / "page.safetensors").write_text("<!DOCTYPE html><html><body>404 Not Found</body></html>")
    torch.save({"a": torch.ones(1000)}, tmp_path / "whole.pt")
    (tmp_path / "cut.pt").write_bytes((tmp_path / "whole.pt").read_bytes()[:900])
    (tmp_path / "empty.pt").touch()
    torch.save({"a": 1}, tmp_path / "number.pt")
    torch.save([torch.ones(2)], tmp_path / "list.pt")
    names = ("page.pt", "page.safetensors", "cut.pt", "empty.pt", "number.pt", "list.pt", "missing.pt")
    for name in names:
        with pytest.raises(InputError, match=name.replace(".", r"\.")):
            read_checkpoint(tmp_path / name)
    assert read_checkpoint(tmp_path / "whole.pt").keys() == {"a"}


def test_weights_of_another_model_are_refused(tmp_path):
    model, config = random_model()
    files = release(tmp_path / "files", model, config)

    def refused(match, weights, **others):
        torch.save({"state_dict": weights}, tmp_path / "other.pt")
        given = {name: path for name, path in {**files, "weights": tmp_path / "other.pt", **others}.items() if path}
        with pytest.raises(InputError, match=match):
            convert_reward("open_clip", given, tmp_path / "reward")
        assert not (tmp_path / "reward").exists()

    whole = model.state_dict()
    refused("'visual.conv1.weight'", {"a": torch.ones(2)})
    refused("'head.weight'", whole | {"head.weight": torch.ones(2)})
    refused("'logit_scale'", {name: value for name, value in whole.items() if name != "logit_scale"})
    refused("40 wide.*open_clip_config", whole, **{"open_clip_config.json": None})
    refused(r"merges\.txt", whole, **{"merges.txt": None})
    refused("tokenizer cannot be loaded", whole, **{"tokenizer.json": files["merges.txt"]})
    with pytest.raises(InputError, match=r"'onnx'.*aesthetic, clip, hpsv2, image_reward, open_clip"):
        convert_reward("onnx", files, tmp_path / "reward")


def test_weights_of_a_distributed_wrapper_and_in_half_precision(released, tmp_path):
    """Prefix `module.`; float16 in the file is computed in float32."""
    model = released[0]
    weights = {f"module.{name}": value.half() for name, value in model.state_dict().items()}
    torch.save({"state_dict": weights}, tmp_path / "half.pt")
    half = {name: value.half().float() for name, value in model.state_dict().items()}
    found = renamed(read_checkpoint(tmp_path / "half.pt"))
    assert found.keys() == renamed(half).keys()
    for name, value in renamed(half).items():
        torch.testing.assert_close(found[name].float(), value, rtol=0, atol=0)


def test_a_transformers_folder_is_taken_as_it_is(released, tmp_path):
    folder = released[1]
    files = {path.name: path for path in folder.iterdir()}
    convert_reward("clip", files, tmp_path / "same")
    assert {path.name: path.read_bytes() for path in (tmp_path / "same").iterdir()} == {
        name: path.read_bytes() for name, path in files.items()
    }
    torch.save(read_checkpoint(files.pop("model.safetensors")), tmp_path / "pytorch_model.bin")
    convert_reward("clip", files | {"pytorch_model.bin": tmp_path / "pytorch_model.bin"}, tmp_path / "from_bin")
    pixels = pixels_of(2)
    expected, found = (ImageTower.load(tmp_path / name, CPU)(pixels) for name in ("same", "from_bin"))
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    with pytest.raises(InputError, match=r"preprocessor_config\.json"):
        convert_reward("clip", {name: files[name] for name in ("config.json",)}, tmp_path / "bare")


def test_hpsv2_pads_its_images(tmp_path):
    """A wide image against open_clip's model on PIL's padded one."""
    model, config = random_model()
    convert_reward("hpsv2", release(tmp_path / "files", model, config), tmp_path / "reward")
    tower = ImageTower.load(tmp_path / "reward", CPU)
    wide = np.random.default_rng(0).random((3, 21, 42), dtype=np.float32)
    scaled = np.stack([np.asarray(Image.fromarray(one).resize((28, 14), Image.Resampling.BICUBIC)) for one in wide])
    padded = torch.from_numpy(np.pad(scaled, ((0, 0), (7, 7), (0, 0))))[None]
    with torch.no_grad():
        normalised = (padded - tower.preprocess.mean) / tower.preprocess.std
        expected = model.encode_image(normalised, normalize=True)
        torch.testing.assert_close(tower(torch.from_numpy(wide)[None]), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("size", [28, 45])
def test_the_gradient_in_the_pixels_is_that_of_finite_differences(released, size):
    folder = released[1]
    tower, target = ImageTower.load(folder, CPU), TextTower.load(folder, CPU)(["a red circle"])[0]
    pixels = pixels_of(1, size).requires_grad_()
    (gradient,) = torch.autograd.grad((tower(pixels) @ target).sum(), pixels)
    assert bool(torch.isfinite(gradient).all())
    norm, step = float(gradient.norm()), 0.02
    assert norm > 1e-3
    with torch.no_grad():
        up, down = (tower(pixels + sign * step * gradient / norm) @ target for sign in (1, -1))
    assert float((up - down).sum() / (2 * step)) == pytest.approx(norm, rel=0.02)


def test_bfloat16_scores_nearly_the_same(released):
    precise, rough = (
        ImageTower.load(released[1], CPU, dtype)(pixels_of(3)) for dtype in (torch.float32, torch.bfloat16)
    )
    assert rough.dtype == torch.float32
    assert float(functional.cosine_similarity(precise, rough).min()) > 0.995


@pytest.mark.parametrize(
    ("load", "other"), [(ImageTower.load, "text"), (TextTower.load, "vision"), (ImageTower.load, "logit")]
)
def test_a_tower_reads_no_weight_of_the_other(released, tmp_path, monkeypatch, load, other):
    """A file that lacks the other tower is loaded; and of a whole one, no byte of the other tower is asked for."""
    folder = tmp_path / "alone"
    shutil.copytree(released[1], folder)
    weights = load_file(folder / "model.safetensors")
    own = {name: value for name, value in weights.items() if not name.startswith(other)}
    assert len(own) < len(weights)
    save_file(own, folder / "model.safetensors", {"format": "pt"})
    load(folder, CPU)

    asked = []

    class Slice:
        def __init__(self, name, value):
            self.name, self.value = name, value

        def __getattr__(self, name):
            return getattr(self.value, name)

        def __getitem__(self, place):
            asked.append(self.name)
            return self.value[place]

    class File:
        def __init__(self, *arguments, **options):
            self.file = safe_open(*arguments, **options)

        def __getattr__(self, name):
            return getattr(self.file, name)

        def __enter__(self):
            self.file.__enter__()
            return self

        def __exit__(self, *error):
            return self.file.__exit__(*error)

        def get_slice(self, name):
            return Slice(name, self.file.get_slice(name))

        def get_tensor(self, name):
            asked.append(name)
            return self.file.get_tensor(name)

    monkeypatch.setattr(modeling_utils, "safe_open", File)
    load(released[1], CPU)
    assert len(asked) > 10
    assert not [name for name in asked if name.startswith(other)]


def test_a_folder_that_lacks_weights_is_refused(released, tmp_path):
    """transformers would fill in random ones, and the reward would be noise."""
    shutil.copytree(released[1], tmp_path / "reward")
    weights = load_file(released[1] / "model.safetensors")
    for name, load in (("visual_projection.weight", ImageTower.load), ("text_projection.weight", TextTower.load)):
        rest = {key: value for key, value in weights.items() if key != name}
        save_file(rest, tmp_path / "reward" / "model.safetensors", {"format": "pt"})
        with pytest.raises(InputError, match=name):
            load(tmp_path / "reward", CPU)


def test_pickscore_as_the_hub_has_it(released, tmp_path):
    """A transformers folder whose configuration still names 2 as the end of a text, as those of before 2023 do."""
    shutil.copytree(released[1], tmp_path / "reward")
    config = json.loads((tmp_path / "reward" / "config.json").read_text())
    config["text_config"] |= {"eos_token_id": 2, "bos_token_id": 0, "pad_token_id": 1}
    (tmp_path / "reward" / "config.json").write_text(json.dumps(config))
    tokens = open_clip().SimpleTokenizer(context_length=16)(TEXTS)
    with torch.no_grad():
        expected = released[0].encode_text(tokens, normalize=True)
    torch.testing.assert_close(TextTower.load(tmp_path / "reward", CPU)(TEXTS), expected, rtol=0, atol=1e-4)
