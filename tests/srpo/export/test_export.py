"""export: a whole release on disk, a candidate only when the gates passed, never half of anything."""

import json
import re

import pyarrow as pa
import pytest
import yaml
from tensor_bytes import TUNED, tensor_file

from srpo.core.contracts.errors import InputError
from srpo.core.contracts.schemas import SAMPLES, write_table
from srpo.core.execution.progress import Progress
from srpo.core.execution.stage import Context, execute
from srpo.core.storage import releases
from srpo.core.storage.files import list_files, write_json
from srpo.core.storage.models import ModelEntry, folder_digest, write_models
from srpo.core.storage.releases import read_channel
from srpo.core.storage.stores import LocalStore
from srpo.export.card import plain
from srpo.export.config import Config
from srpo.export.run import STAGE, Inputs, Outputs, run, short_name

PROMPT = "a <b>red</b> fox | [link](http://x)"


class Run:
    """The artifacts of a finished run, small and made of nothing; export() runs the stage over them."""

    def __init__(self, folder, weights=TUNED):
        self.workspace = folder / "workspace"
        self.artifacts = folder / "artifacts"
        self.destination = folder / "out"
        self.base = self.workspace / "models" / "base"
        self.weights = self.workspace / "state" / "train" / "step-20"
        index = {"_class_name": "FluxPipeline", "transformer": ["diffusers", "T"], "vae": ["diffusers", "V"]}
        write_json(self.base / "model_index.json", index)
        for part in ("transformer", "vae"):
            write_json(self.base / part / "config.json", {"part": part})
            file = self.base / part / "diffusion_pytorch_model.safetensors"
            file.write_bytes(tensor_file(b"base " + part.encode(), len(weights)))
        (self.base / "LICENSE.md").write_text("licence")
        (self.base / "flux1-dev.safetensors").write_bytes(b"the untuned weights again")
        write_json(self.weights / "config.json", {"part": "tuned"})
        (self.weights / "diffusion_pytorch_model.safetensors").write_bytes(tensor_file(weights, len(weights)))
        self.checkpoint = {
            "schema": "srpo.checkpoint/1",
            "weights": "state/train/step-20",
            "files": list_files(self.weights),
            "step": 20,
            "kind": "full",
        }
        (self.weights / "optimizer.bin").write_bytes(b"not for release")
        self.evaluation = {
            "before": {"srp": 0.1, "held_out": 1 / 3},
            "after": {"srp": 0.2, "held_out": 1 / 3},
            "delta": {"srp": {"mean": 0.1, "low": 0.05, "high": 0.15}, "held_out": 0.0},
            "verdict": "It looks <i>more</i> real.",
            "gates": [{"condition": "srp gains", "value": 0.1, "passed": True}],
            "passed": True,
        }
        self.base_name = "org/FLUX.1-dev"
        self.image = "images/{}.png"
        self.page = "<!doctype html>rate"

    def fail(self):
        self.evaluation["gates"].append({"condition": "held_out gains", "value": 0.0, "passed": False})
        self.evaluation["passed"] = False

    def artifact(self, name, stage, config):
        folder = self.artifacts / name
        folder.mkdir(parents=True, exist_ok=True)
        manifest = {
            "schema": "srpo.artifact/1",
            "artifact": name,
            "key": f"key-{name}",
            "stage": stage,
            "config": config,
            "inputs": {},
        }
        write_json(folder / "manifest.json", manifest | {"code": "c", "versions": {"torch": "2.13"}, "files": []})
        return folder

    def write(self):
        entry = ModelEntry(
            name=self.base_name,
            path="models/base",
            digest=folder_digest(self.base),
            licence="FLUX.1 [dev] Non-Commercial",
        )
        other = ModelEntry(name="hps", path="models/base", digest=entry.digest, licence="Apache-2.0")
        models = self.artifact("models", "fetch_base", {"model": "flux"})
        write_models(models, {"base": entry, "reward": other, "held_out": other, "judge": None})
        checkpoint = self.artifact("checkpoint", "train", {"steps": 20, "seed": 7, "learning_rate": 5e-6})
        write_json(checkpoint / "checkpoint.json", self.checkpoint)
        evaluation = self.artifact("evaluation", "evaluate", {"seed": 7})
        write_json(evaluation / "evaluation.json", self.evaluation)
        (evaluation / "report.html").write_text("<!doctype html>evaluation")
        prompts = self.artifact("prompts", "prepare_prompts", {"sources": ["tiny"]})
        page = self.artifact("page", "rating_page", {"mode": "grade", "seed": 7})
        (page / "index.html").write_text(self.page)
        manifest = json.loads((page / "manifest.json").read_text())
        (page / "manifest.json").unlink()
        write_json(page / "manifest.json", manifest | {"files": list_files(page)})
        shards = []
        for shard in range(2):
            folder = self.artifact(f"samples-{shard}", "sample", {"shard": shard, "steps": 50, "resolution": 64})
            rows = []
            for model in ("base", "tuned"):
                name = f"{shard}-{model}"
                (folder / "images").mkdir(exist_ok=True)
                (folder / "images" / f"{name}.png").write_bytes(b"\x89PNG " + name.encode())
                row = {"prompt_id": f"p{shard}", "prompt": PROMPT, "category": "", "split": "held_out", "model": model}
                rows.append(row | {"noise_index": 0, "image": self.image.format(name), "scores": [], "features": None})
            write_table(folder / "samples.parquet", pa.Table.from_pylist(rows, schema=SAMPLES), SAMPLES)
            shards.append(folder)
        return {
            "models": models,
            "checkpoint": checkpoint,
            "evaluation": evaluation,
            "prompts": prompts,
            "samples": shards,
            "rating_page": page,
        }

    def export(self, destination=None, **settings):
        """Run the stage, without the memory of finished ones; returns (release.json, the report's text)."""
        inputs = self.write()
        outputs = Outputs(release=self.artifacts / "release", report=self.artifacts / "report.html")
        outputs.release.mkdir(exist_ok=True)
        context = Context(self.workspace, self.workspace / "state" / "export", Progress("export"))
        config = Config(destination=str(destination or self.destination), **settings)
        run(config, Inputs(**inputs | {"samples": tuple(inputs["samples"])}), outputs, context)
        return json.loads((outputs.release / "release.json").read_text()), outputs.report.read_text()

    def candidate(self):
        pointer = read_channel(self.destination, "candidate")
        return pointer and pointer["release"]


@pytest.fixture
def finished(tmp_path):
    return Run(tmp_path)


def everything(folder):
    """Path and time of change of every file and folder."""
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_a_passed_run_is_released_whole_and_becomes_the_candidate(finished):
    result, report = finished.export()
    folder = finished.destination / "releases" / result["id"]
    assert re.fullmatch(r"FLUX\.1-dev-srpo-[0-9a-f]{12}", result["id"])
    where = {"id": result["id"], "uri": f"file://{folder}", "path": str(folder)}
    assert result == where | {"candidate": True, "reason": ""}
    manifest = json.loads((folder / "manifest.json").read_text())
    files = {file["path"]: file for file in manifest["files"]}
    assert set(files) == {
        "README.md",
        "evaluation.json",
        "report.html",
        "model/LICENSE.md",
        "model/model_index.json",
        "model/transformer/config.json",
        "model/transformer/diffusion_pytorch_model.safetensors",
        "model/vae/config.json",
        "model/vae/diffusion_pytorch_model.safetensors",
        "rating/index.html",
        "samples/01-before.png",
        "samples/01-after.png",
        "samples/02-before.png",
        "samples/02-after.png",
    }
    assert [file for file in list_files(folder) if file["path"] != "manifest.json"] == manifest["files"]
    assert (folder / "model/transformer/diffusion_pytorch_model.safetensors").read_bytes() == tensor_file(
        TUNED, len(TUNED)
    )
    assert (folder / "samples/02-after.png").read_bytes() == b"\x89PNG 1-tuned"
    assert finished.candidate() == result["id"]
    assert not (finished.destination / ".incoming").exists()
    assert "channel <code>candidate</code> points here" in report


def test_the_model_card_has_hugging_face_metadata_and_escapes_prompts(finished):
    finished.evaluation["after"]["srp"] = 0.123456
    result, report = finished.export()
    text = (finished.destination / "releases" / result["id"] / "README.md").read_text()
    _, header, body = text.split("---\n", 2)
    assert yaml.safe_load(header) == {
        "base_model": "org/FLUX.1-dev",
        "library_name": "diffusers",
        "license": "other",
        "license_name": "FLUX.1 [dev] Non-Commercial",
        "pipeline_tag": "text-to-image",
        "tags": ["srpo", "direct-align"],
    }
    assert "| srp | 0.1 | 0.1235 | 0.1 [0.05, 0.15] |" in body.replace("\\", "")
    assert f'from_pretrained("{result["id"]}/model"' in body
    assert "height=64" in body
    assert "num_inference_steps=50" in body
    assert "![before](samples/01-before.png)" in body
    assert "<b>" not in body
    assert "[link](" not in body
    assert "<i>" not in report


def test_a_failed_gate_releases_but_does_not_move_the_candidate(finished):
    first, _ = finished.export()
    finished.fail()
    second, report = finished.export()
    assert second["id"] != first["id"]
    assert not second["candidate"]
    assert second["reason"] == "failed: held_out gains (measured: 0)"
    folder = finished.destination / "releases" / second["id"]
    releases.check_sizes(finished.destination, second["id"])
    assert releases.read_release(finished.destination, second["id"])["candidate"] is False
    assert "Not a candidate" in (folder / "README.md").read_text()
    assert "no candidate" in report
    assert finished.candidate() == first["id"]


def test_without_a_passed_run_there_is_no_candidate(finished):
    finished.fail()
    finished.export()
    assert finished.candidate() is None


def test_the_same_run_writes_nothing_again(finished):
    first, _ = finished.export()
    before = everything(finished.destination)
    second, _ = finished.export()
    assert second == first
    assert everything(finished.destination) == before


def test_the_id_belongs_to_the_content_not_to_the_place(finished, tmp_path):
    here, _ = finished.export()
    there, _ = finished.export(f"file://{tmp_path}/with%20space")
    assert there["id"] == here["id"]
    assert (tmp_path / "with space" / "releases" / here["id"] / "manifest.json").is_file()
    (finished.weights / "diffusion_pytorch_model.safetensors").write_bytes(tensor_file(b"other weights", len(TUNED)))
    finished.checkpoint["files"] = [file for file in list_files(finished.weights) if file["path"] != "optimizer.bin"]
    assert finished.export()[0]["id"] != here["id"]


def test_a_flipped_byte_in_the_weights_is_refused(finished):
    old, _ = finished.export()
    finished.evaluation["verdict"] = "Another run."
    (finished.weights / "diffusion_pytorch_model.safetensors").write_bytes(tensor_file(b"tuned weightS.", len(TUNED)))
    with pytest.raises(InputError, match=r"step-20/diffusion_pytorch_model\.safetensors has the SHA-256"):
        finished.export()
    assert [path.name for path in (finished.destination / "releases").iterdir()] == [old["id"]]
    assert finished.candidate() == old["id"]


def test_a_changed_base_is_refused(finished):
    inputs = finished.write()
    (finished.base / "vae" / "config.json").write_text("{}")
    finished.write = lambda: inputs
    with pytest.raises(InputError, match="is not what was fetched"):
        finished.export()


def test_killed_in_the_middle_the_candidate_stays_the_old_release(finished, monkeypatch):
    old, _ = finished.export()
    finished.evaluation["verdict"] = "Another run."
    put, written = LocalStore.put, []

    def killed(store, name, *arguments):
        if len(written) == 5:
            raise KeyboardInterrupt
        written.append(name)
        put(store, name, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(LocalStore, "put", killed)
        with pytest.raises(KeyboardInterrupt):
            finished.export()
    assert [path.name for path in (finished.destination / "releases").iterdir()] == [old["id"]]
    assert finished.candidate() == old["id"]
    assert len(list((finished.destination / ".incoming").iterdir())) == 1
    new, _ = finished.export()
    assert finished.candidate() == new["id"] != old["id"]
    assert not (finished.destination / ".incoming").exists()


def test_a_destination_that_is_a_file_is_refused_before_any_work(finished, tmp_path):
    (tmp_path / "taken").write_text("a file")
    for path in (tmp_path / "taken", tmp_path / "taken" / "below"):
        with pytest.raises(InputError, match=r"taken.*must be a folder"):
            finished.export(path)


@pytest.mark.parametrize("destination", ["s3://", "https://x/y", "file://host/x", "", " "])
def test_a_destination_that_is_neither_a_folder_nor_s3_is_refused(destination):
    with pytest.raises(InputError, match=r"destination is .* it must be the path of a local folder, .* or s3://"):
        Config(destination=destination)


def test_samples_beyond_what_was_asked_stay_out(finished):
    result, _ = finished.export(sample_prompts=1)
    names = {path.name for path in (finished.destination / "releases" / result["id"] / "samples").iterdir()}
    assert names == {"01-before.png", "01-after.png"}


def break_weights(run):
    run.checkpoint["weights"] = "../elsewhere"


def break_absolute(run):
    run.checkpoint["weights"] = "/etc"


def break_file(run):
    run.checkpoint["files"][0]["path"] = "../../secret"


def break_link(run):
    (run.weights / "config.json").unlink()
    (run.weights / "config.json").symlink_to("/etc/passwd")


def break_image(run):
    run.image = "../../{}.png"


def break_kind(run):
    run.checkpoint["kind"] = "lora"


def break_missing(run):
    (run.weights / "diffusion_pytorch_model.safetensors").unlink()


def break_incomplete(run):
    run.checkpoint["files"] = run.checkpoint["files"][:1]


def break_evaluation(run):
    del run.evaluation["passed"]


def break_gate(run):
    run.evaluation["gates"][0]["passed"] = False


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (break_weights, r"checkpoint\.json names '\.\./elsewhere': it must be a path below"),
        (break_absolute, r"checkpoint\.json names '/etc'"),
        (break_file, r"checkpoint\.json names '\.\./\.\./secret'"),
        (break_link, "a link to /etc/passwd"),
        (break_image, r"samples\.parquet names '\.\./\.\./0-base\.png'"),
        (break_kind, "kind is 'lora': only 'full'"),
        (break_missing, r"safetensors is missing or cut"),
        (break_incomplete, r"must record a config\.json and \*\.safetensors"),
        (break_evaluation, r"evaluation\.json: passed is None"),
        (break_gate, "passed is true, but a gate is not"),
    ],
)
def test_bad_artifacts_are_named_and_leave_nothing(finished, damage, message):
    damage(finished)
    with pytest.raises(InputError, match=message):
        finished.export()
    assert list((finished.destination / "releases").glob("*")) == []
    assert finished.candidate() is None


def test_as_a_stage_it_is_found_again(finished):
    config = {"destination": str(finished.destination)}
    first = execute(STAGE, config, finished.workspace, finished.write(), {})
    assert execute(STAGE, config, finished.workspace, finished.write(), {}) == first
    assert json.loads((first / "release" / "release.json").read_text())["id"] == finished.candidate()


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("org/FLUX.1-dev", "FLUX.1-dev"),
        ("/data/my model/", "my-model"),
        ("..", "model"),
        ("<x>", "x"),
        ("tiny", "tiny"),
        ("FLUX.1-dev-srpo-0123456789ab", "FLUX.1-dev"),  # a base that is a release
    ],
)
def test_short_names_are_file_names(name, short):
    assert short_name(name) == short


def test_plain_text_cannot_break_a_table_or_start_markup():
    assert plain("a | b\n# <script> [x](y) `z`") == r"a \| b # &lt;script\> \[x\](y) \`z\`"
