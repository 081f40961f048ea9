"""Docstrings: their examples run, their sections are there."""

import doctest
import importlib
import importlib.util
import inspect
import re
from pathlib import Path

import pytest

import fastdrop as fd
from fastdrop import nn

MODULES = [
    importlib.import_module(f"fastdrop.{name}")
    for name in (
        "concrete",
        "config",
        "dropblock",
        "functional",
        "generator",
        "mask",
        "montecarlo",
        "nn",
        "noise",
        "ratesmask",
        "threads",
        "variational",
        "zone",
    )
]


@pytest.mark.parametrize("module", MODULES, ids=lambda m: m.__name__)
def test_examples(module):
    result = doctest.testmod(module)
    assert result.attempted > 0
    assert result.failed == 0


def test_the_readme_runs():
    text = (Path(__file__).parents[1] / "README.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, re.S)
    assert blocks
    for block in blocks:
        if "fastdrop.torch" in block and importlib.util.find_spec("torch") is None:
            continue  # tests/test_torch.py needs it, and CI's second stage has it
        exec(compile(block, "README.md", "exec"), {})


def test_the_page_for_trainers_runs():
    text = (Path(__file__).parents[1] / "docs" / "trainers.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, re.S)
    names = {}
    for block in blocks:
        exec(compile(block, "trainers.md", "exec"), names)
    np, members, x = names["np"], names["members"], names["x"]
    np.testing.assert_array_equal(names["dx"], names["mask"].backward(names["dout"]))
    assert len({member(np.ones(64), training=True).tobytes() for member in members}) == 3
    assert names["plain"].scale == 1
    assert names["own"].scale == 1.25
    assert x.all()


def public():
    for name in fd.__all__:
        thing = getattr(fd, name)
        if callable(thing):
            yield name, thing
    for name in nn.__all__:
        yield f"nn.{name}", getattr(nn, name)


WHOLE = {"dropout", "Generator", "Mask", "Noise", "nn.Dropout"}  # to which the others refer


@pytest.mark.parametrize(("name", "thing"), list(public()))
def test_sections(name, thing):
    """Each parameter has its line, alone or in a group that is as in a sibling."""
    text = inspect.getdoc(thing)
    takes = [p for p in inspect.signature(thing).parameters if p != "self"]
    if takes:
        section = text.split("Parameters\n----------\n")[1].split("\n\n")[0]
        lines = [line.partition(" : ")[0] for line in section.splitlines() if line[0] != " "]
        documented = [p for line in lines for p in line.split(", ")]
        assert sorted(documented) == sorted(takes)
    assert "Examples\n--------" in text or not takes or not inspect.isclass(thing)
    if name in WHOLE:
        for section in ("Raises", "Notes", "Examples"):
            assert f"{section}\n{'-' * len(section)}" in text, section
        assert "**Compatibility guarantee.**" in text


def test_groups_refer_to_what_has_the_parameter():
    for _, thing in public():
        for names, sibling in re.findall(r"^(.+) : as in `(\w+)`$", inspect.getdoc(thing), re.M):
            whole = getattr(nn, sibling) if inspect.isclass(thing) else getattr(fd, sibling)
            has = {*inspect.signature(whole).parameters, "y", "mask"}
            assert set(names.split(", ")) <= has, (thing, names)


def test_all_is_all():
    assert sorted(fd.__all__) == fd.__all__
    for name in fd.__all__:
        assert hasattr(fd, name)
