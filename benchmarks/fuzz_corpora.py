"""Mutated compiled corpora: each loads equal, or is refused by name and compiled again; none kills.

python benchmarks/fuzz_corpora.py 2000

A third of the mutations are of the bytes of one file; a third of the arrays or the manifest, under
digests that fit them; a third as that, but the manifest lies that all was looked through before, so that
only what would lead out of an array is looked for. Child processes load each mutant and train one step
on it. A mutant that is refused must be compiled again to the corpus as it was; one that passes (another
sentence, say) must train, or, of the last third, fail with an error of Python's.
"""

from __future__ import annotations

import json
import logging
import random
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import treelstm  # before numpy and torch
from corpus import workplace  # finds the tests' modules, too

import numpy as np
from corpora import put_together, store_in, taken_apart, write_manifest

MUTANTS_PER_CHILD = 100
NUMBERS = [-1, 0, 1, 2, 7, 255, 256, 1000, 2**31, 2**32, 2**62, 2**63 - 1]
TYPES = ["u1", "<u2", "<u4", "<u8", "i1", "<i8", "<f8", "S32", "?", ">u4", "<U3", "V2"]


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


def mutate_content(store: Path, draw: random.Random, believed: bool) -> None:
    """Changes values, rows or types of one or two arrays, or the manifest, and seals it all again."""
    arrays = taken_apart(store)
    for _ in range(draw.randint(1, 2)):
        name = draw.choice(sorted(arrays))
        array, place = arrays[name], draw.randrange(len(arrays[name]) or 1)
        match draw.randrange(8) if len(array) else 7:
            case 0 | 1 if array.dtype.kind in "ui":
                array = array.astype(np.int64)
                array[place] = draw.choice([*NUMBERS, int(array[place]) + draw.choice([-1, 1])])
                unsigned = array.astype(np.min_scalar_type(max(0, int(array.max()))))
                arrays[name] = array.astype(np.int8) if name == "label" else unsigned
            case 2:
                other = draw.randrange(len(array))
                array[[place, other]] = array[[other, place]]
            case 3:
                array[place : place + 20] = array[place]
            case 4:
                arrays[name] = array[::-1].copy()
            case 5:
                other_name = draw.choice(sorted(arrays))
                arrays[name], arrays[other_name] = arrays[other_name], array
            case 6:
                raw = array.tobytes() + bytes(-array.nbytes % 32)
                arrays[name] = np.frombuffer(raw, draw.choice(TYPES[:7])).copy()
            case _:
                size = max(0, len(array) + draw.choice([-9, -1, 1, 9, -(10**6)]))
                arrays[name] = np.resize(array, size)
    put_together(store, arrays, believed)
    if draw.random() < 0.3:
        manifest = json.loads((store / "manifest.json").read_bytes())
        of = manifest["arrays"][draw.choice(sorted(arrays))]
        key = draw.choice(sorted(of))
        odd = [*NUMBERS, None, "x", 1.5, [], 10**30, *TYPES]
        of[key] = draw.choice(
            odd if draw.random() < 0.5 else [each[key] for each in manifest["arrays"].values()]
        )
        write_manifest(store, manifest)


def child(work: Path, first: int, last: int) -> None:
    """Prints the number of each mutant before it is tried, then whether it was refused or passed."""
    data, kept, said = work / "data", work / f"kept-{first}", list[str]()
    in_order = first // MUTANTS_PER_CHILD % 2 == 1  # every second child reads with child_order
    for store in data.glob(".forest-*"):
        shutil.rmtree(store)
    treelstm.load_pairs(data, child_order=in_order)
    shutil.copytree(store_in(data), kept)
    whole = taken_apart(kept)
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("treelstm").addHandler(handler)
    for number in range(first, last):
        print(number, end=" ", flush=True)
        draw, store = random.Random(number), store_in(data)
        shutil.rmtree(store)  # what is mapped must not be cut
        shutil.copytree(kept, store)
        if number % 3 == 0:
            path = draw.choice(sorted(store.iterdir()))
            path.write_bytes(mutated_bytes(path.read_bytes(), draw))
        else:
            mutate_content(store, draw, believed=number % 3 == 1)
        said.clear()
        pairs = treelstm.load_pairs(data, child_order=in_order)
        refused = any(str(store) in text and "Compiling the corpus again" in text for text in said)
        now = taken_apart(store)
        equal = now.keys() == whole.keys() and all(
            np.array_equal(now[name], whole[name], equal_nan=name == "similarity") for name in whole
        )
        assert equal or number % 3, "changed bytes were believed"
        assert equal or not refused, "it was refused, but not compiled again"
        result = "refused" if refused else "equal" if equal else "passed"
        try:
            train_one_step(pairs)
        except (ValueError, IndexError, UnicodeDecodeError) as error:
            if number % 3 != 1 or equal:
                raise
            result = f"failed-with-{type(error).__name__}"
        print(result, flush=True)


def train_one_step(pairs: Any) -> None:
    from treelstm.config import EncoderSettings
    from treelstm.model.encoder import TreeEncoder
    from treelstm.trees.vocabulary import Vocabulary

    sizes = {"embedding_dim": 4, "hidden_dim": 4, "output_dim": 2}
    settings = EncoderSettings(**sizes, child_order=pairs.child_order)
    encoder = TreeEncoder(Vocabulary.of(pairs.forest, pairs.trees), settings)
    batch = encoder.batch(pairs.forest, pairs.trees, encoder.vocabulary.ids(pairs.forest.symbols))
    encoder(batch).square().sum().backward()
    for tree in pairs.trees[:3].tolist():
        pairs.forest.graph(tree)
    assert all(pairs.where(number) for number in range(len(pairs)))
    assert len([*pairs.sentences]) == len(pairs.forest)


def compiled_corpora(count: int) -> dict[str, int]:
    """Tries that many mutants; how many were equal, refused, passed. Exits at the first that fails."""
    found = Counter[str]()
    with workplace() as work:
        treelstm.write_sample(Path(work, "data"), positives=12, negatives=24)
        for first in range(0, count, MUTANTS_PER_CHILD):
            last = min(first + MUTANTS_PER_CHILD, count)
            words = [sys.executable, __file__, "child", work, str(first), str(last)]
            done = subprocess.run(words, capture_output=True, text=True, check=False)
            lines = done.stdout.splitlines()
            if done.returncode:
                sys.exit(f"mutant {lines[-1]}: exit status {done.returncode}\n{done.stderr[-3000:]}")
            found.update(line.split()[1] for line in lines)
    return dict(found)


if __name__ == "__main__":
    if sys.argv[1] == "child":
        child(Path(sys.argv[2]), *map(int, sys.argv[3:]))
    else:
        print(f"compiled corpora: {compiled_corpora(int(sys.argv[1]))}")
