"""The page and its key: what is asked, of which images, and what is refused."""

import io

import numpy as np
import pytest
from PIL import Image
from rating_scenes import Scene, data_of, pictures_of

from srpo.core.contracts.errors import InputError
from srpo.rating_page.config import Config


def test_images_are_the_samples_pixels_and_nothing_else(scene):
    out = scene.make()
    images, study = pictures_of(out), scene.study(out)
    originals = {}
    for row in scene.rows:
        with Image.open(scene.root / "samples" / row["image"]) as image:
            originals[row["prompt_id"], row["noise_index"], row["model"]] = np.array(image)
    for item in study.items:
        if item.gold is None:
            with Image.open(io.BytesIO(images[item.images[0]])) as image:
                assert set(image.info) == {"dpi", "compression"}  # what every BMP says
                assert not image.getexif()
                found = np.array(image.convert("RGB"))
            assert np.array_equal(found, originals[item.prompt_id, item.noise_index, item.models[0]])


def test_the_page_names_no_model_and_the_key_is_not_in_it(scene):
    scene.models = ("base", "tuned", "release-seven")
    out = scene.make()
    text = (out / "page/index.html").read_text()
    for word in ("tuned", "release-seven", '"base"', "gold", "00000000", "checkpoint"):
        assert word not in text, word
    assert [path.name for path in (out / "page").iterdir()] == ["index.html"]
    assert [path.name for path in (out / "key").iterdir()] == ["key.json"]
    assert "release-seven" in (out / "report.html").read_text()  # that one is for whoever runs the study


def test_names_follow_from_the_samples_and_cannot_be_computed_without_them(scene):
    shard = scene.write()
    first, again, seeded = (scene.make(shard, into=name, seed=seed) for name, seed in (("a", 0), ("b", 0), ("c", 1)))
    for name in ("page/index.html", "key/key.json"):
        assert (first / name).read_bytes() == (again / name).read_bytes()
    row = scene.rows[0]
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(shard / row["image"])
    changed = scene.make(shard, into="d")
    ids = [{item.id for item in scene.study(out).items} for out in (first, seeded, changed)]
    assert not ids[0] & ids[1]
    assert not ids[0] & ids[2]


def test_prompts_with_markup_are_text_in_the_page(scene):
    scene.prompt = "</script><script>alert(1)</script><img src=x onerror=alert(2)> {word} \"{number}'&"
    out = scene.make()
    assert data_of(out / "page/index.html")["items"][0]["prompt"].startswith("</script><script>")
    text = (out / "page/index.html").read_text()
    assert text.count("<script>") == 1
    assert "<img" not in text
    assert "<script>alert" not in (out / "report.html").read_text()


def test_every_prompt_has_every_model_and_gold_items_hide_among_them(scene):
    study = scene.study(scene.make(noises=2, gold_share=0.25))
    plain = [item for item in study.items if item.gold is None]
    gold = [item for item in study.items if item.gold]
    assert sorted((i.prompt_id, i.noise_index, i.models[0]) for i in plain) == sorted(
        (row["prompt_id"], row["noise_index"], row["model"]) for row in scene.rows
    )
    assert len(gold) == 8
    assert {item.gold.dimension for item in gold} == {"realism", "alignment"}
    assert {item.group for item in gold} <= {item.group for item in plain}
    assert [item.id for item in study.items] == sorted(item.id for item in study.items)


def test_a_gold_prompt_is_another_images(scene):
    out = scene.make(gold_share=0.25)
    shown = {item["id"]: item["prompt"] for item in data_of(out / "page/index.html")["items"]}
    own = {row["prompt_id"]: row["prompt"] for row in scene.rows}
    for item in scene.study(out).items:
        foreign = item.gold is not None and item.gold.dimension == "alignment"
        assert (shown[item.id] != own[item.prompt_id]) == foreign


def test_pairs_are_all_pairs_of_models_and_gold_knows_the_better_side(scene):
    scene.models = ("base", "tuned", "other")
    out = scene.make(mode="pair", gold_share=0.5)
    study, images = scene.study(out), pictures_of(out)
    plain = [frozenset(item.models) for item in study.items if item.gold is None]
    for pair in (("base", "tuned"), ("base", "other"), ("tuned", "other")):
        assert plain.count(frozenset(pair)) == 8
    originals = {images[name] for item in study.items if not item.gold for name in item.images}
    pixels = {Image.open(io.BytesIO(data)).convert("RGB").tobytes() for data in originals}
    for item in study.items:
        if item.gold:
            better = item.images["ab".index(item.gold.accepted[0])]
            assert Image.open(io.BytesIO(images[better])).convert("RGB").tobytes() in pixels


def test_prompts_are_taken_from_every_category_and_the_rating_split_goes_first(scene):
    study = scene.study(scene.make(max_prompts=4, gold_share=0.0))
    assert sorted(item.category for item in study.items) == ["anime"] * 4 + ["photo"] * 4
    folder = scene.write()
    scene.split = "rating"
    scene.prompts = 3
    rated = Scene(scene.root / "rated", prompts=3, split="rating")
    study = scene.study(scene.make(folder, rated.write(), into="both", gold_share=0.0))
    assert {item.prompt_id for item in study.items} == {f"{number:016x}" for number in range(3)}


@pytest.mark.parametrize(
    ("break_it", "said"),
    [
        (lambda scene, folder: (folder / scene.rows[0]["image"]).unlink(), "which is missing beside it"),
        (
            lambda scene, folder: (folder / scene.rows[0]["image"]).write_bytes(b"no image"),
            "cannot be read as an image",
        ),
        (lambda scene, folder: Image.new("RGB", (64, 64)).save(folder / scene.rows[0]["image"]), "must be the same"),
    ],
)
def test_samples_that_cannot_be_compared_are_refused(scene, break_it, said):
    folder = scene.write()
    break_it(scene, folder)
    with pytest.raises(InputError, match=said):
        scene.make(folder)


def test_a_single_model_is_refused(scene):
    scene.models = ("base",)
    with pytest.raises(InputError, match="at least 2 models"):
        scene.make()


@pytest.mark.parametrize(
    "setting",
    [{"max_prompts": 0}, {"repeat_share": 0.9}, {"inline_megabytes": 501}, {"gold_accuracy": 2.0}, {"seed": -1}],
)
def test_settings_out_of_range_are_refused_by_name(setting):
    with pytest.raises(InputError, match=next(iter(setting))):
        Config(**setting)
