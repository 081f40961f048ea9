"""The compiled modules and their flags; everything else is in pyproject.toml.

No -march and no probing of the machine that builds: every kernel names its own target in its source
and is chosen when fastdrop is imported.
"""

import multiprocessing
import os
import platform
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CCompilerError, ExecError, PlatformError

# no -ffast-math, and no contraction of a product and a sum: the same bits on every ISA
GNU = ["-std=c11", "-g0", "-ffp-contract=off", "-fvisibility=hidden"]
if sys.platform == "linux":
    # no exception comes this way, and they would be 4 % of the wheel
    GNU.append("-fno-asynchronous-unwind-tables")
    # functions in the order of their names: siblings lie side by side, and the wheel has 13 KB less
    GNU.append("-ffunction-sections")
if sys.maxsize < 2**32 and platform.machine() in ("i386", "i586", "i686", "x86_64"):
    GNU += ["-msse2", "-mfpmath=sse"]  # the x87 would round twice
COMPILE = {"unix": GNU, "mingw32": GNU, "msvc": ["/std:c11", "/O2", "/fp:precise"]}
# -O2, for -O3 gains the kernels nothing and costs 5 % of the wheel. But only -O3 makes vectors of
# fd_rates.c's comparisons; and where a call takes long what is small will do.
OPTIMIZE = {"fd_rates.c": "-O3", "ratesmask.c": "-Os", "noise.c": "-Os"}
# stripped, with every relocation read-only once loaded, and no executable stack
LINK = {
    "linux": ["-Wl,-s", "-Wl,-z,relro,-z,now,-z,noexecstack", "-Wl,--sort-section=name"],
    "darwin": ["-Wl,-x"],
}

NO_COMPILER = """
fastdrop could not be compiled. It needs a C compiler (gcc, clang or MSVC) and Python's headers:
  Debian, Ubuntu   apt-get install gcc python3-dev
  Fedora           dnf install gcc python3-devel
  Alpine           apk add gcc musl-dev python3-dev
  macOS            xcode-select --install
  Windows          "Desktop development with C++" of the Visual Studio Build Tools
The compiler was called as {compiler!r}; what it said stands above. {error}
"""


class build_side_by_side(build_ext):
    def build_extensions(self):
        compiler, jobs = self.compiler, os.cpu_count() or 1
        self.parallel = self.parallel or jobs
        compile_sources = compiler.compile

        def compile_one(source, options):
            flags = COMPILE[compiler.compiler_type]
            if compiler.compiler_type != "msvc":
                flags = [*flags, OPTIMIZE.get(Path(source).name, "-O2")]
            return compile_sources([source], **options | {"extra_postargs": flags})

        def compile_all(sources, **options):
            with ThreadPoolExecutor(jobs) as pool:
                objects = pool.map(lambda source: compile_one(source, options), sources)
                return [path for paths in objects for path in paths]

        compiler.compile = compile_all
        try:
            if compiler.compiler_type == "msvc":
                if not compiler.initialized:  # looks for Visual Studio: once, not in each thread
                    compiler.initialize()
                compiler.cc = os.environ.get("CC", compiler.cc)  # clang-cl, say
            super().build_extensions()
        except (CCompilerError, ExecError, PlatformError) as error:
            command = getattr(compiler, "compiler_so", None) or [compiler.compiler_type]
            sys.exit(NO_COMPILER.format(compiler=command[0], error=error))


CYTHON = [
    "kernels",
    "rates",
    "arrays",
    "recipe",
    "mask",
    "ratesmask",
    "noise",
    "generator",
    "rules",
    "fused",
    "layer",
]
PYTHON = ["functional"]  # compiled all the same, for its calls are short; see functional.pxd
HEADERS = [*Path("src").glob("*.h"), *Path("fastdrop").glob("*.h"), *Path("fastdrop").glob("*.pxd")]


def module(source, *more):
    return Extension(
        f"fastdrop.{Path(source).stem}",
        [source, *more],
        include_dirs=["src", "fastdrop", np.get_include()],
        define_macros=[("NPY_NO_DEPRECATED_API", "NPY_2_0_API_VERSION")],
        extra_link_args=LINK.get(sys.platform, []),
        libraries=["synchronization"] if sys.platform == "win32" else [],  # pool.h waits with it
        depends=sorted(map(str, HEADERS)),
    )


for name in PYTHON:  # cythonize does not look at what their .pxd depend on
    Path(f"fastdrop/{name}.c").unlink(missing_ok=True)
kernels, *others = [f"fastdrop/{name}.pyx" for name in CYTHON]
others += [f"fastdrop/{name}.py" for name in PYTHON]
setup(
    ext_modules=cythonize(
        [module(kernels, *sorted(map(str, Path("src").glob("*.c")))), *map(module, others)],
        # side by side too, where that does not run this file again in each process
        nthreads=(os.cpu_count() or 1) if multiprocessing.get_start_method() == "fork" else 0,
        compiler_directives={
            "language_level": 3,
            "annotation_typing": False,
            "freethreading_compatible": True,
            "auto_pickle": False,  # what is pickled says how itself
        },
    ),
    cmdclass={"build_ext": build_side_by_side},
)
