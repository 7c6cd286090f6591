"""Mutated files of every format that the readers know: trees, or problems with place and remedy.

python benchmarks/fuzz_readers.py 500 [FILE.conllu ...]

Any other exception, or a reader that takes over ten seconds, ends this; the number says which mutant it
was. Of files of CoNLL-U that are named, every sentence must be rebuilt from its tree, as the package
conllu reads it.
"""

from __future__ import annotations

import random
import re
import signal
import sys
import time
from pathlib import Path

import treelstm  # before numpy and torch
from corpus import workplace  # finds the tests' modules, too

from treebanks import EXAMPLES, as_read, rebuilt, trees_or_problems

SECONDS = 10


def fuzz(count: int) -> None:
    with workplace() as work:
        for name, files in EXAMPLES.items():
            found = {"trees": 0, "problems": 0}
            for number in range(count):
                draw = random.Random(f"{name} {number}")
                signal.alarm(SECONDS)
                try:
                    found[trees_or_problems(Path(work), files, draw)] += 1
                except BaseException as error:
                    error.add_note(f"mutant {number} of {name}")
                    raise
            signal.alarm(0)
            print(f"{name:14} {found}")


def round_trip(path: Path) -> None:
    began = time.monotonic()
    trees = treelstm.read_trees(path)
    seconds = time.monotonic() - began
    sentences = [each for each in re.split(r"\n\n+", path.read_text()) if each.strip()]
    assert len(trees) == len(sentences)
    wrong = sum(rebuilt(tree.ast) != as_read(each) for tree, each in zip(trees, sentences, strict=True))
    print(f"{path}: {wrong} of {len(trees):,} sentences not rebuilt; read in {seconds:.1f} s")


if __name__ == "__main__":
    fuzz(int(sys.argv[1]))
    for name in sys.argv[2:]:
        round_trip(Path(name))
