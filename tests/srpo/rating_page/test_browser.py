"""The rating page in a real browser: a study by keyboard alone, over a closed browser, to the report."""

import base64
import json

import pytest
from axe_playwright_python.sync_playwright import Axe
from rating_browser import keys_for
from rating_scenes import pictures_of

from srpo_pipelines.cli import main

pytestmark = pytest.mark.real
PHONE = {"width": 390, "height": 844}


@pytest.mark.parametrize("mode", ["grade", "pair"])
def test_a_whole_study_by_keyboard(scene, browser, tmp_path, capsys, mode):
    """Three raters; the first closes the browser in the middle, takes answers back and looks into the guide."""
    out = scene.make(mode=mode, repeat_share=0.2, seconds=500.0)
    study, images = scene.study(out), pictures_of(out)
    items, files = {item.id: item for item in study.items}, []
    chrome = browser()
    for rater in ("Ann", "ben", "cho"):
        page, order, expected = chrome.start(out, rater), study.plan_of(rater.lower()), []
        for place, shown in enumerate(order):
            item = items[shown.item]
            assert page.text_content("#count") == f"{place + 1} of {len(order)}"
            names = item.images[::-1] if shown.swapped else item.images
            assert [source.partition(",")[2] for source in chrome.sources()] == [
                base64_of(images[name]) for name in names
            ]
            pressed, said = keys_for(study, shown, item)
            if rater == "Ann" and place == 2:  # a slip, found at the next item: back over the border, one key at a time
                for key in ["2"] * len(pressed) + ["1", "Backspace", *["u"] * len(pressed)]:
                    page.keyboard.press(key)
                assert page.locator("[aria-checked=true]").count() == 0
                page.keyboard.press("?")
                assert page.is_visible("#guide")
                page.keyboard.press("1")  # is for the guide now, and does nothing
                page.keyboard.press("Escape")
                page.keyboard.press("z")
                assert page.is_visible("#zoom")
                page.keyboard.press("z")
            if rater == "Ann" and place == 4:  # in the middle of an item
                page.keyboard.press(pressed[0])
                chrome.context.close()
                chrome = browser()
                page = chrome.open(out)
                page.wait_for_selector("#rate:not([hidden])")
                assert page.locator("[aria-checked=true]").count() == 1
                assert page.text_content("#count") == f"{place + 1} of {len(order)}"
                pressed = pressed[1:]
            for key in pressed:
                page.keyboard.press(key)
            expected.append({**shown._asdict(), "answers": said})
        page.wait_for_selector("#end:not([hidden])")
        file = chrome.save(tmp_path)
        assert file.name == f"ratings-{study.study}-{rater.lower()}.json"
        given = json.loads(file.read_text())
        assert given["complete"] is True
        found = [{name: answer[name] for name in answer if name != "ms"} for answer in given["answers"]]
        assert found == expected
        files.append(str(file))
        page.reload()  # finished is finished
        page.wait_for_selector("#end:not([hidden])")
        page.click("#end .other")
    table = tmp_path / "ratings.parquet"
    assert main(["ratings", "import", *files, "--study", str(out / "key"), "--output", str(table)]) == 0
    numbers = tmp_path / "said.json"
    assert main(["ratings", "report", str(table), "--output", str(numbers)]) == 0
    found = json.loads(numbers.read_text())
    # The rules ask for more time than a script takes, and say so.
    assert all("median time of an item" in one["excluded"] for one in found["raters"].values())
    assert [rater["gold"][0] == rater["gold"][1] >= 3 for rater in found["raters"].values()] == [True] * 3
    assert [rater["repeats"][0] == rater["repeats"][1] > 0 for rater in found["raters"].values()] == [True] * 3
    capsys.readouterr()


def base64_of(data):
    """As it stands in the page."""
    return base64.b64encode(data).decode()


def test_a_patient_studys_report_says_who_won(scene, browser, tmp_path, capsys):
    out = scene.make(seconds=0.0)
    study, files = scene.study(out), []
    items = {item.id: item for item in study.items}
    chrome = browser()
    for rater in ("ann", "ben", "cho"):
        page = chrome.start(out, rater)
        for shown in study.plan_of(rater):
            for key in keys_for(study, shown, items[shown.item])[0]:
                page.keyboard.press(key)
        with page.expect_download() as download:
            page.click("#save")
        files.append(tmp_path / f"{rater}.json")
        download.value.save_as(files[-1])
        page.click("#end .other")
    assert (
        main(["ratings", "import", *map(str, files), "--study", str(out / "key"), "--output", str(tmp_path / "t")]) == 0
    )
    assert main(["ratings", "report", str(tmp_path / "t")]) == 0
    shown = capsys.readouterr().out
    assert "3 raters, 8 prompts; overall, people find the tuned model better (net win rate 1.00" in shown
    assert "100.0 [38.4, 100.0]" in shown  # three who agree on eight prompts are no certainty


def test_an_unfinished_file_is_told_from_a_whole_one(scene, browser, tmp_path, capsys):
    out = scene.make()
    chrome = browser()
    page = chrome.start(out, "ann")
    for key in "11112222":
        page.keyboard.press(key)
    page.keyboard.press("g")
    with page.expect_download() as download:
        page.click("#save-now")
    file = tmp_path / "ann.json"
    download.value.save_as(file)
    command = ["ratings", "import", str(file), "--study", str(out / "key"), "--output", str(tmp_path / "t")]
    assert main(command) == 2
    assert "holds 2 of" in capsys.readouterr().err
    assert main([*command, "--partial"]) == 0
    page.click("#guide .other")  # somebody else at the same browser begins anew
    page.wait_for_selector("#start:not([hidden])")


def test_markup_in_a_prompt_does_nothing(scene, browser):
    hostile = (
        "<img src=x onerror=\"document.title='hacked'\"></script><script>document.title='hacked'</script>{word}{number}"
    )
    scene.prompt = hostile
    out = scene.make(gold_share=0.0)
    chrome = browser()
    page = chrome.start(out, "ann")
    assert "<script>" in page.text_content("#prompt")
    page.keyboard.press("z")
    assert page.title() == "Rating images"
    assert page.locator("#prompt *").count() == 0
    assert page.locator("script").count() == 2
    # Were a tag to get through all the same, the page's policy would not run it.
    page.evaluate("document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"document.title=1\">')")
    page.evaluate(
        "document.body.append(Object.assign(document.createElement('script'), {textContent: 'document.title=2'}))"
    )
    assert page.title() == "Rating images"


@pytest.mark.parametrize("inline_megabytes", [0.0, 50.0])
def test_images_are_shown_from_a_folder_or_from_the_page(scene, browser, inline_megabytes):
    out = scene.make(inline_megabytes=inline_megabytes, mode="pair")
    chrome = browser()
    page = chrome.start(out, "ann")
    chrome.wait_for_images(32)
    assert page.locator("#images img").count() == 2


@pytest.mark.parametrize(("mode", "scheme"), [("grade", "light"), ("grade", "dark"), ("pair", "light")])
def test_everybody_can_use_it(scene, browser, mode, scheme):
    """axe finds nothing, in every state of the page, on a desk and on a phone; a thumb finds every button."""
    out = scene.make(mode=mode)
    chrome = browser(color_scheme=scheme)
    page = chrome.open(out)

    def check(what):
        found = Axe().run(page)
        assert found.violations_count == 0, f"{what}: {found.generate_report()}"

    check("start")
    page.fill("#rater", "not a code!")
    page.keyboard.press("Enter")
    assert "letters" in page.text_content("#wrong")
    check("a wrong code")
    page.fill("#rater", "ann")
    page.keyboard.press("Enter")
    page.keyboard.press("1")
    check("rating")
    page.keyboard.press("?")
    check("guide")
    page.keyboard.press("Escape")
    page.set_viewport_size(PHONE)
    check("on a phone")
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    heights = page.eval_on_selector_all(".answers button", "all => all.map(one => one.getBoundingClientRect().height)")
    assert min(heights) >= 44
    for _ in range(200):
        if page.is_visible("#end"):
            break
        page.keyboard.press("2")
    check("end")
