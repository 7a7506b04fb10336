"""Samples to make rating pages of."""

from pathlib import Path

import pytest
from rating_scenes import Scene


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)
