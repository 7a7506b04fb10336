"""Prompt files for the tests of prepare_prompts."""

import pytest


@pytest.fixture
def file(tmp_path):
    """Write a prompt file by name and content."""

    def write(name, content):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write
