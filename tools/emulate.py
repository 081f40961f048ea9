"""Run the C kernels on ISAs and systems that this machine may lack, and under sanitizers.

    python tools/emulate.py [--native] [avx512] [neon] [avx2] [baseline] [pool]

For x86-64 Linux, with whichever compilers and emulators there are; the compiled Python module is
not needed. tests/c/driver.c is built with src/*.c in a temporary folder, and every build has to
reproduce all masks and windows of fastdrop/data/stream_v1.json and all numbers of normal_v1.json,
and to pass the driver's comparison with a model of the stream and of the values ("parity"). "pool"
is tests/c/pool.c, the threads of fastdrop/pool.h under load.

    baseline, avx2, avx512   gcc with address and undefined-behaviour sanitizers, and clang as
                             shipped: natively, where the processor has the instructions
    avx512                   gcc, and clang with the address sanitizer: SIMDe's AVX-512 in portable
                             C, on plain x86-64
    neon, baseline           gcc for aarch64 under QEMU
    baseline, avx2           gcc under QEMU as processors with no more than they need: a wider
                             instruction that got into them would trap
    baseline, pool           gcc for s390x (big-endian), ppc64le, riscv64 and aarch64 under QEMU,
                             and for 32-bit x86
    all of x86-64, pool      musl's C library
    all of x86-64, pool      Windows' ABI and C library under Wine: src/ by mingw-w64; by clang as
                             clang-cl has it; and by clang as if it were MSVC, so that those
                             branches of src/ are compiled and run (not MSVC itself)

Without arguments all that can run here runs. Exit code: 1 if anything failed; 2 if an ISA that was
asked for by name lacks its compiler or emulator.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / "fastdrop" / "data"
VECTORS = json.loads((DATA / "stream_v1.json").read_text())
NORMALS = json.loads((DATA / "normal_v1.json").read_text())
ISAS = ("avx512", "neon", "avx2", "baseline", "pool")  # pool is none, but asked for like one

FLAGS = ("-std=c11", "-ffp-contract=off")  # as in setup.py: results depend on them
SHIPPED = ("-O2",)
SANITIZED = ("-O1", "-g1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
X86_32 = ("-msse2", "-mfpmath=sse")  # as in setup.py
SIMDE = ('-DFD_EMULATE_AVX512="simde_avx512.h"', "-O1", "-g1", "-Wno-psabi")
TIMEOUT = 900  # seconds


@dataclass(frozen=True)
class Run:
    """One ISA of a build, under a runner."""

    isa: str
    cpu: str = ""  # of the emulator
    usable: bool | None = True  # what dispatch has to say; None: nothing to do with this processor


@dataclass(frozen=True)
class Build:
    """One compilation of the driver and what it is for."""

    compiler: str
    what: str
    flags: tuple[str, ...]
    packages: str  # Debian's
    runs: tuple[Run, ...]
    header: str = "stdio.h"
    emulator: str = ""
    extra: bool = False  # nothing is wrong with a machine that lacks it
    src_by: tuple[str, ...] = ()  # another compiler for src/, and its flags


NATIVE = (Run("baseline"), Run("avx2"), Run("avx512"))
POOL = Run("pool")
WINDOWS = (*SHIPPED, "-static", "-Wl,--defsym,__chkstk=___chkstk_ms")  # as MSVC calls it
# -ffreestanding: without Microsoft's headers. Contraction is allowed, as it is by default there
CLANG_CL = ("clang", "--target=x86_64-pc-windows-msvc", "-ffreestanding", "-O2", "-ffp-contract=on")
AVX = ("-mavx512bw", "-mavx512dq", "-mavx512vl", "-mf16c", "-mbmi", "-mbmi2")
MSVC = (*CLANG_CL, "-U__clang__", *AVX)  # which has all intrinsics without being told
BUILDS = (  # those that take long first
    Build(
        "clang",
        "SIMDe, address sanitizer",
        (*SIMDE, "-fsanitize=address"),
        "clang libclang-rt-dev libsimde-dev",
        (Run("avx512", usable=None),),
        header="simde/x86/avx512.h",
        extra=True,
    ),
    Build(
        "gcc",
        "SIMDe",
        SIMDE,
        "gcc libc6-dev libsimde-dev",
        (Run("avx512", usable=None),),
        header="simde/x86/avx512.h",
    ),
    Build(
        "aarch64-linux-gnu-gcc",
        "",
        (*SHIPPED, "-static"),
        "gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user-static",
        (Run("neon", "max"), Run("neon", "cortex-a53"), Run("baseline", "max"), POOL),
        emulator="qemu-aarch64",
    ),
    Build("clang", "as shipped", SHIPPED, "clang", NATIVE, extra=True),
    Build("gcc", "address and undefined sanitizers", SANITIZED, "gcc libc6-dev", NATIVE),
    Build(
        "gcc",
        "",
        (*SHIPPED, "-static"),
        "gcc libc6-dev qemu-user-static",
        (
            Run("baseline", "qemu64"),
            Run("avx2", "qemu64", usable=False),
            Run("avx512", "qemu64", usable=False),
            Run("avx2", "Haswell"),
            Run("avx512", "Haswell", usable=False),
        ),
        emulator="qemu-x86_64",
        extra=True,
    ),
    Build(
        "s390x-linux-gnu-gcc",
        "big-endian",
        (*SHIPPED, "-static"),
        "gcc-s390x-linux-gnu libc6-dev-s390x-cross qemu-user-static",
        (Run("baseline", "max"), POOL),
        emulator="qemu-s390x",
        extra=True,
    ),
    Build(
        "powerpc64le-linux-gnu-gcc",
        "",
        (*SHIPPED, "-static"),
        "gcc-powerpc64le-linux-gnu libc6-dev-ppc64el-cross qemu-user-static",
        (Run("baseline", "power8"), POOL),
        emulator="qemu-ppc64le",
        extra=True,
    ),
    Build(
        "riscv64-linux-gnu-gcc",
        "",
        (*SHIPPED, "-static"),
        "gcc-riscv64-linux-gnu libc6-dev-riscv64-cross qemu-user-static",
        (Run("baseline", "rv64"), POOL),
        emulator="qemu-riscv64",
        extra=True,
    ),
    Build(
        "i686-linux-gnu-gcc",
        "32-bit x86",
        (*SHIPPED, "-static", *X86_32),
        "gcc-i686-linux-gnu libc6-dev-i386-cross",
        (Run("baseline"), POOL),
        extra=True,
    ),
    Build("musl-gcc", "musl", (*SHIPPED, "-static"), "musl-tools", (*NATIVE, POOL), extra=True),
    Build(
        "x86_64-w64-mingw32-gcc",
        "Windows",
        WINDOWS,
        "gcc-mingw-w64-x86-64 wine64 wine",
        (*NATIVE, POOL),
        emulator="wine",
        extra=True,
    ),
    Build(
        "x86_64-w64-mingw32-gcc",
        "Windows, src/ by clang as clang-cl",
        WINDOWS,
        "clang gcc-mingw-w64-x86-64 wine64 wine",
        NATIVE,
        emulator="wine",
        extra=True,
        src_by=CLANG_CL,
    ),
    Build(
        "x86_64-w64-mingw32-gcc",
        "Windows, src/ by clang as if MSVC",
        WINDOWS,
        "clang gcc-mingw-w64-x86-64 wine64 wine",
        NATIVE,
        emulator="wine",
        extra=True,
        src_by=MSVC,
    ),
)


# ---- vectors -------------------------------------------------------------------------------------


def threshold(p: float) -> int:
    return round(p * 2.0**40)


def mask_request(v: dict) -> str:
    numbers = v["seed"], v["position"], v["start"], v["n"], threshold(v["p"])
    return " ".join(map(str, ("mask", *numbers)))


def window_request(v: dict) -> str:
    """``mask[window]`` as the index of its first decision and the steps along its axes."""
    noise = v["noise_shape"] or v["shape"]
    strides, size = [], 1
    for m, n in zip(reversed(noise), reversed(v["shape"]), strict=True):
        strides.insert(0, 0 if m == 1 and n != 1 else size)
        size *= m
    first = sum(lo * stride for (lo, _), stride in zip(v["window"], strides, strict=True))
    shape = [hi - lo for lo, hi in v["window"]]
    numbers = v["seed"], v["position"], threshold(v["p"]), first, len(shape), *shape, *strides
    return " ".join(map(str, ("window", *numbers)))


def normal_request(v: dict) -> str:
    return f"normal {v['seed']} {v['position']} {v['start']} {v['n']}"


def requests() -> list[tuple[str, str]]:
    """Every vector as a request to the driver and its answer, or that of masks as a digest."""
    masks = [(mask_request(v), v["sha256"]) for v in VECTORS["masks"]]
    windows = [(window_request(v), v["sha256"]) for v in VECTORS["windows"]]
    normals = NORMALS["runs"] + NORMALS["words"]
    return masks + windows + [(normal_request(v), v["normals"]) for v in normals]


def is_answer(line: str, wanted: str) -> bool:
    try:
        return line == wanted or hashlib.sha256(bytes.fromhex(line)).hexdigest() == wanted
    except ValueError:
        return False


# ---- builds and runs -----------------------------------------------------------------------------


class Failure(Exception):
    """What went wrong, in a few lines."""


def call(command: list[str], text: str = "") -> subprocess.CompletedProcess:
    # there is nothing to leak, and looking for leaks fails where ptrace is not allowed
    more = {"LC_ALL": "C", "ASAN_OPTIONS": "detect_leaks=0", "WINEDEBUG": "-all"}
    try:
        return subprocess.run(
            command,
            input=text,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            env=os.environ | more,
        )
    except subprocess.TimeoutExpired:
        raise Failure(f"no end after {TIMEOUT} s") from None


def emulator_path(name: str) -> str | None:
    return shutil.which(f"{name}-static") or shutil.which(name)


def is_available(build: Build, folder: Path) -> bool:
    """Whether the compiler, the headers, the libraries and the emulator are there."""
    if not all(map(shutil.which, {build.compiler, *build.src_by[:1]})):
        return False
    if build.emulator and not emulator_path(build.emulator):
        return False
    empty = folder / "empty.c"
    empty.write_text(f"#include <{build.header}>\nint main(void) {{ return 0; }}\n")
    command = [build.compiler, *FLAGS, *build.flags, str(empty), "-o", str(folder / "empty")]
    return call(command).returncode == 0


def compile_program(build: Build, name: str, src: Path, folder: Path) -> Path:
    """Compile tests/c/driver.c with src/, or pool.c with fastdrop/pool.h."""
    tests, program = ROOT / "tests" / "c", folder / f"{name}.exe"
    includes = [f"-I{at}" for at in (src, tests, ROOT / "fastdrop")]
    sources, libraries = sorted(map(str, src.glob("*.c"))), ["-lm"]
    if name == "pool":
        sources, libraries = [], ["-pthread"]
        includes.append("-D_GNU_SOURCE")
        if build.emulator == "wine":
            libraries.append("-lsynchronization")
    if build.src_by:
        objects = [str(folder / f"{Path(source).stem}.o") for source in sources]
        flags = [FLAGS[0], f"-isystem{tests / 'freestanding'}", *includes]
        for source, made in zip(sources, objects, strict=True):
            compile_or_fail([*build.src_by, *flags, "-c", source, "-o", made])
        sources = objects
    command = [build.compiler, *FLAGS, *build.flags, *includes, str(tests / f"{name}.c"), *sources]
    compile_or_fail([*command, *libraries, "-o", str(program)])
    return program


def compile_or_fail(command: list[str]) -> None:
    result = call(command)
    if result.returncode:
        raise Failure("it does not compile\n" + "\n".join(result.stderr.splitlines()[:40]))


def ask(command: list[str], lines: list[str]) -> list[str]:
    """Return the driver's answers, one a request."""
    result = call(command, "\n".join(lines) + "\n")
    answers = result.stdout.splitlines()
    if result.returncode or len(answers) != len(lines):
        at = min(len(answers), len(lines) - 1)
        if answers and answers[-1].startswith((" ", "mismatch", "error")):
            found = (i for i, a in enumerate(answers) if a.startswith(("mismatch", "error")))
            at = next(found, at)
        said = "\n".join([*answers[at:], *result.stderr.splitlines()[:30]])
        raise Failure(f"exit code {result.returncode} at request: {lines[at]}\n{said}")
    return answers


def check(run: Run, command: list[str]) -> str:
    """Put one ISA of a driver to the test, or the pool; return what was done."""
    if run == POOL:
        result = call(command)
        if result.returncode or result.stdout != "ok\n":
            raise Failure(f"exit code {result.returncode}\n{result.stdout}{result.stderr}")
        return "three callers, five workers, 15,000 calls"
    vectors = requests()
    if run.usable is not None:
        answer = ask(command, ["usable"])
        if answer != [str(int(run.usable))]:
            raise Failure(f"dispatch says that it is {'not ' * run.usable}usable here")
        if not run.usable:
            return "dispatch refuses it"
    *answers, parity = ask(command, [request for request, _ in vectors] + ["parity"])
    wrong = [
        request
        for (request, wanted), answer in zip(vectors, answers, strict=True)
        if not is_answer(answer, wanted)
    ]
    if wrong:
        raise Failure(f"{len(wrong)} of {len(vectors)} vectors differ, the first: {wrong[0]}")
    return f"{len(vectors)} vectors, parity of {parity.removeprefix('ok ')} calls"


def place(build: Build, run: Run) -> str:
    """Say what runs where."""
    version = call([build.compiler, "--version"]).stdout.splitlines()[0].split()[-1]
    where = f"{build.emulator} -cpu {run.cpu}" if run.cpu else build.emulator
    return ", ".join(filter(None, (f"{build.compiler} {version}", build.what, where)))


def report(isa: str, state: str, text: str) -> None:
    print(f"{isa:9} {state:8} {text}", flush=True)


def do_build(build: Build, isas: list[str], src: Path) -> dict[str, set[str]]:
    """Build, run and report; return the ISAs that failed and those that could not run."""
    runs = [run for run in build.runs if run.isa in isas]
    outcome: dict[str, set[str]] = {"failed": set(), "missing": set()}
    with tempfile.TemporaryDirectory(prefix="fastdrop-") as name:
        folder = Path(name)
        if not is_available(build, folder):
            for isa in dict.fromkeys(run.isa for run in runs):
                what = ", ".join(filter(None, (build.compiler, build.what, build.emulator)))
                report(isa, "NOT RUN", f"{what}: not run: needs {build.packages}")
                if not build.extra:
                    outcome["missing"].add(isa)
            return outcome
        programs: dict[str, Path | Failure] = {}
        for run in runs:
            begin = time.monotonic()
            name = "pool" if run == POOL else "driver"
            if name not in programs:
                try:
                    programs[name] = compile_program(build, name, src, folder)
                except Failure as failure:
                    programs[name] = failure
            program = programs[name]
            command = [str(program), *([run.isa] if run != POOL else [])]
            if build.emulator:
                cpu = ["-cpu", run.cpu] if run.cpu else []
                command = [emulator_path(build.emulator), *cpu, *command]
            try:
                if isinstance(program, Failure):
                    raise program
                if not run.cpu and run.isa in ("avx2", "avx512") and is_not_here(run, command):
                    report(run.isa, "-", f"{place(build, run)}: not on this processor")
                    continue
                done = check(run, command)
            except Failure as failure:
                outcome["failed"].add(run.isa)
                report(run.isa, "FAILED", f"{place(build, run)}: {failure}")
            else:
                seconds = time.monotonic() - begin
                report(run.isa, "ok", f"{place(build, run)}: {done} ({seconds:.0f} s)")
    return outcome


def is_not_here(run: Run, command: list[str]) -> bool:
    """Whether a program that no emulator runs is for another processor than this."""
    return run.usable is True and ask(command, ["usable"]) == ["0"]


def isa_name(word: str) -> str:
    if word not in ISAS:
        raise argparse.ArgumentTypeError(f"{word!r} is none of {', '.join(ISAS)}")
    return word


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "isa", nargs="*", type=isa_name, help=f"{', '.join(ISAS)}; default: all that can run here"
    )
    parser.add_argument("--src", type=Path, default=ROOT / "src", help="other sources to test")
    parser.add_argument(
        "--native",
        action="store_true",
        help="nothing under an emulator: gcc's sanitizers, clang, musl",
    )
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="builds at a time")
    args = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # an emulator would leave them here
    isas = args.isa or list(ISAS)
    builds = [
        build
        for build in BUILDS
        if any(run.isa in isas for run in build.runs) and not (args.native and build.emulator)
    ]
    with ThreadPoolExecutor(args.jobs) as pool:
        outcomes = list(pool.map(lambda build: do_build(build, isas, args.src.resolve()), builds))
    failed = set().union(*(o["failed"] for o in outcomes))
    missing = set().union(*(o["missing"] for o in outcomes))
    if failed:
        print("FAILED:", *sorted(failed))
        return 1
    if missing:
        print("NOT RUN for lack of a compiler or an emulator:", *sorted(missing))
    return 2 if missing & set(args.isa) else 0


if __name__ == "__main__":
    sys.exit(main())
