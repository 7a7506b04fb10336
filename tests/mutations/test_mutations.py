"""Every mutation of the method is noticed by the test that is named for it."""

import dataclasses

import mutate
import pytest


def test_every_mutation_still_finds_its_text_and_its_test():
    mutate.check_texts()
    for mutation in mutate.MUTATIONS:
        file, name = mutation.test.split("::")
        assert f"def {name}(" in (mutate.ROOT / "tests/srpo" / file).read_text(encoding="utf-8"), mutation.name


def test_a_mutation_whose_text_is_gone_is_refused():
    gone = dataclasses.replace(mutate.MUTATIONS[0], old="a text that is nowhere")
    with pytest.raises(mutate.MutationError, match="occurs 0 times"):
        mutate.check_texts([gone])


@pytest.mark.real
def test_every_mutation_is_noticed():
    assert [mutation.name for mutation, failed in mutate.judge() if not failed] == []
