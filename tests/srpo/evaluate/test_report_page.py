"""The report in a real browser: it asks for nothing, its viewer works by mouse and by keyboard, everyone can use it."""

import json
from pathlib import Path

import pytest
from browsers import CHROMIUM, FLAGS
from scenes import Scene

pytestmark = pytest.mark.real

HOSTILE = "</title></script><script>document.title='run'</script><img src=http://a.example/x onerror=alert(1)>"
GOOD = {"reward.srp": 0.1, "held_out.score": 0.02, "p_realistic": 0.2, "frechet": -0.3}


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("no Chromium: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield launched
        launched.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """A page with everything on it: hostile prompts, big images, categories, an earlier release, a guard's readings."""
    scene = Scene(tmp_path_factory.mktemp("page"), shift=GOOD, prompts=8, noises=2, size=160, prompt=HOSTILE)
    rows = scene.rows()
    for row in [row for row in rows if row["model"] == "tuned"]:
        rows.append(row | {"model": "tiny-srpo-1", "image": row["image"].replace("tuned", "earlier")})
    folders = scene.write(rows)
    names = ("held_out", "held_out_srp", "saturation", "contrast", "sharpness", "diversity")
    history = [{"step": 5 * n, "loss": 1 / (n + 1)} | dict.fromkeys(names, 0.3 + 0.01 * n) for n in range(5)]
    (scene.root / "checkpoint/history.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in history))
    guard = {"step": 20, "config": {"guard_tolerance": 0.02, "guard_drift": 3.0}}
    (scene.root / "checkpoint/checkpoint.json").write_text(json.dumps(guard))
    return scene.evaluate(folders) / "report.html"


class Opened:
    """The page, and what it said and asked for."""

    def __init__(self, browser, report: Path, **how):
        self.context = browser.new_context(**({"viewport": {"width": 1200, "height": 800}} | how))
        self.page = self.context.new_page()
        self.requests, self.complaints = [], []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.goto(report.as_uri())

    def __getattr__(self, name):
        return getattr(self.page, name)

    def place(self) -> tuple[float, float]:
        """Scale and horizontal place of the first image."""
        matrix = "new DOMMatrix(getComputedStyle(document.querySelector('.pane img')).transform)"
        return tuple(self.page.evaluate(f"(({{ a, e }}) => [a, e])({matrix})"))

    def shown(self) -> tuple[list[bool], str]:
        """Which side is in sight, and the first image."""
        sides = [figure.is_visible() for figure in self.page.locator("dialog#viewer figure").all()]
        return sides, self.page.locator(".pane img").first.get_attribute("src")

    def becomes(self, look, expected) -> None:
        """Input reaches the page a moment later: wait until ``look()`` is what is expected, then say what it is."""
        for _ in range(200):
            if look() == expected:
                break
            self.page.wait_for_timeout(50)
        assert look() == expected


@pytest.fixture
def opened(browser, report):
    given = []

    def with_settings(**how):
        given.append(Opened(browser, report, **how))
        return given[-1]

    yield with_settings
    for one in given:
        one.context.close()


def test_the_page_asks_for_nothing_and_complains_of_nothing(opened, report):
    """Prompts with markup are shown as text: none of it is run or loaded, with the policy on top."""
    page = opened()
    page.mouse.wheel(0, 100_000)
    page.locator("button.two").first.click()
    page.keyboard.press("Escape")
    for details in page.locator("summary").all():
        details.click()
    page.wait_for_function("[...document.images].every((image) => !image.src || image.complete)")
    assert [url for url in page.requests if not url.startswith("data:image/")] == [report.as_uri()]
    assert page.complaints == []
    assert page.title() == "Evaluation: improved"
    assert page.evaluate("[...document.images].filter((i) => i.src && !i.naturalWidth).length") == 0
    assert HOSTILE in page.locator(".prompt").first.text_content()


def test_a_pair_is_looked_into_by_keyboard_alone(opened):
    page = opened()
    first = page.locator("button.two").first
    first.focus()
    page.keyboard.press("Enter")
    viewer = page.locator("dialog#viewer")
    page.becomes(viewer.is_visible, True)
    assert page.place() == (1, 0)
    _, one = page.shown()
    for _ in range(3):
        page.keyboard.press("+")
    page.becomes(lambda: page.place()[0], pytest.approx(1.5**3))
    transforms = page.evaluate("[...document.querySelectorAll('.pane img')].map((image) => image.style.transform)")
    assert transforms[0] == transforms[1], "the same place of both images is in sight"
    _, at = page.place()
    page.keyboard.press("ArrowRight")
    page.becomes(page.place, pytest.approx((1.5**3, at - 60), abs=0.5))
    page.keyboard.press("-")
    page.becomes(lambda: page.place()[0], pytest.approx(1.5**2))
    page.keyboard.press("0")
    page.becomes(page.place, (1, 0))
    page.keyboard.press("ArrowRight")
    page.becomes(lambda: page.shown()[1] == one, False)
    page.keyboard.press("ArrowLeft")
    page.becomes(page.shown, ([True, True], one))
    page.keyboard.press("i")
    page.becomes(page.shown, ([True, False], one))
    page.keyboard.press("s")
    page.becomes(page.shown, ([False, True], one))
    page.keyboard.press("Escape")
    page.becomes(viewer.is_visible, False)
    page.becomes(lambda: first.evaluate("(button) => button === document.activeElement"), True)
    assert page.complaints == []


def test_a_pair_is_looked_into_by_mouse(opened):
    page = opened()
    page.locator("button.two").nth(1).click()
    box = page.locator(".pane").first.bounding_box()
    x, y = box["x"] + round(box["width"] / 4), box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.wheel(0, -400)
    page.becomes(lambda: page.place()[0], pytest.approx(2.718, abs=0.01))
    scale, at = page.place()
    # What lay under the pointer still does, to the pixel that a pointer tells.
    assert at + scale * (x - box["x"]) == pytest.approx(x - box["x"], abs=3)
    page.evaluate("document.addEventListener('pointermove', (event) => (window.last = [event.clientX, event.buttons]))")
    page.mouse.down()
    page.mouse.move(x - 40, y - 10, steps=4)
    page.becomes(page.place, pytest.approx((scale, at - 40), abs=1))
    page.mouse.up()
    page.mouse.move(x, y)
    page.becomes(lambda: page.evaluate("window.last"), pytest.approx([x, 0], abs=1))
    assert page.place() == pytest.approx((scale, at - 40), abs=1), "only while the button is down"
    _, one = page.shown()
    page.get_by_role("button", name="Larger", exact=True).click()
    page.becomes(lambda: page.place()[0], pytest.approx(1.5 * scale))
    page.get_by_role("button", name="Next pair", exact=True).click()
    page.becomes(lambda: page.shown()[1] == one, False)
    assert page.place() == (1, 0), "another pair begins whole"
    page.get_by_role("button", name="Close").click()
    page.becomes(page.locator("dialog#viewer").is_visible, False)
    assert page.complaints == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1200])
def test_everyone_can_use_the_page(opened, scheme, width):
    """axe finds nothing serious, with the viewer closed and open; a phone needs no sideways scrolling."""
    from axe_playwright_python.sync_playwright import Axe

    page = opened(color_scheme=scheme, viewport={"width": width, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for summary in page.locator("summary").all():
        summary.click()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for open_viewer in (False, True):
        if open_viewer:
            page.locator("button.two").first.click()
        found = Axe().run(page.page).response["violations"]
        serious = [
            (rule["id"], rule["nodes"][0]["html"][:200]) for rule in found if rule["impact"] in ("serious", "critical")
        ]
        assert serious == []
    assert page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches") is (scheme == "dark")
