"""The rating page in a real browser from a real S3 server, put there as docs/ratings.md says, to an imported file."""

from pathlib import Path

import pytest
from rating_browser import keys_for

from srpo.core.storage.releases import Item, publish
from srpo_pipelines.cli import main

pytestmark = pytest.mark.real
DOCS = Path(__file__).parents[3] / "docs" / "ratings.md"


@pytest.fixture
def put(s3_server, monkeypatch, capsys):
    """Runs the example of the docs; gives the signed link that it prints."""
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    example = DOCS.read_text(encoding="utf-8").partition("## From a bucket")[2]
    example = example.partition("```python\n")[2].partition("```")[0]

    def run(page, bucket):
        code = example.replace('"studies"', repr(bucket)).replace('"runs/demo/rating"', repr(str(page)))
        capsys.readouterr()
        exec(compile(code, str(DOCS), "exec"), {})
        return capsys.readouterr().out.strip()

    return run


@pytest.mark.parametrize("form", ["one file", "a folder"])
def test_a_page_in_s3_is_rated_and_saved(scene, browser, s3_server, put, tmp_path, capsys, form):
    out = scene.make(mode="pair", seconds=0.0, inline_megabytes=50.0 if form == "one file" else 0.0)
    study, bucket = scene.study(out), s3_server.bucket()
    items = {item.id: item for item in study.items}
    link = put(out / "page", bucket)
    if form == "a folder":
        link = f"{s3_server.readable_by_all(bucket)}/run-7/index.html"
    chrome = browser(allowed=(s3_server.endpoint,))
    chrome.page.goto(link)
    page, order = chrome.sign_in("ann"), study.plan_of("ann")
    for place, shown in enumerate(order):
        chrome.wait_for_images(scene.size)
        if place == 0 and form == "a folder":  # the images of what comes next are there before they are needed
            soon = {name for later in order[:4] for name in items[later.item].images}
            chrome.until(f"performance.getEntriesByType('resource').length >= {len(soon)}")
            assert {Path(url).stem for url in chrome.asked if "/images/" in url} == soon
        if place == 2:
            page.reload()
        if place == 3:  # another day, and by another link: a signed one ends
            chrome.context.close()
            chrome = browser(allowed=(s3_server.endpoint,))
            page = chrome.page
            page.goto(put(out / "page", bucket) if form == "one file" else link)
        page.wait_for_selector("#rate:not([hidden])")
        assert page.text_content("#count") == f"{place + 1} of {len(order)}"
        for key in keys_for(study, shown, items[shown.item])[0]:
            page.keyboard.press(key)
    page.wait_for_selector("#end:not([hidden])")
    file = chrome.save(tmp_path)
    table = str(tmp_path / "ratings.parquet")
    assert main(["ratings", "import", str(file), "--study", str(out / "key"), "--output", table]) == 0
    assert main(["ratings", "report", table]) == 0
    assert "1 rater, 8 prompts" in capsys.readouterr().out
    fetched = [url for url in chrome.asked if not url.startswith(("data:", "blob:"))]
    assert all(url.startswith(s3_server.endpoint) for url in fetched)
    assert any("/images/" in url for url in fetched) == (form == "a folder")


def test_the_page_of_a_release_opens_by_a_signed_link(scene, browser, s3_server, monkeypatch):
    """A browser would save what the release's upload had not called a page."""
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    bucket, name = s3_server.bucket(), "rating/index.html"
    publish(f"s3://{bucket}/models", "r-1", [Item.of_file(name, scene.make() / "page/index.html")], {})
    target = {"Bucket": bucket, "Key": f"models/releases/r-1/{name}"}
    chrome = browser(allowed=(s3_server.endpoint,))
    chrome.page.goto(s3_server.client().generate_presigned_url("get_object", Params=target, ExpiresIn=600))
    chrome.sign_in("ann")
    chrome.wait_for_images(scene.size)
