"""The catalogue: what is refused by name, what a file of one's own adds, and that the built-in one is whole."""

import re
from pathlib import Path

import pytest

from srpo.core.contracts.errors import InputError
from srpo.fetch_base.catalogue import catalogue, find
from srpo.fetch_base.config import Config
from srpo.fetch_base.run import find_sources


def own(folder, text):
    path = folder / "own.yaml"
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("{source: hf://a/b}", "rewards.mine.licence is missing: it must be text"),
        ("{source: hf://a/b, licence: ' '}", "rewards.mine.licence is ' '"),
        ("{source: hf://a/b, license: MIT}", "no setting 'license': did you mean 'licence'?"),
        ("{licence: MIT}", "rewards.mine.source is missing"),
        ("{source: https://a/b, licence: MIT}", "source is 'https://a/b': it must be hf://ORG/REPO"),
        ("{source: hf://b, licence: MIT}", "source is 'hf://b'"),
        ("{source: hf://a/b@v1, revision: v2, licence: MIT}", "revision is 'v2': it must be left out"),
        ("{source: s3://a/b, revision: v2, licence: MIT}", "only a hub has revisions"),
        ("{source: hf://a/b, licence: MIT, sha256: {x: ABC}}", "sha256 of x is 'ABC'"),
        ("{source: hf://a/b, licence: MIT, files: [../x]}", "files is '../x'"),
        ("{source: hf://a/b, licence: MIT, convert: hpsv2}", "convert is 'hpsv2'"),
        ("{source: hf://a/b, licence: MIT, positive_words: [Real]}", "negative_words is ()"),
        ("{source: hf://a/b, licence: MIT, commercial_use: perhaps}", "commercial_use is 'perhaps'"),
        ("{source: hf://a/b, licence: MIT, also: [{sorce: x}]}", "did you mean 'source'?"),
        ("hf://a/b", "it must be a mapping with source and licence"),
    ],
)
def test_an_entry_that_is_none_is_refused(tmp_path, entry, said):
    with pytest.raises(InputError) as error:
        catalogue(own(tmp_path, f"rewards:\n  mine: {entry}\n"))
    assert said in str(error.value)
    assert "own.yaml" in str(error.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("reward: {}", "no key 'reward': did you mean 'rewards'?"),
        ("[1]", "it must be a mapping"),
        ("rewards: [1]", "rewards is [1]"),
        ("a: [", "cannot be read as YAML"),
    ],
)
def test_a_catalogue_that_is_none_is_refused(tmp_path, text, said):
    with pytest.raises(InputError) as error:
        catalogue(own(tmp_path, text))
    assert said in str(error.value)


def test_a_catalogue_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"nowhere\.yaml"):
        find_sources(Config(catalogue=str(tmp_path / "nowhere.yaml")))


def test_an_own_catalogue_adds_and_replaces(tmp_path):
    (tmp_path / "weights").mkdir()
    path = own(
        tmp_path, "rewards:\n  mine: {source: weights, licence: MIT}\n  pickscore: {source: s3://b/p, licence: MIT}\n"
    )
    assert find("rewards", "mine", path).folder == tmp_path / "weights"  # relative to the file
    assert find("rewards", "pickscore", path).source == "s3://b/p"
    assert find("rewards", "pickscore").source == "hf://yuvalkirstain/PickScore_v1"
    assert find("rewards", "hpsv2.1", path) == find("rewards", "hpsv2.1")


def test_a_reward_without_words_has_those_published_for_hpsv2():
    assert find("rewards", "pickscore").positive_words == find("rewards", "hpsv2.1").positive_words != ()


def test_the_built_in_catalogue_is_whole():
    """Each entry says what its licence allows; each remote one which files, and where weights are code, into what."""
    for entries in catalogue().values():
        for name, entry in entries.items():
            assert entry.commercial_use is not None, name
            assert entry.local or entry.files, name
            code = [file for part in entry.parts for file in part.files if re.search(r"\.(pt|pth|bin|ckpt)$", file)]
            assert bool(code) == bool(entry.convert), name
    dev, schnell = (catalogue()["base"][f"black-forest-labs/FLUX.1-{name}"] for name in ("dev", "schnell"))
    assert (dev.commercial_use, schnell.commercial_use) == (False, True)


def test_an_address_is_no_name():
    with pytest.raises(InputError, match="write an entry with that source"):
        find("base", "hf://black-forest-labs/FLUX.1-dev")


def test_the_example_of_the_documentation_is_a_catalogue(tmp_path):
    text = (Path(__file__).resolve().parents[3] / "docs" / "models.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    path = own(tmp_path, example)
    assert find("base", "our-flux", path).commercial_use is True
    assert find("rewards", "our-clip", path).positive_words == ("Detailed",)
