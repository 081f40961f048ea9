"""A transformer on a CPU: what `fastdrop.torch.replace` changes in a training step, and what not.

Trains one language model three times, step by step in turn, from the same initial weights on the
same batches: with PyTorch's dropout, with PyTorch's dropout once more but other masks, and with
`fastdrop.torch.replace(model)`. Prints the time of a step, the peak memory and the loss of each,
and saves the loss curves as transformer.png. The second run says how much of a difference is noise.

    python transformer.py                          # 4 layers of 512, 16 x 256 bytes, 200 steps
    python transformer.py --steps 20               # a tenth of the time
    python transformer.py --layers 2 --width 128 --batch-size 8 --length 128   # minutes

The text is the reference manual of Python itself, as the standard library carries it for `help()`:
about half a million bytes of English, each a token. At full size a step takes seconds on two cores,
and the three runs of 200 steps an hour or more. Needs: pip install torch matplotlib tqdm

Peak memory is measured apart, in a process of its own for each, over two steps.
"""

import importlib
import json
import subprocess
import sys
from pathlib import Path
from statistics import median
from time import perf_counter, process_time

import mnist
import numpy as np

PICTURE = "transformer.png"
STOCK, OTHER, FAST = "PyTorch", "PyTorch, other masks", "fastdrop"
SMOOTHED = 10  # steps at most whose losses are averaged, in the picture and in the comparison
WARM_UP = 20  # steps of rising learning rate


# ---- text and model ------------------------------------------------------------------------------


def read_text():
    """Return the bytes of the reference manual, its topics in the order of their names."""
    try:
        from pydoc_data.topics import topics
    except ImportError as error:
        raise mnist.BadInputError(
            f"{error}: this Python comes without the texts of help(); take one that is complete"
        ) from error
    text = "\n".join(topics[name] for name in sorted(topics)).encode()
    return np.frombuffer(text, np.uint8).astype(np.int64)


def make_model(args):
    """Return a causal language model of bytes, around PyTorch's own encoder."""
    import torch
    from torch import nn

    class LanguageModel(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(256, args.width)
            self.positions = nn.Parameter(0.02 * torch.randn(args.length, args.width))
            layer = nn.TransformerEncoderLayer(
                args.width,
                args.heads,
                4 * args.width,
                args.rate,
                batch_first=True,
                norm_first=True,
            )
            self.encoder = nn.TransformerEncoder(
                layer, args.layers, nn.LayerNorm(args.width), enable_nested_tensor=False
            )
            self.scores = nn.Linear(args.width, 256)
            mask = nn.Transformer.generate_square_subsequent_mask(args.length)
            self.register_buffer("mask", mask)

        def forward(self, tokens):
            x = self.embedding(tokens) + self.positions
            return self.scores(self.encoder(x, mask=self.mask, is_causal=True))

    return LanguageModel()


class Run:
    """A model in training, with its optimizer and its own state of torch's random numbers."""

    def __init__(self, name, args):
        import torch

        import fastdrop.torch

        torch.manual_seed(args.seed)
        self.model = make_model(args)
        self.replaced = fastdrop.torch.replace(self.model) if name == FAST else 0
        self.optimizer = torch.optim.AdamW(self.model.parameters(), args.lr)
        self.schedule = torch.optim.lr_scheduler.LinearLR(self.optimizer, 0.05, 1.0, WARM_UP)
        torch.manual_seed(args.seed + (name == OTHER))  # of the masks from here on
        self.random_state = torch.get_rng_state()
        self.losses, self.seconds, self.processor_seconds = [], [], []

    def step(self, batch):
        """Do one step, and note its loss in bits a byte and what it took."""
        import torch

        torch.set_rng_state(self.random_state)
        start, busy = perf_counter(), process_time()
        scores = self.model(batch[:, :-1])
        loss = torch.nn.functional.cross_entropy(scores.flatten(0, 1), batch[:, 1:].flatten())
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.processor_seconds.append(process_time() - busy)
        self.seconds.append(perf_counter() - start)
        self.schedule.step()
        self.losses.append(loss.item() / np.log(2))
        self.random_state = torch.get_rng_state()
        if not np.isfinite(self.losses[-1]):
            raise mnist.BadInputError(
                f"the loss is {self.losses[-1]} in step {len(self.losses)}: take a smaller --lr"
            )


def batches(args):
    """Yield the same batches to whoever asks with the same seed."""
    import torch

    text, rng = torch.from_numpy(read_text()), np.random.default_rng(args.seed)
    for _ in range(args.steps):
        starts = rng.integers(0, len(text) - args.length, args.batch_size)
        yield torch.stack([text[start : start + args.length + 1] for start in starts])


# ---- memory --------------------------------------------------------------------------------------


def peak_mebibytes():
    """Return the most memory that this process has held, or None where the system does not say."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


def measure_memory(name, args):
    """Train two steps in this process; print the peak before them and after them."""
    args.steps = 2
    run = Run(name, args)
    before = peak_mebibytes()
    for batch in batches(args):
        run.step(batch)
    print(json.dumps([before, peak_mebibytes()]))


def memory_of(name, args):
    """Return peak MiB of a fresh process before the first step and after the second."""
    options = [
        f"--{key}={getattr(args, key.replace('-', '_'))}"
        for key in ("layers", "width", "heads", "batch-size", "length", "rate", "seed", "threads")
    ]
    command = [sys.executable, __file__, f"--memory={name}", *options]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise mnist.BadInputError(f"measuring memory failed: {done.stderr.strip()[-300:]}")
    return json.loads(done.stdout.splitlines()[-1])


# ---- results -------------------------------------------------------------------------------------


def window(steps):
    """How many losses are averaged: `SMOOTHED`, but no more than a tenth of all."""
    return max(1, min(SMOOTHED, steps // 10))


def smooth(losses):
    n = window(len(losses))
    return np.convolve(losses, np.full(n, 1 / n), "valid")


def differences(runs):
    """Return mean and largest difference of the smoothed curves from PyTorch's first."""
    base = smooth(runs[STOCK].losses)
    gaps = {name: np.abs(smooth(runs[name].losses) - base) for name in (OTHER, FAST)}
    return {name: (float(gap.mean()), float(gap.max())) for name, gap in gaps.items()}


def table(runs, memory):
    """Text of the comparison."""
    names = (STOCK, OTHER, FAST)
    gaps = differences(runs)

    def row(label, *cells):
        return f"{label:<34}" + "".join(f"{cell:>22}" for cell in cells)

    def seconds(which):
        """Middle and least, without the first step."""
        taken = [getattr(runs[name], which)[1:] or getattr(runs[name], which) for name in names]
        return [median(t) for t in taken], [min(t) for t in taken]

    wall, busy = seconds("seconds"), seconds("processor_seconds")
    lines = [
        row("", *names),
        row("seconds a step, median", *(f"{t:.3f}" for t in wall[0])),
        row("  fastest", *(f"{t:.3f}" for t in wall[1])),
        row("processor seconds a step, median", *(f"{t:.3f}" for t in busy[0])),
        row("  fastest", *(f"{t:.3f}" for t in busy[1])),
        row(f"loss at the end, mean of {window(len(runs[STOCK].losses))}, bits")
        + "".join(f"{smooth(runs[name].losses)[-1]:>22.4f}" for name in names),
        row("  from PyTorch's, mean", "-", *(f"{gaps[name][0]:.4f}" for name in names[1:])),
        row("  from PyTorch's, at most", "-", *(f"{gaps[name][1]:.4f}" for name in names[1:])),
    ]
    if memory[STOCK][1] is not None:
        held = [memory[STOCK], memory[STOCK], memory[FAST]]
        lines += [
            row("peak memory, MiB", *(f"{after:.0f}" for _, after in held)),
            row("  of it in the steps", *(f"{after - before:.0f}" for before, after in held)),
        ]
    faster = ", ".join(
        f"{t[0] / t[2]:.2f} by the {which}"
        for t, which in (
            (wall[0], "median"),
            (wall[1], "fastest"),
            (busy[0], "median of processor time"),
            (busy[1], "fastest of it"),
        )
    )
    lines += ["", f"time of a step with PyTorch's dropout, over fastdrop's: {faster}"]
    return "\n".join(lines)


def draw(runs, title, subtitle):
    """Loss curves, smoothed."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    styles = {OTHER: ("0.65", "-", 5), STOCK: ("#D55E00", "-", 2.5), FAST: ("#0072B2", "--", 2)}
    for name, (color, style, width) in styles.items():
        curve = smooth(runs[name].losses)
        steps = np.arange(len(runs[name].losses) - len(curve), len(runs[name].losses)) + 1
        label = f"{name}: {curve[-1]:.3f}"
        axes.plot(steps, curve, style, color=color, linewidth=width, label=label)
    axes.legend(frameon=False, title="at the end")
    axes.set_title(f"{title}\n", loc="left", fontsize=12, fontweight="bold")
    axes.text(0, 1.03, subtitle, transform=axes.transAxes, fontsize=9.5, color="0.35")
    n = window(len(runs[STOCK].losses))
    axes.set(
        xlabel=f"step (means of {n})" if n > 1 else "step", ylabel="training loss, bits a byte"
    )
    axes.grid(axis="y", color="0.9")
    axes.spines[["top", "right"]].set_visible(False)
    return figure


# ---- the command ---------------------------------------------------------------------------------


def read_arguments(argv):
    parser = mnist.Parser(
        prog="transformer.py",
        description="Train a transformer with PyTorch's dropout and with fastdrop's.",
        epilog="In brackets what holds where an option is not given.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--steps", type=mnist.COUNT, default=200, metavar="N", help="of each run (%(default)s)")
    add("--layers", type=mnist.COUNT, default=4, metavar="N", help="of the encoder (%(default)s)")
    add("--width", type=mnist.COUNT, default=512, metavar="N", help="of a token (%(default)s)")
    add("--heads", type=mnist.COUNT, default=8, metavar="N", help="of attention (%(default)s)")
    add("--batch-size", type=mnist.COUNT, default=16, metavar="N", help="pieces (%(default)s)")
    add("--length", type=mnist.COUNT, default=256, metavar="N", help="of a piece (%(default)s)")
    add("--rate", type=mnist.RATE, default=0.1, metavar="P", help="of dropout (%(default)s)")
    add("--lr", type=mnist.POSITIVE, default=5e-4, metavar="R", help="AdamW's (%(default)s)")
    add("--seed", type=mnist.SEED, default=0, metavar="N", help="of all randomness (%(default)s)")
    add("--threads", type=mnist.COUNT, metavar="N", help="of PyTorch and fastdrop (as they are)")
    add("--out", type=Path, default=".", metavar="DIR", help=f"for {PICTURE} (%(default)s)")
    add("--memory", choices=(STOCK, FAST), help="measure two steps of one run, print it as JSON")
    args = parser.parse_args(argv)
    if args.width % args.heads:
        raise mnist.BadInputError(
            f"--width {args.width} is not a multiple of --heads {args.heads}: take one that is"
        )
    return args


def compare(args):
    """Train the three; print the table and save the curves."""
    try:
        for name in ("torch", "tqdm", "matplotlib.figure"):
            importlib.import_module(name)
    except ImportError as error:
        raise mnist.BadInputError(f"{error}: pip install torch matplotlib tqdm") from error
    import torch
    from tqdm import tqdm

    import fastdrop as fd

    if args.threads is None:
        args.threads = torch.get_num_threads()
    torch.set_num_threads(args.threads)
    fd.set_num_threads(args.threads)
    if args.length >= len(read_text()):
        raise mnist.BadInputError(f"--length {args.length} is more than the text has")
    if args.memory:
        measure_memory(args.memory, args)
        return
    mnist.check_writable(args.out, PICTURE)
    memory = {name: memory_of(name, args) for name in (STOCK, FAST)}
    runs = {name: Run(name, args) for name in (STOCK, OTHER, FAST)}
    setting = (
        f"{args.layers} layers of {args.width}, {args.batch_size} x {args.length} bytes, "
        f"p = {args.rate:g}, {args.steps} steps, seed {args.seed}, threads: {args.threads}"
    )
    print(f"{setting}; {runs[FAST].replaced} modules replaced", flush=True)
    order = list(runs.values())
    with tqdm(total=args.steps, disable=None) as bar:
        for number, batch in enumerate(batches(args)):
            for run in order[number % 3 :] + order[: number % 3]:  # each first as often
                run.step(batch)
            bar.set_postfix_str(f"loss {runs[FAST].losses[-1]:.3f}")
            bar.update()
    print(f"\n{table(runs, memory)}")
    ratio = median(runs[STOCK].seconds) / median(runs[FAST].seconds)
    (noise, _), (gap, _) = (differences(runs)[name] for name in (OTHER, FAST))
    title = f"A step {ratio:.2f} times as fast, losses {gap:.1g} apart (other masks: {noise:.1g})"
    path = args.out.resolve() / PICTURE
    mnist.save(draw(runs, title, setting), path)
    print(f"\nloss curves: {path}")


def main(argv=None):
    return mnist.exit_code("transformer.py", lambda: compare(read_arguments(argv)))


if __name__ == "__main__":
    sys.exit(main())
