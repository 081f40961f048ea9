"""Builds and tests a wheel for each Python and NumPy: ``nox``; for some of them ``nox -p 3.12``.

Interpreters that are not on the PATH are skipped, and the summary says so; with
``--error-on-missing-interpreters`` they are errors. Each session builds the sdist, from it the
wheel, installs that beside the given NumPy, and runs the self-test and the whole test suite from
the unpacked sdist. Last results: the table in CONTRIBUTING.md.
"""

import tarfile
from pathlib import Path

import nox

OLDEST = {"3.11": "2.0.0", "3.12": "2.0.0", "3.13": "2.1.0", "3.14": "2.3.2", "3.14t": "2.3.2"}

nox.options.sessions = ["wheel"]


@nox.session(python=list(OLDEST))
@nox.parametrize("numpy", ["oldest", "newest"])
def wheel(session, numpy):
    """Build a wheel from the sdist, and test it with one NumPy."""
    dist, unpacked = Path(session.create_tmp(), "dist"), Path(session.create_tmp(), "sdist")
    for path in dist.glob("*"):
        path.unlink()
    session.install("build")
    session.run("python", "-m", "build", "--outdir", str(dist), silent=True)
    (sdist,), (built,) = dist.glob("*.tar.gz"), dist.glob("*.whl")
    with tarfile.open(sdist) as archive:
        archive.extractall(unpacked, filter="data")
    want = f"numpy=={OLDEST[session.python]}" if numpy == "oldest" else "numpy"
    session.install("--force-reinstall", f"{built}[test]", want)
    session.chdir(unpacked / sdist.name.removesuffix(".tar.gz") / "tests")
    session.run("python", "-m", "fastdrop.selftest")
    session.run("pytest", "-q", "-p", "no:cacheprovider", "-c", "../pyproject.toml", ".")
