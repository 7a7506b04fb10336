"""The package of the pipeline `promote`: sound, and its form says what its parameters say."""

import dataclasses

import ir
import pytest

from srpo.configure.promotion import PROMOTION, Promotion, run
from srpo.core.contracts.errors import InputError
from srpo_pipelines.cli import main
from srpo_pipelines.commands.promote import parameters as parameters_of
from srpo_pipelines.promote import promote

TASKS = {"configure-promotion", "collect-ratings", "decide"}


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    folder = tmp_path_factory.mktemp("package")
    assert main(["compile", "--output", str(folder)]) == 0
    return ir.load(folder / "promote.yaml")


def test_it_is_sound_and_its_pods_are_small_and_see_the_workspace(package):
    spec, platform = package
    assert ir.dangling(spec, platform) == []
    assert set(spec["root"]["dag"]["tasks"]) == TASKS
    kubernetes = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    for name in TASKS:
        assert not spec["root"]["dag"]["tasks"][name].get("cachingOptions", {}).get("enableCache")
        container = spec["deploymentSpec"]["executors"][f"exec-{name}"]["container"]
        assert "cpu" in container["image"]
        assert container["resources"]["resourceMemoryLimit"]
        assert bool(kubernetes[f"exec-{name}"].get("pvcMount")) == (name != "configure-promotion")


def test_the_form_is_that_of_the_parameters(package):
    given = package[0]["root"]["inputDefinitions"]["parameters"]
    fields = dataclasses.fields(Promotion)
    assert sorted(given) == sorted(field.name for field in fields)
    for field in fields:
        assert given[field.name].get("defaultValue", type(field.default)()) == field.default, field.name
        assert given[field.name]["description"] == field.metadata["description"], field.name
    assert list(promote.component_spec.inputs) == [field.name for field in fields]


def test_settings_are_checked_before_anything_starts():
    configured = run({"ratings": "a.json, b.json", "study": "key"})
    assert set(configured) == set(PROMOTION)
    assert configured["collect_ratings"]["ratings"] == ("a.json", "b.json")
    for given, said in (
        ({"study": "key"}, "ratings is"),
        ({"ratings": "a.json"}, "study is ''"),
        ({"ratings": "a.json", "study": "k", "channel": "candidate"}, "channel is 'candidate'"),
        ({"ratings": "a.json", "study": "k", "destination": "gs://x"}, "destination is 'gs://x'"),
        ({"ratings": "a.json,t.parquet", "study": "k"}, "one table alone"),
        ({"rating": "a.json"}, "did you mean 'ratings'"),
    ):
        with pytest.raises(InputError, match=said):
            run(given)


def test_the_command_speaks_of_the_run_in_its_output(tmp_path):
    import argparse

    given = {"output": tmp_path, "ratings": ["a.json"], "study": None, "release": "", "destination": None}
    found = parameters_of(argparse.Namespace(**given, channel="latest", gates=None, partial=False, who="Ada"))
    assert found.who == "Ada"
    assert found.study == str(tmp_path / "rating-key")
    assert found.destination == str(tmp_path)
    assert found.workspace == str(tmp_path / "workspace")


def test_a_recipe_is_not_of_the_promotion(capsys):
    assert main(["stage", "decide", "--settings"]) == 0
    assert "channel = 'latest'" in capsys.readouterr().out
    assert main(["stage", "decide", "--settings", "--recipe", "demo"]) == 2
    assert "which has no stage 'decide'" in capsys.readouterr().err
