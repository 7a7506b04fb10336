"""The rating page in a release: the page and its images, never the key, and none that would make the release huge."""

import json

import moto
import pytest
from rating_scenes import Scene, pictures_of
from test_export import Run

from srpo.core.contracts.errors import InputError
from srpo.core.execution.stage import execute
from srpo.core.storage.consumers import verify
from srpo.core.storage.s3 import client
from srpo.export.run import STAGE
from srpo.rating_page.run import STAGE as RATING_PAGE


@pytest.fixture
def finished(tmp_path):
    return Run(tmp_path)


def manifest_of(run, result):
    return json.loads((run.destination / "releases" / result["id"] / "manifest.json").read_text())


@pytest.mark.parametrize("inline_megabytes", [0.0, 50.0])
def test_a_release_holds_the_page_and_its_images_and_nothing_of_the_key(finished, inline_megabytes):
    """As the stages make them: a real page of real samples."""
    Scene(finished.artifacts / "rated", prompts=4).write()
    samples = finished.artifact("rated/samples", "sample", {"seed": 0})
    config = {"inline_megabytes": inline_megabytes}
    made = execute(RATING_PAGE, config, finished.workspace, {"samples": [samples]}, {})
    inputs = finished.write() | {"rating_page": made / "page"}
    result = execute(STAGE, {"destination": str(finished.destination)}, finished.workspace, inputs, {})
    release = json.loads((result / "release/release.json").read_text())
    folder = finished.destination / "releases" / release["id"]
    rating = {path.relative_to(folder / "rating").as_posix() for path in (folder / "rating").rglob("*.*")}
    images = {f"images/{name}.bmp" for name in pictures_of(made)} if not inline_megabytes else set()
    assert rating == {"index.html"} | images
    assert (folder / "rating/index.html").read_bytes() == (made / "page/index.html").read_bytes()
    manifest = manifest_of(finished, release)
    assert manifest["rating_page"] == "rating/index.html"
    assert manifest["config"]["rating_page"]["mode"] == "grade"
    assert verify(f"{finished.destination}@{release['id']}") == []
    key = json.loads((made / "key/key.json").read_text())
    hidden = {path.name for path in (made / "key").iterdir()} - {"manifest.json"}
    assert hidden == {"key.json"}
    assert not any(path.name == "key.json" for path in folder.rglob("*"))
    for path in folder.rglob("*"):
        if path.is_file() and path.parent.name != "rating":
            assert key["items"][0]["id"].encode() not in path.read_bytes(), path


def test_the_key_in_the_pages_place_is_refused(finished):
    inputs = finished.write()
    inputs["rating_page"] = finished.artifact("key", "rating_page", {})
    with pytest.raises(InputError, match="is the artifact 'key': it must be the `page` of rating_page"):
        execute(STAGE, {"destination": str(finished.destination)}, finished.workspace, inputs, {})
    assert list((finished.destination / "releases").glob("*")) == []


@pytest.mark.parametrize(("megabytes", "there"), [(0.0, False), (0.001, False), (0.002, True)])
def test_a_page_beyond_the_limit_stays_out_and_the_manifest_says_so(finished, megabytes, there):
    finished.page = "x" * 1500
    result, _ = finished.export(rating_page_megabytes=megabytes)
    manifest = manifest_of(finished, result)
    assert manifest["rating_page"] == ("rating/index.html" if there else None)
    assert manifest["stages"]["rating_page"]["key"] == "key-page"
    card = (finished.destination / "releases" / result["id"] / "README.md").read_text()
    assert ("rating/index.html" in card) == there


def test_the_same_page_gives_the_same_release_and_another_gives_another(finished):
    first, again = (finished.export()[0]["id"] for _ in range(2))
    finished.page = "<!doctype html>rate these"
    assert first == again != finished.export()[0]["id"]


def test_without_a_page_there_is_a_release_all_the_same(finished):
    inputs = finished.write()
    del inputs["rating_page"]
    made = execute(STAGE, {"destination": str(finished.destination)}, finished.workspace, inputs, {})
    release = json.loads((made / "release/release.json").read_text())
    assert manifest_of(finished, release)["rating_page"] is None


def test_objects_say_what_they_are_so_that_a_browser_opens_a_page(finished, monkeypatch):
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    with moto.mock_aws():
        client().create_bucket(Bucket="models")
        result, _ = finished.export("s3://models/x")
        kinds = {
            name: client().head_object(Bucket="models", Key=f"x/releases/{result['id']}/{name}")["ContentType"]
            for name in ("rating/index.html", "report.html", "manifest.json", "samples/01-after.png")
        }
    assert list(kinds.values()) == ["text/html", "text/html", "application/json", "image/png"]
