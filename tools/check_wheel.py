"""Hold a Linux wheel against what a release promises: size, hardening, symbols, platform.

    python tools/check_wheel.py dist/*.whl

For each compiled module in it: stripped; full RELRO; no executable stack; PyInit_ alone exported.
The wheel: less than 1 MB, no pictures, no sources, and auditwheel calls it manylinux_2_28 or older
(on a machine whose C library is newer it may say so only after the symbols that are used).
"""

import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from elftools.elf.dynamic import DynamicSection
from elftools.elf.elffile import ELFFile

LARGEST = 1_000_000  # bytes
GLIBC = 2, 28


def main(paths):
    faults = [fault for path in paths for fault in check(Path(path))]
    for fault in faults:
        print(fault)
    return int(bool(faults) or not paths)


def check(wheel):
    size = wheel.stat().st_size
    print(f"{wheel.name}: {size:,} bytes")
    if size >= LARGEST:
        yield f"{wheel.name} has {size:,} bytes; at most {LARGEST:,}"
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
        for name in archive.namelist():
            if name.endswith((".png", ".c", ".h", ".pyx")):
                yield f"{name} should not be in a wheel"
        modules = sorted(Path(folder).glob("fastdrop/**/*.so"))
        if not modules:
            yield f"{wheel.name} holds no compiled module"
        for module in modules:
            with module.open("rb") as file:
                yield from (f"{module.name}: {fault}" for fault in check_elf(ELFFile(file)))
    shown = subprocess.run(
        [sys.executable, "-m", "auditwheel", "show", str(wheel)], capture_output=True, text=True
    )
    found = re.search(r'constrained by the[^"]*"(?:many|musl)linux_(\d+)_(\d+)', shown.stdout)
    found = found or re.search(r'"manylinux_(\d+)_(\d+)_\w+"', shown.stdout)
    print(" ".join(shown.stdout.split()))
    if found is None or tuple(map(int, found.groups())) > GLIBC:
        yield f"{wheel.name}: auditwheel does not call it manylinux_2_28 or older{shown.stderr}"


def check_elf(elf):
    if elf.get_section_by_name(".symtab") or elf.get_section_by_name(".debug_info"):
        yield "is not stripped"
    segments = {segment["p_type"]: segment for segment in elf.iter_segments()}
    if "PT_GNU_STACK" not in segments or segments["PT_GNU_STACK"]["p_flags"] & 1:
        yield "has an executable stack"
    flags = 0
    for section in elf.iter_sections():
        if isinstance(section, DynamicSection):
            for tag in section.iter_tags():
                if tag.entry.d_tag == "DT_FLAGS":
                    flags = tag.entry.d_val
    if "PT_GNU_RELRO" not in segments or not flags & 0x8:  # DF_BIND_NOW
        yield "lacks full RELRO"
    exported = [
        symbol.name
        for symbol in elf.get_section_by_name(".dynsym").iter_symbols()
        if symbol["st_shndx"] != "SHN_UNDEF" and symbol["st_info"]["bind"] != "STB_LOCAL"
    ]
    if len(exported) != 1 or not exported[0].startswith("PyInit_"):
        yield f"exports {exported}, not PyInit_ alone"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
