"""The stored weights, loaded once for all tests."""

import numpy as np
import pytest
import torch
from diffusers import FluxPipeline
from transformers import AutoModel, AutoTokenizer

from srpo.tiny import WEIGHTS, judge, world
from srpo.tiny.training import Pool, to_pixels


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def load_pipeline():
    def load(path):
        pipe = FluxPipeline.from_pretrained(path, torch_dtype=torch.float32, local_files_only=True)
        pipe.set_progress_bar_config(disable=True)
        return pipe

    return load


@pytest.fixture(scope="session")
def pipeline(load_pipeline):
    return load_pipeline(WEIGHTS / "flux")


@pytest.fixture(scope="session")
def the_judge():
    return judge.load_judge(WEIGHTS / "judge")


class Scorer:
    """A stored reward through the Auto classes: unit features of images [N, 3, 32, 32] and of texts."""

    def __init__(self, path):
        self.model = AutoModel.from_pretrained(path, dtype=torch.float32, local_files_only=True).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)

    @torch.no_grad()
    def images(self, pixels, mean, std):
        pixels = (pixels - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
        features = self.model.get_image_features(pixel_values=pixels).pooler_output
        return torch.nn.functional.normalize(features, dim=-1)

    @torch.no_grad()
    def texts(self, texts):
        tokens = self.tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt")
        return torch.nn.functional.normalize(self.model.get_text_features(**tokens).pooler_output, dim=-1)


@pytest.fixture(scope="session", params=["reward", "held_out"])
def scorer_name(request):
    return request.param


@pytest.fixture(scope="session")
def scorers():
    return {name: Scorer(WEIGHTS / name) for name in ("reward", "held_out")}


@pytest.fixture(scope="session")
def renders():
    """Renders that no recipe saw: every scene once flat and once realistic, in this order."""
    rng = np.random.default_rng(987_654)
    scenes = world.all_scenes()
    spans = ((0.0, world.FLAT_TO), (world.REALISTIC_FROM, 1.0))
    examples = [
        world.Example(scene, float(rng.uniform(*span)), world.caption(scene)) for span in spans for scene in scenes
    ]
    return Pool(examples, to_pixels(np.stack([world.render(e.scene, e.style, rng) for e in examples])))
