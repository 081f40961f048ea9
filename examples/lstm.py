"""A character LSTM in plain NumPy: no dropout, plain masks, and masks locked over time.

Trains one LSTM three times, from the same initial weights on the same batches, to predict the next
character of English prose, and compares where the masks come from:

- no dropout;
- plain masks: another one at every time step, on the inputs of the LSTM, on its outputs, and on
  the state h that it feeds back to itself (Srivastava et al. 2014, applied step by step);
- locked masks: on each of the three one mask for all time steps of a batch (Gal and Ghahramani,
  NIPS 2016).

Prints a table of the perplexities, held-out ones without dropout, and saves lstm.png: the learning
curves, and what the two kinds of masks drop of the state.

    python lstm.py
    python lstm.py --input-rate 0 --recurrent-rate 0.5 --output-rate 0
    python lstm.py --text FILE --characters 500000 --hidden 512

Without --text it reads the prose of Python's own reference, which `help()` shows: the module
pydoc_data.topics. So the text depends a little on the version of Python, and so do the figures; the
first line printed tells which text it was. It takes 66,000 characters, 70 % of them to train on: so
few that the network learns them by heart. Needs: pip install matplotlib tqdm

What the default shows, on Python 3.11.7 with seeds 0 to 4:

- Without dropout the test perplexity is 4.51 at best, in the mean, and 5.55 after 25 epochs. Both
  kinds of masks gain a tenth, and their curves still fall slowly when the training ends.
- Locked masks come to 4.01, plain ones to 4.05: a difference of 1 %, for locked masks with four
  seeds of five. It is no more than seeds differ by, and with other rates it can be the other way
  round: dropout of the state alone, .4, gave 4.35 locked and 4.27 plain, with one seed.
- Dropout of the state pays: without it, at .2 and .3 on inputs and outputs, both kinds got 4.12 to
  4.13 at best, with .25 of it 4.00 and 4.06; one seed again.

The rates are those that the validation part liked best, for both kinds, of ten triples tried with
seed 0.

One --seed gives the same figures to the last digit, on one machine with one number of BLAS threads.

To have locked masks in your own LSTM, look for `locked` in `LSTM` and `Network`.
"""

import math
import platform
import re
import sys
import zlib
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

import mnist
import numpy as np
from mnist import BadInputError, Dense

import fastdrop as fd

PICTURE = "lstm.png"
COLORS = {"no dropout": "#000000", "plain masks": "#D55E00", "locked masks": "#0072B2"}
PIECES = 20  # that the text is cut into, in turns for training and for being held out
VALIDATION, TEST = (3, 9, 15), (6, 12, 18)  # 15 % each
LARGEST_LOSS = 100  # of a text, in nats a character; guessing blindly costs log(100) = 4.6


# ---- the network ---------------------------------------------------------------------------------


class LSTM:
    """Hochreiter and Schmidhuber's, with forget gates; sequences have shape (T, B, F).

    The four gates lie side by side, in this order: input, forget, output, and the candidate.
    """

    def __init__(self, n_in, n_hidden, rng, dtype, *, dropout, locked):
        self.inputs = Dense(n_in, 4 * n_hidden, rng, dtype)
        self.inputs.bias[n_hidden : 2 * n_hidden] = 1  # at first it remembers
        limit = 1 / math.sqrt(n_hidden)
        self.weight = rng.uniform(-limit, limit, (n_hidden, 4 * n_hidden)).astype(dtype)
        self.dropout = dropout
        self.locked = locked

    def forward(self, x, state):
        """The outputs (T, B, H), and the state after the last step; a state is h and the cells."""
        n_steps, n_batch, n_in = x.shape
        sums = self.inputs.forward(x.reshape(-1, n_in)).reshape(n_steps, n_batch, 4, -1)
        h, cells = state
        mask, outputs, self.steps = None, [], []
        for gates in sums:
            # h is there only step by step, so that its dropout is called in the loop: anew for
            # plain masks; for locked ones the first step's mask is applied again.
            if mask is None or not self.locked:
                dropped, mask = self.dropout(h, return_mask=True)
            else:
                dropped = mask.apply(h)
            gates += (dropped @ self.weight).reshape(gates.shape)
            gates[:, :3] /= 2  # the sigmoid of a is (1 + tanh(a / 2)) / 2
            np.tanh(gates, out=gates)
            gates[:, :3] = (1 + gates[:, :3]) / 2
            i, f, o, candidate = gates.transpose(1, 0, 2)
            before, cells = cells, f * cells + i * candidate
            tanh_cells = np.tanh(cells)
            h = o * tanh_cells
            outputs.append(h)
            self.steps.append((mask, dropped, gates, before, tanh_cells))
        return np.stack(outputs), (h, cells)

    def backward(self, grad):
        """The gradient by x; the one by the first state is cut off: truncated backpropagation."""
        n_steps, n_batch, n_hidden = grad.shape
        grad_sums = np.empty((n_steps, n_batch, 4, n_hidden), grad.dtype)
        grad_h = grad_cells = np.zeros((n_batch, n_hidden), grad.dtype)
        back = np.ascontiguousarray(self.weight.T)  # once, and not packed anew by every product
        for t in reversed(range(n_steps)):
            mask, _, gates, before, tanh_cells = self.steps[t]
            i, f, o, candidate = gates.transpose(1, 0, 2)
            grad_h = grad_h + grad[t]
            grad_cells = grad_cells + grad_h * o * (1 - np.square(tanh_cells))
            grad_sums[t, :, 0] = grad_cells * candidate * i * (1 - i)
            grad_sums[t, :, 1] = grad_cells * before * f * (1 - f)
            grad_sums[t, :, 2] = grad_h * tanh_cells * o * (1 - o)
            grad_sums[t, :, 3] = grad_cells * i * (1 - np.square(candidate))
            grad_cells = grad_cells * f
            grad_h = mask.backward(grad_sums[t].reshape(n_batch, -1) @ back)
        grad_sums = grad_sums.reshape(n_steps * n_batch, -1)
        dropped = np.concatenate([step[1] for step in self.steps])
        self.weight_grad = dropped.T @ grad_sums
        return self.inputs.backward(grad_sums).reshape(n_steps, n_batch, -1)


class Rates(NamedTuple):
    """Of the numbers to drop: of the inputs, of the state fed back, and of the outputs."""

    inputs: float = 0.0
    recurrent: float = 0.0
    outputs: float = 0.0


class Network:
    """Embedding, dropout, LSTM with dropout of its state, dropout, scores of the next character.

    All dropout layers share one `fastdrop.Generator`, so that no two draw the same mask.
    """

    def __init__(
        self,
        n_chars,
        n_embedding,
        n_hidden,
        rng,
        *,
        rates,
        locked,
        dropout_rng=None,
        dtype="float32",
    ):
        self.generator = fd.Generator(dropout_rng)
        # Whole sequences (T, B, F) go through these two: locked masks are another layer, no more.
        layer = fd.nn.LockedDropout if locked else fd.nn.Dropout
        self.drop_inputs = layer(rates.inputs, rng=self.generator)
        self.drop_outputs = layer(rates.outputs, rng=self.generator)
        recurrent = fd.nn.Dropout(rates.recurrent, rng=self.generator)
        self.embedding = rng.standard_normal((n_chars, n_embedding)).astype(dtype)
        self.lstm = LSTM(n_embedding, n_hidden, rng, dtype, dropout=recurrent, locked=locked)
        self.scores = Dense(n_hidden, n_chars, rng, dtype)

    def train(self, mode=True):
        for layer in (self.drop_inputs, self.lstm.dropout, self.drop_outputs):
            layer.train(mode)
        return self

    def first_state(self, n_batch):
        zeros = np.zeros((n_batch, len(self.lstm.weight)), self.lstm.weight.dtype)
        return zeros, zeros

    def forward(self, chars, state):
        """Scores of the next characters, (T * B, characters), for chars (T, B); and the state."""
        self.chars = chars
        x = self.drop_inputs(self.embedding[chars])
        outputs, state = self.lstm.forward(x, state)
        outputs = self.drop_outputs(outputs)
        return self.scores.forward(outputs.reshape(chars.size, -1)), state

    def backward(self, grad):
        grad = self.scores.backward(grad).reshape(*self.chars.shape, -1)
        grad = self.lstm.backward(self.drop_outputs.backward(grad))
        self.embedding_grad = np.zeros_like(self.embedding)
        np.add.at(self.embedding_grad, self.chars, self.drop_inputs.backward(grad))

    def weights(self):
        layers = self.lstm.inputs, self.lstm, self.scores
        biases = self.lstm.inputs.bias, self.scores.bias
        return [self.embedding, *(layer.weight for layer in layers), *biases]

    def gradients(self):
        layers = self.lstm.inputs, self.lstm, self.scores
        biases = self.lstm.inputs.bias_grad, self.scores.bias_grad
        return [self.embedding_grad, *(layer.weight_grad for layer in layers), *biases]


# ---- training ------------------------------------------------------------------------------------


def windows(codes, n_batch, n_steps):
    """Cut a text into n_batch streams that are read side by side; yield (T, B) of each in turn.

    Yields characters and those that follow them. The state after one window begins the next.
    """
    n = (len(codes) - 1) // n_batch
    chars, following = (codes[k : k + n * n_batch].reshape(n_batch, n).T for k in (0, 1))
    for t in range(0, n, n_steps):
        yield chars[t : t + n_steps], following[t : t + n_steps]


def train_step(net, optimizer, chars, following, state, max_norm):
    """One step on one window; returns its loss, and the state after it."""
    scores, state = net.forward(chars, state)
    loss, grad = mnist.softmax_cross_entropy(scores, following.ravel())
    net.backward(grad)
    gradients = net.gradients()
    norm = math.sqrt(sum(float(np.vdot(g, g)) for g in gradients))
    if norm > max_norm:
        gradients = [g * (max_norm / norm) for g in gradients]
    optimizer.step(gradients)
    return loss, state


def mean_loss(net, codes, args):
    """Nats a character of a text, without dropout."""
    net.train(False)
    state = net.first_state(args.batch_size)
    total = n = 0
    for chars, following in windows(codes, args.batch_size, args.steps):
        scores, state = net.forward(chars, state)
        loss, _ = mnist.softmax_cross_entropy(scores, following.ravel())
        total, n = total + loss * chars.size, n + chars.size
    net.train()
    return total / n


def run(name, parts, n_chars, args, *, rates=None, locked=False):
    """Train one network; returns it, its losses on all `parts` after each epoch, and seconds."""
    from tqdm import tqdm

    train, *_ = parts
    net = Network(
        n_chars,
        args.embedding,
        args.hidden,
        np.random.default_rng(args.seed),
        rates=rates or Rates(),
        locked=locked,
        dropout_rng=args.seed,
    )
    optimizer = mnist.Adam(net.weights(), args.lr)
    n_windows = len(list(windows(train, args.batch_size, args.steps)))
    curves = []
    bars = []  # kept to the end: in their __del__ Python would ignore a Ctrl-C
    start = perf_counter()
    for epoch in range(1, args.epochs + 1):
        bar = tqdm(desc=f"{name}, epoch {epoch}/{args.epochs}", total=n_windows, disable=None)
        bars.append(bar)
        state = net.first_state(args.batch_size)
        with bar, np.errstate(over="ignore", invalid="ignore"):
            for chars, following in windows(train, args.batch_size, args.steps):
                loss, state = train_step(net, optimizer, chars, following, state, args.max_norm)
                check_loss(loss, name, epoch, args)
                bar.update()
            # of the training text only as much as is held out: it is for the picture
            losses = [mean_loss(net, part[: len(parts[-1])], args) for part in parts]
            for loss in losses:
                check_loss(loss, name, epoch, args)
            curves.append(losses)
            text = "perplexity: train {:.2f}, validation {:.2f}, test {:.2f}"
            bar.set_postfix_str(text.format(*np.exp(losses)))
    return net, np.array(curves), perf_counter() - start


def check_loss(loss, name, epoch, args):
    if not loss < LARGEST_LOSS:  # nor is NaN
        raise BadInputError(
            f"{name}: the loss is {loss:g} in epoch {epoch}; take a smaller --lr than {args.lr:g}"
        )


# ---- text ----------------------------------------------------------------------------------------


def prose():
    """Read the prose of Python's reference: the paragraphs of `help()`'s topics, each one once.

    Headings, grammar and code are left out, and so are line ends within a paragraph: what is left
    differs less between the versions of Python.
    """
    try:
        from pydoc_data.topics import topics
    except ImportError as error:
        raise BadInputError(f"{error}: give --text FILE") from error
    paragraphs = {}  # a dict keeps the order; topics repeat what others say
    for topic in sorted(topics):
        for paragraph in topics[topic].split("\n\n"):
            paragraph = re.sub(r"^[*+] ", "", " ".join(paragraph.split()))
            if len(paragraph) >= 80 and paragraph[0].isupper() and paragraph[-1] in ".:":
                paragraphs[paragraph] = None
    return "\n".join(paragraphs)


def read_text(path):
    if path is None:
        return prose()
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise BadInputError(f"--text {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise BadInputError(f"--text {path}: not UTF-8: {error.reason} at {error.start}") from error


def split(codes):
    """Cut a text into pieces and deal them out; returns those for training, validation and test."""
    pieces = np.array_split(codes, PIECES)
    training = [k for k in range(PIECES) if k not in VALIDATION + TEST]
    return [np.concatenate([pieces[k] for k in part]) for part in (training, VALIDATION, TEST)]


def load(args):
    """The text's description, its three parts as arrays of ints, and how many characters exist."""
    text = read_text(args.text)[: args.characters]
    source = args.text or f"pydoc_data.topics of Python {platform.python_version()}"
    used, codes = np.unique(list(text), return_inverse=True)
    parts = split(codes)
    if min(map(len, parts)) <= args.batch_size:
        raise BadInputError(
            f"{source}: of {len(text)} characters {min(map(len, parts))} are held out for a test, "
            f"too few for --batch-size {args.batch_size}; give a longer --text, more --characters "
            "or a smaller batch"
        )
    checksum = zlib.crc32(text.encode())
    about = f"{len(text):,} characters of {source}, CRC-32 {checksum:08x}"
    return about, parts, len(used)


# ---- results -------------------------------------------------------------------------------------


class Result(NamedTuple):
    """What came of one contender; losses in nats a character."""

    curves: np.ndarray  # (epochs, 3): of training, validation and test
    seconds: float

    @property
    def best(self):
        """Index of the epoch that validation prefers; the test part has no say."""
        return int(self.curves[:, 1].argmin())

    @property
    def perplexities(self):
        return np.exp(self.curves)


def table(results):
    def row(label, cells):
        return f"{label:<36}" + "".join(f"{cell:>14}" for cell in cells)

    runs = results.values()
    lines = [
        row("", results),
        row("best epoch, by validation", (r.best + 1 for r in runs)),
        row("  test perplexity", (f"{r.perplexities[r.best, 2]:.3f}" for r in runs)),
        row("  bits a character", (f"{r.curves[r.best, 2] / math.log(2):.3f}" for r in runs)),
        row("last epoch", (len(r.curves) for r in runs)),
        row("  test perplexity", (f"{r.perplexities[-1, 2]:.3f}" for r in runs)),
        row("  bits a character", (f"{r.curves[-1, 2] / math.log(2):.3f}" for r in runs)),
        row("  train perplexity, without dropout", (f"{r.perplexities[-1, 0]:.3f}" for r in runs)),
        row("seconds in all", (f"{r.seconds:.1f}" for r in runs)),
    ]
    return "\n".join(lines)


def draw(results, keeps, rate, subtitle):
    """Learning curves, and beside them what the two kinds of masks drop of the state.

    `keeps` are bool arrays (T, units) of one stream.
    """
    from matplotlib.colors import ListedColormap
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(11, 5), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(1.5, 1))
    none, plain, locked = (r.perplexities[r.best, 2] for r in results.values())
    figure.suptitle(
        f"Test perplexity at best: {none:.2f} without dropout, {plain:.2f} with plain masks, "
        f"{locked:.2f} with locked ones\n",
        x=0.01,
        ha="left",
        fontsize=13,
        fontweight="bold",
    )
    figure.text(0.01, 0.915, subtitle, fontsize=9.5, color="0.35")

    axes = left.add_subplot()
    for name, result in results.items():
        epochs = np.arange(1, len(result.curves) + 1)
        train, _, test = result.perplexities.T
        axes.plot(epochs, test, color=COLORS[name], linewidth=2)
        axes.plot(epochs, train, "--", color=COLORS[name], linewidth=1.5)
        axes.plot(epochs[result.best], test[result.best], "o", color=COLORS[name], markersize=6)
    handles = [Line2D([], [], color=color, linewidth=2) for color in COLORS.values()]
    handles += [
        Line2D([], [], color="0.5", linewidth=2),
        Line2D([], [], color="0.5", linewidth=1.5, linestyle="--"),
        Line2D([], [], color="0.5", linestyle="", marker="o", markersize=6),
    ]
    labels = [*COLORS, "test", "train, without dropout", "the epoch that validation prefers"]
    below = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.13)}
    axes.legend(handles, labels, frameon=False, ncols=2, **below)
    late = [r.perplexities[min(1, len(r.curves) - 1) :, ::2] for r in results.values()]
    low, high = min(a.min() for a in late), max(a.max() for a in late)
    margin = 0.05 * (high - low) or 1
    axes.set_ylim(low - margin, high + margin)  # the first epoch falls from far above
    axes.set(xlabel="epoch", ylabel="perplexity of a character")
    if len(epochs) > 1:
        axes.set_xlim(left=1)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1, steps=[1, 2, 5, 10]))
    axes.grid(axis="y", color="0.9")
    axes.spines[["top", "right"]].set_visible(False)

    titles = (
        f"plain: at each step others of h dropped, rate {rate:g}",
        "locked: the same ones at all steps",
    )
    panels = zip(titles, list(COLORS)[1:], keeps, right.subplots(2, 1), strict=True)
    for title, name, keep, axes in panels:
        colors = ListedColormap([COLORS[name], "0.93"])
        axes.imshow(keep.T, cmap=colors, vmin=0, vmax=1, aspect="auto", interpolation="nearest")
        axes.set_title(title, loc="left", fontsize=10, color=COLORS[name])
        axes.set(xticks=[], yticks=[], ylabel=f"{keep.shape[1]} of the units")
        axes.spines[:].set_visible(False)
    axes.set_xlabel(f"{keep.shape[0]} time steps")
    return figure


# ---- the command ---------------------------------------------------------------------------------


def read_arguments(argv):
    parser = mnist.Parser(
        prog="lstm.py",
        description="Train a character LSTM in plain NumPy: no dropout, plain and locked masks.",
        epilog="In brackets what holds where an option is not given.",
        allow_abbrev=False,
    )
    rate, count, positive = mnist.RATE, mnist.COUNT, mnist.POSITIVE
    size = mnist.checked(
        int,
        f"a whole number from 1 to {mnist.LARGEST_LAYER}",
        lambda n: 1 <= n <= mnist.LARGEST_LAYER,
    )
    add = parser.add_argument
    add("--text", type=Path, metavar="FILE", help="to learn, in UTF-8 (Python's reference)")
    add("--characters", type=count, default=66_000, metavar="N", help="of it (%(default)s)")
    add("--input-rate", type=rate, default=0.1, metavar="P", help="of inputs (%(default)s)")
    add("--recurrent-rate", type=rate, default=0.25, metavar="P", help="of the state (%(default)s)")
    add("--output-rate", type=rate, default=0.3, metavar="P", help="of outputs (%(default)s)")
    add("--hidden", type=size, default=256, metavar="N", help="units of the LSTM (%(default)s)")
    add("--embedding", type=size, default=64, metavar="N", help="of a character (%(default)s)")
    add("--epochs", type=count, default=25, metavar="N", help="rounds of the text (%(default)s)")
    add("--batch-size", type=count, default=16, metavar="N", help="streams (%(default)s)")
    add("--steps", type=count, default=64, metavar="T", help="back in time (%(default)s)")
    add("--lr", type=positive, default=4e-3, metavar="R", help="Adam's rate (%(default)s)")
    add("--max-norm", type=positive, default=1.0, metavar="C", help="of gradients (%(default)s)")
    add("--seed", type=mnist.SEED, default=0, metavar="N", help="of all randomness (%(default)s)")
    add("--out", type=Path, default=PICTURE, metavar="FILE", help="the picture (%(default)s)")
    return parser.parse_args(argv)


def compare(args):
    """Train the three; print the table and save the picture."""
    mnist.check_writable(args.out.parent, args.out.name)
    about, parts, n_chars = load(args)
    mnist.check_packages()
    rates = Rates(args.input_rate, args.recurrent_rate, args.output_rate)
    setting = (
        f"LSTM {args.hidden}, rates {rates.inputs:g} input, {rates.recurrent:g} recurrent, "
        f"{rates.outputs:g} output; Adam {args.lr:g}, batches of {args.batch_size} x {args.steps}, "
        f"seed {args.seed}"
    )
    print(about)
    print("{:,} to train on, {:,} for validation, {:,} for test".format(*map(len, parts)))
    print(setting, flush=True)

    contenders = {
        "no dropout": {},
        "plain masks": {"rates": rates},
        "locked masks": {"rates": rates, "locked": True},
    }
    results, keeps = {}, []
    for name, options in contenders.items():
        net, curves, seconds = run(name, parts, n_chars, args, **options)
        results[name] = Result(curves, seconds)
        if options:
            chars, _ = next(windows(parts[0], args.batch_size, args.steps))
            net.forward(chars, net.first_state(args.batch_size))
            keeps.append(np.array([step[0].keep()[0, :48] for step in net.lstm.steps]))
    print(f"\n{table(results)}")

    path = args.out.resolve()
    mnist.save(draw(results, keeps, rates.recurrent, setting), path)
    print(f"\nlearning curves: {path}")


def main(argv=None):
    return mnist.exit_code("lstm.py", lambda: compare(read_arguments(argv)))


if __name__ == "__main__":
    sys.exit(main())
