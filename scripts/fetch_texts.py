#!/usr/bin/env python3
"""Writes the texts that docs/ measures with: three of novels, two of C++, two of Python.

    scripts/fetch_texts.py FOLDER

novel.txt   Mansfield Park
emma.txt    Emma
pride.txt   Pride and Prejudice, then Sense and Sensibility
            (Jane Austen, from the Debian package r-cran-janeaustenr, which apt-get downloads)
cpp.txt     `src/*.cpp` of the pinned llama.cpp in alphabetical order (scripts/setup.sh fetches it)
headers.txt the same with each file's header after it, which repeats itself far more
python.txt  the standard library of the Python that runs this (docs/: CPython 3.11.7), its modules in alphabetical order,
python2.txt the first half of them and the second
"""
import pathlib
import struct
import subprocess
import sys
import sysconfig
import tempfile
import zlib

ROOT = pathlib.Path(__file__).resolve().parent.parent
PACKAGE = "r-cran-janeaustenr"
NOVELS = {"novel": ["MANSFIELD PARK"], "emma": ["EMMA"], "pride": ["PRIDE AND PREJUDICE", "SENSE AND SENSIBILITY"]}


def strings(r_object):
    """The first vector of strings in R's serialisation (big-endian; STRSXP is type 16, its elements CHARSXP 9)."""
    at = r_object.find(struct.pack(">I", 16))
    if at < 0:
        return []
    (count,), at, found = struct.unpack_from(">I", r_object, at + 4), at + 8, []
    for _ in range(count):
        flags, length = struct.unpack_from(">Ii", r_object, at)
        if flags & 255 != 9:
            return []
        found.append(r_object[at + 8:at + 8 + max(0, length)].decode())
        at += 8 + max(0, length)
    return found


def austen():
    """Title in capitals -> text. A novel is an entry of the package's data base: its size, then zlib."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["apt-get", "download", "-q", PACKAGE], cwd=folder, check=True, stdout=subprocess.DEVNULL)
        deb = next(pathlib.Path(folder).glob("*.deb"))
        subprocess.run(["dpkg-deb", "-x", deb, folder], check=True)
        data = (pathlib.Path(folder) / "usr/lib/R/site-library/janeaustenr/data/Rdata.rdb").read_bytes()
    novels, at = {}, 0
    while at < len(data):
        entry = zlib.decompressobj()
        lines = strings(entry.decompress(data[at + 4:]))
        at = len(data) - len(entry.unused_data)
        if len(lines) > 1000:
            novels[lines[0].strip().upper()] = "\n".join(lines) + "\n"
    return novels


def joined(paths):
    return "".join(path.read_text(encoding="utf-8", errors="ignore") for path in paths)


def texts():
    novels = austen()
    made = {name: "".join(novels[title] for title in titles) for name, titles in NOVELS.items()}
    source = subprocess.run(["bash", ROOT / "scripts/build_llama.sh", "--print-source"], check=True, text=True,
                            stdout=subprocess.PIPE).stdout.strip()
    files = sorted((pathlib.Path(source) / "src").glob("*.*"))
    made["cpp"] = joined(path for path in files if path.suffix == ".cpp")
    made["headers"] = joined(path for path in files if path.suffix in (".cpp", ".h"))
    modules = sorted(pathlib.Path(sysconfig.get_path("stdlib")).glob("*.py"))
    made["python"], made["python2"] = joined(modules[:len(modules) // 2]), joined(modules[len(modules) // 2:])
    return made


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    folder = pathlib.Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts().items():
        if len(text) < 100_000:
            sys.exit(f"fetch_texts: {name}.txt would have {len(text)} characters only: is its source there?")
        (folder / f"{name}.txt").write_text(text, encoding="utf-8")
        print(folder / f"{name}.txt", len(text))


if __name__ == "__main__":
    main()
