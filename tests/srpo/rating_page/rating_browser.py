"""A real browser at a rating page, and what a rater with a taste presses."""

import time

from browsers import CHROMIUM, FLAGS


class Browser:
    """A browser with a profile that outlives it; it must have asked for nothing but what begins as ``allowed``."""

    def __init__(self, driver, profile, allowed=("file:",), **options):
        self.allowed = (*allowed, "data:", "blob:")
        self.context = driver.launch_persistent_context(
            profile, executable_path=CHROMIUM, args=FLAGS, accept_downloads=True, **options
        )
        self.context.set_default_timeout(60_000)
        self.page = self.context.new_page()
        self.errors, self.asked = [], []
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.errors.append(dialog.message), dialog.dismiss()))
        self.page.on("request", lambda request: self.asked.append(request.url))

    def open(self, out):
        self.page.goto((out / "page/index.html").as_uri())
        return self.page

    def start(self, out, rater):
        self.open(out)
        return self.sign_in(rater)

    def sign_in(self, rater):
        self.page.fill("#rater", rater)
        self.page.keyboard.press("Enter")
        self.page.wait_for_selector("#rate:not([hidden])")
        return self.page

    def sources(self):
        """The images on the page, from left to right, as they are named in it."""
        return self.page.eval_on_selector_all("#images img", "images => images.map(image => image.src)")

    def wait_for_images(self, width):
        """Until all images on the page are there, this many pixels wide."""
        self.page.wait_for_selector("#images img")
        self.until(f"[...document.querySelectorAll('#images img')].every(image => image.naturalWidth === {width})")

    def until(self, expression):
        """Until that is true in the page. (The page's policy forbids what playwright waits with.)"""
        deadline = time.monotonic() + 60
        while not self.page.evaluate(expression):
            assert time.monotonic() < deadline, f"never true: {expression}"
            self.page.wait_for_timeout(50)

    def save(self, folder):
        """The file that the rater gets at the end."""
        with self.page.expect_download() as download:
            self.page.keyboard.press("s")
        file = folder / download.value.suggested_filename
        download.value.save_as(file)
        return file


def keys_for(study, shown, item):
    """What a rater with a taste for tuned images presses, and what that must come back as."""
    pressed, said = [], {}
    for number, dimension in enumerate(study.dimensions):
        if study.mode == "grade":
            grade = 3 if item.gold else 0 if item.models[0] == "tuned" else 1 + (shown.item > "8") * (number == 0)
            pressed.append("1234"[grade])
            said[dimension] = study.answers[grade]
        else:
            choice = item.gold.accepted[0] if item.gold else "ab"[item.models.index("tuned")]
            left = (choice == "a") != shown.swapped
            pressed.append(("ArrowLeft" if left else "ArrowRight") if number % 2 else "13"[not left])
            said[dimension] = choice
    return pressed, said
