#!/usr/bin/env python3
"""Writes the texts that docs/ measures with: novels, source code, and contexts that end with a copy of something far back.

    scripts/fetch_texts.py FOLDER [--tokenizer MODEL.gguf]

novel.txt   Mansfield Park
emma.txt    Emma
pride.txt   Pride and Prejudice, then Sense and Sensibility
            (Jane Austen, from the Debian package r-cran-janeaustenr, which apt-get downloads)
cpp.txt     `src/*.cpp` of the pinned llama.cpp in alphabetical order (scripts/setup.sh fetches it)
headers.txt the same with each file's header after it, which repeats itself far more
python.txt  the standard library of the Python that runs this (docs/: CPython 3.11.7), its modules in alphabetical order,
python2.txt the first half of them and the second

With --tokenizer (byte-level BPE; needs the packages gguf and tokenizers), for contexts of N = 8192, 16384 and 32768 tokens
of that model:

edit_NAME_N.txt    a file of C++ (cpp), headers, C (c), CUDA (cuda) or Python (python), then other files of its kind, at
                   least 60 % of the context, then the file again with two or three identifiers renamed
reread_NAME_N.txt  the same with a file of C++ or Python, then a diff, and the file with the diff applied

They end with the copy, so take the context from the end, and score no more than the copy (1,024 tokens of 8,192, else 2,048):

    prescore ppl --model MODEL.gguf --text edit_cpp_16384.txt --ctx 16384 --tail-tokens 2048 --from-end

Where a file begins in tokens depends on the tokenizer (SmolLM2's makes 30 % more of C++ than Qwen's): each wants its own folder.
scripts/copied_texts.py says how they are made.
"""
import argparse
import pathlib
import struct
import subprocess
import sys
import sysconfig
import tempfile
import zlib

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "scripts"), str(ROOT / "bench/support")]
import copied_texts  # noqa: E402

PACKAGE = "r-cran-janeaustenr"
NOVELS = {"novel": ["MANSFIELD PARK"], "emma": ["EMMA"], "pride": ["PRIDE AND PREJUDICE", "SENSE AND SENSIBILITY"]}
CONTEXTS = (8192, 16384, 32768)
# Name: the kind of its files, the one that comes twice, and what happens to it.
COPIES = {
    "edit_cpp": ("cpp", "common/ngram-map.cpp", {"pattern": "wanted", "cur_len": "n_read", "n_draft_min": "least_draft"}),
    "edit_headers": ("headers", "src/llama-kv-cells.h", {"cells": "slots", "shift": "moved"}),
    "edit_c": ("c", "ggml/src/ggml-alloc.c", {"talloc": "arena", "alignment": "granularity"}),
    "edit_cuda": ("cuda", "ggml/src/ggml-cuda/argsort.cu", {"nrows": "n_lists", "ncols": "length", "block_size": "n_lanes"}),
    "edit_python": ("python", "shlex.py", {"instream": "source_in", "wordchars": "letters"}),
    "reread_cpp": ("cpp", "src/llama-adapter.cpp", None),
    "reread_python": ("python", "queue.py", None),
}
KINDS = {"cpp": "src/*.cpp", "headers": "src/*.h", "c": "ggml/src/*.c", "cuda": "ggml/src/ggml-cuda/*.cu", "python": "*.py"}


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


def llama_source():
    command = ["bash", ROOT / "scripts/build_llama.sh", "--print-source"]
    return pathlib.Path(subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE).stdout.strip())


def texts():
    novels = austen()
    made = {name: "".join(novels[title] for title in titles) for name, titles in NOVELS.items()}
    files = sorted((llama_source() / "src").glob("*.*"))
    made["cpp"] = joined(path for path in files if path.suffix == ".cpp")
    made["headers"] = joined(path for path in files if path.suffix in (".cpp", ".h"))
    modules = sorted(pathlib.Path(sysconfig.get_path("stdlib")).glob("*.py"))
    made["python"], made["python2"] = joined(modules[:len(modules) // 2]), joined(modules[len(modules) // 2:])
    return made


def copies(tokens):
    """Name -> text; tokens(text): how many it has."""
    made = {}
    for name, (kind, file, names) in COPIES.items():
        folder = pathlib.Path(sysconfig.get_path("stdlib")) if kind == "python" else llama_source()
        others = sorted(path for path in folder.glob(KINDS[kind]) if path != folder / file)
        after = [path for path in others if path > folder / file]
        others = after + others[:len(others) - len(after)]  # those that follow the file first
        change = copied_texts.renamed(names) if names else copied_texts.patched
        for context in CONTEXTS:
            text = copied_texts.make(joined([folder / file]), joined(others), context, change, tokens)
            made[f"{name}_{context}"] = str(text)
    return made


def counter(path):
    """Counts tokens as the model in a GGUF file does."""
    import gguf
    from gguf_tokenizer import tokenizer

    encode = tokenizer(gguf.GGUFReader(path).fields).encode
    return lambda text: len(encode(text).ids)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--tokenizer", metavar="MODEL.gguf", help="count tokens by this model's tokenizer")
    given = parser.parse_args()
    made = copies(counter(given.tokenizer)) if given.tokenizer else {}
    given.folder.mkdir(parents=True, exist_ok=True)
    for name, text in (texts() | made).items():
        if name not in made and len(text) < 100_000:
            sys.exit(f"fetch_texts: {name}.txt would have {len(text)} characters only: is its source there?")
        path = given.folder / f"{name}.txt"
        path.write_text(text, encoding="utf-8")
        context = int(name.rpartition("_")[2]) if name in made else 0
        print(path, len(text), f"--ctx {context} --tail-tokens {copied_texts.tail_of(context)} --from-end" if context else "")
    if not made:
        print("no edit and re-read texts: they want --tokenizer MODEL.gguf")


if __name__ == "__main__":
    main()
