"""What an export may need of memory: that of a few of the largest tensors, for a model of any size."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks"))

from large_release import measure

pytestmark = pytest.mark.real
MIB = 1 << 20


def test_twice_the_model_takes_no_more_memory(tmp_path):
    """As wide as FLUX, 1.4 and 2.9 GB, in all formats, each in a process that may allocate no more than 1 GiB."""
    formats = ["diffusers", "lora", "original-bf16", "original-fp8"]
    small, large = (measure(tmp_path / str(size), size, formats) for size in (1, 3))
    assert large["model_bytes"] > 2 * small["model_bytes"]
    assert large["peak_bytes"] < small["peak_bytes"] + 100 * MIB
