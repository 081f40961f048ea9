"""The recipes in docs/: every block runs, and its gradients are those of the mask."""

import re
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

import fastdrop as fd

DOCS = Path(__file__).resolve().parents[1] / "docs"


def block(page, heading):
    """The Python below a heading of a page."""
    text = (DOCS / page).read_text()
    below = text.split(f"## {heading}\n")[1].split("\n## ")[0]
    (code,) = re.findall(r"```python\n(.*?)```", below, re.S)
    return code


def run(page, heading):
    names = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what packages say when they are imported
        exec(compile(block(page, heading), f"{page}, {heading}", "exec"), names)
    return names


def normal(shape):
    return np.random.default_rng(0).standard_normal(shape)


def test_mygrad():
    mg = pytest.importorskip("mygrad")
    dropout = run("recipes.md", "mygrad")["dropout"]
    x = mg.tensor(normal((6, 7)))
    gen = fd.Generator(5)
    y = dropout(x**2, 0.3, gen)
    (y * normal((6, 7))).sum().backward()
    mask = fd.Generator(5).mask((6, 7), 0.3)
    np.testing.assert_array_equal(y.data, mask.apply(x.data**2))
    np.testing.assert_allclose(x.grad, 2 * x.data * mask.backward(normal((6, 7))), rtol=1e-14)
    assert gen.position == 1


def test_neuralnetlib():
    pytest.importorskip("neuralnetlib")
    layer = run("recipes.md", "neuralnetlib")["Dropout"](0.3)
    x = normal((6, 7)).astype(np.float32)
    mask = fd.Generator(0).mask((6, 7), 0.3)
    np.testing.assert_array_equal(layer.forward_pass(x), mask.apply(x))
    np.testing.assert_array_equal(layer.backward_pass(x), mask.backward(x))
    assert layer.forward_pass(x, training=False) is x
    np.testing.assert_array_equal(layer.backward_pass(x), x)
    assert layer.rng.position == 1


def test_neuralnetlib_trains_with_it():
    pytest.importorskip("neuralnetlib")
    from neuralnetlib.layers import Activation, Dense, Input
    from neuralnetlib.models import Sequential

    dropout = run("recipes.md", "neuralnetlib")["Dropout"]
    rng = np.random.default_rng(0)
    x = rng.standard_normal((256, 10))
    y = (x[:, :1] + x[:, 1:2] > 0).astype(float)
    model = Sequential(random_state=0)
    for layer in (
        Input(10),
        Dense(32),
        Activation("relu"),
        dropout(0.2),
        Dense(1),
        Activation("sigmoid"),
    ):
        model.add(layer)
    model.compile(loss_function="binary_crossentropy", optimizer="adam", verbose=False)
    model.fit(x, y, epochs=40, batch_size=32, verbose=False)
    assert dropout.rng.position == 40 * 8
    assert np.mean((model.predict(x) > 0.5) == y) > 0.9


def test_pydynet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pydynet = pytest.importorskip("pydynet")
    layer = run("recipes.md", "PyDyNet")["Dropout"](0.3)
    x = pydynet.Tensor(normal((6, 7)), requires_grad=True)
    y = layer(x * x)
    (y * pydynet.Tensor(normal((6, 7)))).sum().backward()
    mask = fd.Generator(0).mask((6, 7), 0.3)
    np.testing.assert_array_equal(y.numpy(), mask.apply(x.numpy() ** 2))
    np.testing.assert_allclose(x.grad, 2 * x.numpy() * mask.backward(normal((6, 7))), rtol=1e-14)
    layer.eval()
    assert layer(x) is x
    assert layer.rng.position == 1


def test_dask():
    pytest.importorskip("dask.array")
    names = run("dask.md", "Dask")
    want = names["mask"].backward(names["y"].compute())
    np.testing.assert_array_equal(names["dx"].compute(), want)


def test_what_exports_its_memory():
    y = run("recipes.md", "Tensors of other libraries")["y"]
    np.testing.assert_array_equal(y, fd.dropout(np.ones(8), 0.5, rng=0))


@pytest.mark.parametrize("ranks", [1, 3])
def test_mpi(tmp_path, ranks):
    pytest.importorskip("mpi4py")
    mpiexec = shutil.which("mpiexec", path=str(Path(sys.executable).parent))
    mpiexec = mpiexec or shutil.which("mpiexec")
    if ranks > 1 and mpiexec is None:
        pytest.skip("no mpiexec here")
    script = tmp_path / "script.py"
    script.write_text(block("dask.md", "MPI") + "\nprint(len(together), flush=True)\n")
    start = [mpiexec, "-n", str(ranks)] if ranks > 1 else []
    done = subprocess.run(
        [*start, sys.executable, str(script)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert "".join(done.stdout.split()) == "1000" * ranks  # lines of ranks may run together


def test_ray():
    pytest.importorskip("ray")
    names = run("dask.md", "Ray")
    assert len(names["y"]) == 1000
    names["ray"].shutdown()


def test_every_block_of_the_page_is_run_here():
    headings = re.findall(r"^## (.+)\n+```python", (DOCS / "recipes.md").read_text(), re.M)
    source = Path(__file__).read_text()
    assert headings == ["mygrad", "neuralnetlib", "PyDyNet"]
    for heading in [*headings, "Tensors of other libraries"]:
        assert f'run("recipes.md", "{heading}")' in source
