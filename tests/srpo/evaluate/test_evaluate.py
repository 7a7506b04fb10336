"""The stage from shards to verdict and page."""

import base64
import hashlib
import json
import re
import sys
from html.parser import HTMLParser

import numpy as np
import pytest

from srpo.core.contracts.errors import InputError

GOOD = {"reward.srp": 0.1, "held_out.score": 0.02, "p_realistic": 0.2, "frechet": -0.3}


def test_a_clean_gain_passes_and_shows_the_judge(scene):
    scene.shift = GOOD
    result = scene.result()
    assert (result["kind"], result["effect"], result["passed"]) == ("improved", True, True)
    assert result["schema"] == "srpo.evaluation/1"
    assert (result["prompts"], result["images"]) == (12, 72)
    assert result["delta"]["srp"]["mean"] == pytest.approx(0.1, abs=0.02)
    assert result["after"]["srp"] - result["before"]["srp"] == pytest.approx(result["delta"]["srp"]["mean"])
    assert result["delta"]["srp"]["low"] < result["delta"]["srp"]["mean"] < result["delta"]["srp"]["high"]
    assert result["delta"]["frechet"]["high"] < 0
    for said in ("trained reward", "held-out reward", "judged realistic", "content kept", "Fréchet"):
        assert said in result["verdict"]


def test_identical_images_have_no_effect(scene):
    scene.gates = ("held_out.delta.low > -0.02",)  # even where every gate holds
    result = scene.result()
    assert all(entry == {"mean": 0, "low": 0, "high": 0} for entry in result["delta"].values())
    assert "frechet" in result["delta"]
    assert "No effect was found" in result["verdict"]
    assert (result["effect"], result["passed"]) == (False, False)


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        ({"held_out.score": -0.15}, "held-out reward"),
        ({"content": -0.4}, "content kept"),
        ({"frechet": 0.6}, "Fréchet distance"),
        ({"p_realistic": -0.2}, "judged realistic"),
    ],
)
def test_a_hacked_reward_cannot_look_like_success(scene, harm, said):
    scene.shift = GOOD | harm
    scene.gates = ("srp.delta.low > 0",)
    result = scene.result()
    assert (result["kind"], result["passed"]) == ("hacked", False)
    assert re.match(f"Reward hacking is likely.*{said}.*got worse", result["verdict"])


def test_a_loss_within_a_gate_is_a_cost_that_the_verdict_names(scene):
    scene.shift = GOOD | {"held_out.score": -0.015}
    result = scene.result(gates=("srp.delta.low > 0", "held_out.delta.low > -0.04"))
    assert (result["kind"], result["passed"]) == ("cost", True)
    assert "at a cost in held-out reward" in result["verdict"]


def test_a_gain_that_the_judge_does_not_see_is_not_called_an_improvement(scene):
    scene.shift = {"reward.srp": 0.1, "p_realistic": 0.0, "held_out.score": 0.02}
    result = scene.result()
    assert result["kind"] == "unconfirmed"
    assert "judge sees no more realism" in result["verdict"]


def test_worse_is_called_worse(scene):
    scene.shift = {"reward.srp": -0.1, "held_out.score": -0.1, "p_realistic": -0.2}
    result = scene.result()
    assert (result["kind"], result["effect"], result["passed"]) == ("worse", True, False)


def test_without_a_judge_the_verdict_asks_for_people(scene):
    scene.shift, scene.judge = GOOD, False
    result = scene.result()
    assert "frechet" not in result["delta"]
    assert "people's ratings" in result["verdict"]


def test_a_failed_gate_stops_a_gain_from_passing(scene):
    scene.shift = GOOD
    result = scene.result(gates=("srp.delta.low > 0.5",))
    assert (result["kind"], result["passed"], result["gates"][0]["passed"]) == ("improved", False, False)


def test_the_order_of_shards_and_a_second_run_change_no_byte(scene):
    scene.shift, scene.shards = GOOD, 3
    folders = scene.write()
    outs = [scene.evaluate(order, name) for order, name in ((folders, "a"), (folders[::-1], "b"), (folders, "c"))]
    for name in ("evaluation/evaluation.json", "report.html", "metrics.json"):
        assert len({(out / name).read_bytes() for out in outs}) == 1, name
    assert (outs[0] / "report.html").read_bytes() == (outs[0] / "evaluation" / "report.html").read_bytes()


def test_metrics_are_flat_finite_numbers(scene):
    scene.shift = GOOD
    metrics = json.loads((scene.evaluate() / "metrics.json").read_text())
    assert all(type(value) is float and np.isfinite(value) for value in metrics.values())
    assert metrics["passed"] == 1
    assert metrics["srp_delta_low"] > 0


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda rows: rows.pop(7), "prompt 0000000000000001, noise 0, model tuned is missing"),
        (lambda rows: rows.append(dict(rows[0])), "prompt 0000000000000000, noise 0, model base is in samples twice"),
        (lambda rows: rows[3]["scores"].pop("saturation"), "noise 1, model tuned differs.*'saturation'"),
        (lambda rows: rows[3]["scores"].update(content=float("nan")), "content nan: it must be a finite"),
        (lambda rows: rows[3].update(features=[1.0]), "features of lengths"),
        (lambda rows: rows[3].update(model="other"), "noise 1, model tuned is missing"),
        (lambda rows: [row.update(model="base") for row in rows[1::2]], "is in samples twice"),
        (lambda rows: rows.__delitem__(slice(1, None, 2)), "no images of 'tuned': found are base"),
        (lambda rows: rows.__delitem__(slice(6, None)), "1 prompts: at least 2"),
    ],
)
def test_samples_that_do_not_pair_are_refused_by_name(scene, spoil, message):
    scene.shards = 1
    rows = scene.rows()
    spoil(rows)
    with pytest.raises(InputError, match=message):
        scene.evaluate(scene.write(rows))


def test_missing_or_broken_files_are_refused_by_name(scene):
    folders = scene.write()
    (scene.root / "checkpoint" / "history.jsonl").write_text('{"step": 1}\n{"st')
    with pytest.raises(InputError, match=r"history\.jsonl:2"):
        scene.evaluate(folders, "a")
    (scene.root / "checkpoint" / "history.jsonl").unlink()
    scene.evaluate(folders, "b")  # no history: a page without curves
    (scene.root / "judge" / "reference.safetensors").write_bytes(b"cut")
    with pytest.raises(InputError, match=r"reference\.safetensors cannot be read"):
        scene.evaluate(folders, "c")
    next((folders[0] / "images").iterdir()).unlink()
    with pytest.raises(InputError, match=r"image .* missing"):
        scene.evaluate(folders, "d")


class Page(HTMLParser):
    """Collects what a page would load and run."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href", "srcset", "action", "data")]
        assert not [name for name, _ in attrs if name.startswith("on")]


def test_the_page_escapes_prompts_and_loads_nothing(scene):
    scene.shift, scene.prompt = GOOD, "<script>alert(1)</script>\" onerror='x' <img src=http://a.example/b>"
    html = (scene.evaluate() / "report.html").read_text(encoding="utf-8")
    page = Page()
    page.feed(html)
    assert page.tags.count("script") == 1, "our own alone"
    assert "link" not in page.tags
    assert page.links
    assert all(link.startswith(("data:image/", "data:application/json")) for link in page.links)
    assert "url(" not in html
    assert "@import" not in html
    assert "&lt;script&gt;alert(1)" in html


def test_the_page_forbids_every_script_and_style_but_its_own(scene):
    """Even a prompt that found a way around the escaping could neither run nor load anything."""
    html = (scene.evaluate() / "report.html").read_text(encoding="utf-8")
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]+)"', html)[1]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.replace("&#39;", "'").split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == "data:"
    for tag in ("style", "script"):
        (text,) = re.findall(f"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert rules[f"{tag}-src"] == f"'sha256-{digest}'"


def test_the_page_stays_small_for_256_images(scene):
    scene.shift, scene.prompts, scene.noises = GOOD, 32, 4  # pixels are noise: the worst case for a PNG
    out = scene.evaluate()
    assert (out / "report.html").stat().st_size < 2_000_000


def test_big_images_become_thumbnails(scene):
    scene.prompts, scene.noises, scene.size = 3, 1, 300
    html = (scene.evaluate() / "report.html").read_text(encoding="utf-8")
    assert "data:image/webp" in html
    assert 'class="small"' not in html


def test_the_stage_needs_no_torch():
    import subprocess

    code = "import sys; sys.modules['torch'] = None; import srpo.evaluate.run; assert sys.modules['torch'] is None"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_summary_shows_verdict_table_and_gates_as_markdown(scene):
    scene.shift = GOOD
    scene.gates = ("srp.delta.low > 0", "content.delta.low > 0.5")
    text = (scene.evaluate() / "summary.md").read_text(encoding="utf-8")
    assert text.startswith("**")
    assert re.search(r"\| `srp` \| \S+ \| \S+ \| \+0\.\d+ \[\+0\.\d+, \+0\.\d+\] \|", text), text
    assert "- holds: `srp.delta.low > 0`" in text
    assert "- FAILS: `content.delta.low > 0.5`" in text


def test_the_page_is_the_same_on_a_slower_machine(scene):
    folders = scene.write()
    pages = []
    for seconds in (1.0, 2.5):
        history = [{"step": s, "loss": 0.5, "seconds": seconds * s, "memory_gib": seconds} for s in range(3)]
        (scene.root / "checkpoint" / "history.jsonl").write_text("".join(json.dumps(h) + "\n" for h in history))
        pages.append((scene.evaluate(folders, into=f"out-{seconds}") / "report.html").read_bytes())
    assert pages[0] == pages[1]
    assert b"loss" in pages[0]


def test_a_gate_on_the_judge_where_there_is_none_fails_and_is_shown(scene):
    """Own prompts or an own model under the recipe `demo`: the run ends, says so, and makes no candidate."""
    scene.judge, scene.shift = False, GOOD
    scene.gates = ("srp.delta.low > 0", "content.delta.low > -0.1")
    out = scene.evaluate()
    evaluation = json.loads((out / "evaluation/evaluation.json").read_text())
    assert evaluation["gates"][1] == {"condition": "content.delta.low > -0.1", "value": None, "passed": False}
    assert not evaluation["passed"]
    assert "was not measured" in (out / "report.html").read_text(encoding="utf-8")
    assert "- FAILS: `content.delta.low > -0.1` (not measured)" in (out / "summary.md").read_text(encoding="utf-8")
