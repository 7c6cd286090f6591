"""Compiled arrays are the same in any number of processes; one that dies is an error, not a wait."""

from __future__ import annotations

import gzip
import json
import re
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from treelstm.config import EncoderSettings
from treelstm.data.compiling import compile_pairs
from treelstm.data.files import pair_files
from treelstm.data.problems import DataError
from treelstm.trees.builder import compile_forest

Arrays = dict[str, Any]


def compiled(directory: Path, into: Path, workers: int, **settings: Any) -> Arrays:
    into.mkdir()
    compile_pairs(pair_files(directory, None), EncoderSettings(**settings), into, workers)
    return {path.stem: np.load(path) for path in into.iterdir()}


def assert_equal(first: Arrays, second: Arrays) -> None:
    assert first.keys() == second.keys() and len(first) == 24
    for name, array in first.items():
        other = second[name]
        assert array.dtype == other.dtype, name
        assert np.array_equal(array, other, equal_nan=array.dtype.kind == "f"), name


def written(directory: Path, records: list[dict[str, Any]]) -> Path:
    """Pairs of all kinds in three shards, one of them gzipped; some texts are not UTF-8 alone."""
    directory.mkdir()
    for number in range(3):
        lines = "".join(
            json.dumps(each) + "\n" * (1 + k % 2) for k, each in enumerate(records[number::3])
        )
        path = directory / f"pairs-{number}.jsonl{'.gz' * (number == 1)}"
        path.write_bytes(gzip.compress(lines.encode()) if number == 1 else lines.encode())
    return directory


@pytest.fixture
def records(tiny: Path) -> list[dict[str, Any]]:
    """Records with trees that occur again, sentences that differ for one tree, and odd values."""
    found = []
    for path in (tiny / "training").glob("*_pairs.jsonl"):
        found += map(json.loads, path.read_text(encoding="utf-8").splitlines())
    for number, record in enumerate(found):
        record["ast1"]["ast"] |= {"n": [number % 3, 1e-7, 10**30, True, ["x", None, "\uffff"]]}
        if number % 5 == 0:
            record["ast2"] = found[number // 2]["ast1"]
        if number % 7 == 0:
            record["ast1"].pop("sentence")
        if number % 4:
            record.pop("similarity")
    return found


@pytest.mark.parametrize("child_order", [False, True])
def test_any_number_of_processes_gives_the_arrays_of_the_plain_reading(records, tmp_path, child_order):
    data = written(tmp_path / "data", records)
    own, two, three = (
        compiled(data, tmp_path / f"to{n}", n, child_order=child_order) for n in (1, 2, 3)
    )
    assert_equal(own, two)
    assert_equal(own, three)
    in_order = [record for number in range(3) for record in records[number::3]]
    sides = [record[side] for record in in_order for side in ("ast1", "ast2")]
    ignored = EncoderSettings().ignored_keys
    forest = compile_forest([side["ast"] for side in sides], ignored, child_order=child_order)
    for name in ("symbol_ptr", "symbol", "child_ptr", "child", "place", "height"):
        assert np.array_equal(own[name], getattr(forest, name)), name
    texts, cuts = own["sentences"].tobytes(), pairwise(own["sentences_ptr"].tolist())
    each = zip(own["tree_digest"], cuts, own["has_sentence"], strict=True)
    trees = [(digest, texts[slice(*cut)].decode() if there else None) for digest, cut, there in each]
    expected = [*zip(forest.tree_digest, (side.get("sentence") for side in sides), strict=True)]
    numbers = np.stack((own["first"], own["second"]), 1).ravel().tolist()
    assert [trees[number] for number in numbers] == expected
    assert trees == [*dict.fromkeys(expected)]  # numbered as they come
    for tree, number in enumerate(numbers):
        subtrees = slice(*own["tree_ptr"][number : number + 2])
        mine = slice(*forest.tree_ptr[tree : tree + 2])
        assert np.array_equal(own["tree_subtrees"][subtrees], forest.tree_subtrees[mine])
        assert own["tree_nodes"][number] == forest.tree_nodes[tree]
    assert own["label"].tolist() == [record["label"] for record in in_order]
    similar = [record.get("similarity", np.nan) for record in in_order]
    assert np.array_equal(own["similarity"], similar, equal_nan=True)
    assert own["file"].tolist() == [number for number in range(3) for _ in records[number::3]]
    lines = [1 + k + k // 2 for number in range(3) for k, _ in enumerate(records[number::3])]
    assert own["line"].tolist() == lines


def test_problems_in_any_range_are_told_by_file_and_line_and_counted(records, tmp_path):
    data = written(tmp_path / "data", records)
    path = data / "pairs-2.jsonl"
    lines = path.read_text().splitlines()
    full = [number for number, line in enumerate(lines) if line]
    lines[full[1]] = lines[full[1]].replace('"label"', '"lable"')
    lines[full[-1]] += "x"
    for number in (3, -4):
        record = json.loads(lines[full[number]])
        record["ast2"]["ast"] = "(S (NP a) (VP b))"
        lines[full[number]] = json.dumps(record)
    path.write_text("\n".join(lines))
    said = set()
    for workers in (1, 2, 3):
        into = tmp_path / f"to{workers}"
        with pytest.raises(DataError) as error:
            compiled(data, into, workers)
        said.add(str(error.value))
        assert not [*into.iterdir()]
    (text,) = said
    assert [*map(int, re.findall(r"pairs-2\.jsonl:(\d+): ", text))] == [
        *sorted((full[1] + 1, full[-1] + 1)),
        full[3] + 1,
    ]
    assert "(2 line(s) of this file)" in text


SCRIPT = """
import sys, threading, time
from pathlib import Path
import psutil
from treelstm.config import EncoderSettings
from treelstm.data.compiling import compile_pairs
from treelstm.data.files import pair_files
from treelstm.errors import UserError

def watch():
    while len(children := psutil.Process().children()) < 2:
        time.sleep(0.01)
    print(*(child.pid for child in children), flush=True)
    while sys.argv[3] == "a worker that reads" and not [*Path(sys.argv[2]).glob("rows-*/*")]:
        time.sleep(0.001)
    if "worker" in sys.argv[3]:
        children[1].kill()

threading.Thread(target=watch, daemon=True).start()
try:
    compile_pairs(pair_files(sys.argv[1], None), EncoderSettings(), Path(sys.argv[2]), 2)
except (UserError, KeyboardInterrupt) as error:
    print(type(error).__name__, error)
"""


@pytest.fixture
def large(tiny: Path, tmp_path: Path) -> Path:
    """40 MB of pairs."""
    lines = (tiny / "training" / "negative_pairs.jsonl").read_bytes()
    (tmp_path / "large").mkdir()
    (tmp_path / "large" / "pairs.jsonl").write_bytes(lines * (40_000_000 // len(lines)))
    return tmp_path / "large"


def started(data: Path, into: Path, killed: str) -> subprocess.Popen[str]:
    into.mkdir()
    words = [sys.executable, "-c", SCRIPT, str(data), str(into), killed]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def gone(pids: list[int]) -> bool:
    return not any(
        psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE for pid in pids
    )


def waited(pids: list[int]) -> bool:
    end = time.monotonic() + 10
    while not gone(pids) and time.monotonic() < end:
        time.sleep(0.05)
    return gone(pids)


@pytest.mark.parametrize("killed", ["a worker", "a worker that reads"])
def test_a_killed_worker_is_a_clear_error_and_nothing_stays_behind(large, tmp_path, killed):
    process = started(large, tmp_path / "to", killed)
    output = process.communicate(timeout=60)[0].splitlines()
    assert output[1].startswith("CompilingFailed") and "killed by SIGKILL" in output[1], output
    assert gone([*map(int, output[0].split())]) and not [*(tmp_path / "to").iterdir()]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_workers_end_with_the_process_that_started_them(large, tmp_path, number):
    with started(large, tmp_path / "to", "nobody") as process:
        assert process.stdout
        pids = [*map(int, process.stdout.readline().split())]
        time.sleep(0.2)
        process.send_signal(number)
        said = process.communicate(timeout=20)[0]
    assert waited(pids)
    assert said.strip() in ("", "KeyboardInterrupt"), said


def test_a_worker_imports_no_torch_and_a_small_corpus_starts_none(tiny, tmp_path, monkeypatch):
    code = "import sys, treelstm.data.ranges; print({'torch', 'scipy'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
    monkeypatch.setattr(subprocess, "Popen", None)
    compile_pairs(pair_files(tiny / "training", None), EncoderSettings(), tmp_path)
