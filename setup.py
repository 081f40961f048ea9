"""The compiled modules and their flags; everything else is in pyproject.toml.

No -march and no probing of the machine that builds: every kernel names its own target in its source
and is chosen when fastdrop is imported. No -ffast-math, and -ffp-contract=off, so that results are
the same bits on every ISA.
"""

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CCompilerError, ExecError, PlatformError

GNU = ["-std=c11", "-O3", "-g0", "-ffp-contract=off", "-fvisibility=hidden"]
COMPILE = {"unix": GNU, "mingw32": GNU, "msvc": ["/std:c11", "/O2", "/fp:precise"]}
# stripped, with every relocation read-only once loaded, and no executable stack
LINK = {"linux": ["-Wl,-s", "-Wl,-z,relro,-z,now,-z,noexecstack"], "darwin": ["-Wl,-x"]}

NO_COMPILER = """
fastdrop could not be compiled. It needs a C compiler (gcc, clang or MSVC) and Python's headers:
  Debian, Ubuntu   apt-get install gcc python3-dev
  Fedora           dnf install gcc python3-devel
  Alpine           apk add gcc musl-dev python3-dev
  macOS            xcode-select --install
  Windows          "Desktop development with C++" of the Visual Studio Build Tools
The compiler was called as {compiler!r}; what it said stands above. {error}
"""


class build_with_flags(build_ext):
    def build_extensions(self):
        compiler, jobs = self.compiler, os.cpu_count() or 1
        for extension in self.extensions:
            extension.extra_compile_args = COMPILE[compiler.compiler_type]
            extension.extra_link_args = LINK.get(sys.platform, [])
        compile_one = compiler.compile

        def side_by_side(sources, **options):
            with ThreadPoolExecutor(jobs) as pool:
                objects = pool.map(lambda source: compile_one([source], **options), sources)
                return [path for paths in objects for path in paths]

        compiler.compile = side_by_side
        try:
            super().build_extensions()
        except (CCompilerError, ExecError, PlatformError) as error:
            command = getattr(compiler, "compiler_so", None) or [compiler.compiler_type]
            sys.exit(NO_COMPILER.format(compiler=command[0], error=error))


core = Extension(
    "fastdrop._core",
    ["fastdrop/_core.pyx", *sorted(map(str, Path("src").glob("*.c")))],
    include_dirs=["src"],
    depends=sorted(map(str, Path("src").glob("*.h"))),
)
setup(ext_modules=cythonize([core]), cmdclass={"build_ext": build_with_flags})
