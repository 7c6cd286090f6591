"""Mutated compiled corpora: each loads equal, or is refused by name and compiled again; none kills.

python benchmarks/fuzz_corpora.py 2000

Half of the mutations are of bytes; the other half are of the content, under a digest that fits it. Child
processes load each mutant and train one step on it. A content that is refused must be compiled again to
the corpus as it was; one that passes (another sentence, say) must train.
"""

from __future__ import annotations

import logging
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import treelstm  # before numpy and torch
from corpus import workplace  # finds the tests' modules, too

import numpy as np
from corpora import put_together, taken_apart

MUTANTS_PER_CHILD = 100
NUMBERS = [-1, 0, 1, 2, 7, 1000, 2**31, 2**32, 2**62, -(2**63), 2**63 - 1]


def mutated_bytes(raw: bytes, draw: random.Random) -> bytes:
    """One to four bits, a stretch overwritten, cut out, repeated or moved, or the end cut off."""
    place, length = draw.randrange(len(raw)), draw.choice([1, 8, 64, 1000])
    stretch = raw[place : place + length]
    match draw.randrange(5):
        case 0:
            mutant = bytearray(raw)
            for _ in range(draw.randint(1, 4)):
                mutant[draw.randrange(len(raw))] ^= 1 << draw.randrange(8)
            return bytes(mutant)
        case 1:
            return raw[:place] + draw.randbytes(len(stretch)) + raw[place + length :]
        case 2:
            return raw[:place] + raw[place + length :]
        case 3:
            return raw[:place] + stretch + raw[place:]
        case _:
            return raw[:place]


def mutate_content(path: Path, draw: random.Random) -> None:
    """Changes values, rows or types of one or two arrays, or the texts, and seals the file again."""
    about, arrays = taken_apart(path)
    for _ in range(draw.randint(1, 2)):
        name = draw.choice([*arrays, "symbols", "sentences", "key"])
        if name not in arrays:
            odd: list[Any] = [
                None,
                3,
                "x",
                [],
                {},
                ["\ud83d"],
                [[]],
                [None],
                list(range(9)),
                ["a"] * 500,
            ]
            if isinstance(about[name], list | str):
                odd.append(about[name] * 2)
            about[name] = draw.choice([*odd, {"child": 2**60}])
            continue
        array, place = arrays[name], draw.randrange(len(arrays[name]) or 1)
        match draw.randrange(6) if len(array) else 5:
            case 0 | 1 if array.dtype == np.int64:
                array[place] = draw.choice([*NUMBERS, int(array[place]) + draw.choice([-1, 1])])
            case 2:
                other = draw.randrange(len(array))
                array[[place, other]] = array[[other, place]]
            case 3:
                array[place : place + 20] = array[place]
            case 4:
                arrays[name] = array[::-1].copy()
            case _:
                arrays[name] = np.resize(
                    array, max(0, len(array) + draw.choice([-9, -1, 1, 9, -(10**6)]))
                )
    put_together(path, about, arrays)


def child(work: Path, first: int, last: int) -> None:
    """Prints the number of each mutant before it is tried, then whether it was refused or passed."""
    data = work / "data"
    in_order = first // MUTANTS_PER_CHILD % 2 == 1  # every second child reads with child_order
    store, whole = data / ".forest.bin", treelstm.load_pairs(data, child_order=in_order)
    raw, said = store.read_bytes(), list[str]()
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("treelstm").addHandler(handler)
    for number in range(first, last):
        print(number, end=" ", flush=True)
        draw = random.Random(number)
        store.write_bytes(mutated_bytes(raw, draw) if number % 2 else raw)
        if not number % 2:
            mutate_content(store, draw)
        changed = store.read_bytes() != raw
        said.clear()
        pairs = treelstm.load_pairs(data, child_order=in_order)
        refused = any(str(store) in text and "Compiling the corpus again" in text for text in said)
        equal = store.read_bytes() == raw
        assert equal or not number % 2, "changed bytes were believed"
        assert equal or not refused, "it was refused, but not compiled again"
        train_one_step(pairs, whole)
        print("refused" if refused else "passed" if changed and not equal else "equal", flush=True)
        store.write_bytes(raw)


def train_one_step(pairs: Any, whole: Any) -> None:
    from treelstm.config import EncoderSettings
    from treelstm.model.encoder import TreeEncoder
    from treelstm.trees.vocabulary import Vocabulary

    assert len(pairs) > 0 and len(pairs.forest) >= len(whole.forest) // 2
    sizes = {"embedding_dim": 4, "hidden_dim": 4, "output_dim": 2}
    settings = EncoderSettings(**sizes, child_order=pairs.child_order)
    encoder = TreeEncoder(Vocabulary.of(pairs.forest, pairs.trees), settings)
    batch = encoder.batch(pairs.forest, pairs.trees, encoder.vocabulary.ids(pairs.forest.symbols))
    encoder(batch).square().sum().backward()
    for tree in pairs.trees[:3].tolist():
        pairs.forest.graph(tree)
    assert all(pairs.where(number) for number in range(len(pairs)))


def compiled_corpora(count: int) -> dict[str, int]:
    """Tries that many mutants; how many were equal, refused, passed. Exits at the first that fails."""
    found = {"equal": 0, "refused": 0, "passed": 0}
    with workplace() as work:
        treelstm.write_sample(Path(work, "data"), positives=12, negatives=24)
        for first in range(0, count, MUTANTS_PER_CHILD):
            last = min(first + MUTANTS_PER_CHILD, count)
            words = [sys.executable, __file__, "child", work, str(first), str(last)]
            done = subprocess.run(words, capture_output=True, text=True, check=False)
            lines = done.stdout.splitlines()
            if done.returncode:
                sys.exit(f"mutant {lines[-1]}: exit status {done.returncode}\n{done.stderr[-3000:]}")
            for line in lines:
                found[line.split()[1]] += 1
    return found


if __name__ == "__main__":
    if sys.argv[1] == "child":
        child(Path(sys.argv[2]), *map(int, sys.argv[3:]))
    else:
        print(f"compiled corpora: {compiled_corpora(int(sys.argv[1]))}")
