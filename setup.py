"""The one extension and its flags; everything else is in pyproject.toml.

No -march and no probing of the machine that builds: every kernel names its own target in its source
and is chosen when fastdrop is imported. No -ffast-math, and -ffp-contract=off, so that results are
the same bits on every ISA.
"""

from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

FLAGS = {
    "unix": ["-std=c11", "-O3", "-ffp-contract=off", "-fvisibility=hidden"],
    "mingw32": ["-std=c11", "-O3", "-ffp-contract=off", "-fvisibility=hidden"],
    "msvc": ["/std:c11", "/O2", "/fp:precise"],
}


class build_with_flags(build_ext):
    def build_extensions(self):
        for extension in self.extensions:
            extension.extra_compile_args = FLAGS[self.compiler.compiler_type]
        super().build_extensions()


core = Extension(
    "fastdrop._core",
    ["fastdrop/_core.pyx", *sorted(map(str, Path("src").glob("*.c")))],
    include_dirs=["src"],
    depends=sorted(map(str, Path("src").glob("*.h"))),
)
setup(ext_modules=cythonize([core]), cmdclass={"build_ext": build_with_flags})
