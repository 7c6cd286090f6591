"""Which files a directory may hold: shards, pairs that name their trees; names that are nearly right."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from conftest import tiny_config

from treelstm import load_corpus, load_pairs, preflight, train, write_sample
from treelstm.config import EncoderSettings
from treelstm.data.compiling import compile_pairs
from treelstm.data.files import misnamed, pair_files
from treelstm.data.pairs import Pairs
from treelstm.data.problems import DataError
from treelstm.data.sample import SampleExists


@pytest.fixture
def data(tiny: Path, tmp_path: Path) -> Path:
    """A copy of the tiny corpus that a test may change."""
    return Path(shutil.copytree(tiny, tmp_path / "data", ignore=shutil.ignore_patterns(".forest*")))


def sharded(directory: Path) -> None:
    """Each file in four, the first without a suffix, every second one gzipped."""
    for path in directory.glob("*_pairs.jsonl"):
        lines = path.read_bytes().splitlines(keepends=True)
        path.unlink()
        for number, suffix in enumerate(("", "-10", "-2", "-a.b")):
            part = b"".join(lines[number * 6 : number * 6 + 6 if number < 3 else None])
            name, packed = f"{path.stem}{suffix}.jsonl", number % 2
            (directory / (name + ".gz" * packed)).write_bytes(gzip.compress(part) if packed else part)


def test_shards_are_one_corpus_in_the_order_of_their_names(data, tiny):
    sharded(data / "training")
    found, expected = load_pairs(data / "training"), load_pairs(tiny / "training")
    assert found.content_digest == expected.content_digest
    assert [path.name for path in found.paths[:4]] == [
        "positive_pairs.jsonl",
        "positive_pairs-10.jsonl.gz",
        "positive_pairs-2.jsonl",
        "positive_pairs-a.b.jsonl.gz",
    ]
    assert found.where(7) == f"{data}/training/positive_pairs-10.jsonl.gz:2"


def test_a_shard_has_the_label_of_its_name_and_holds_pairs(data):
    sharded(data / "training")
    wrong, empty = (data / "training" / f"negative_pairs{end}.jsonl" for end in ("-2", "-empty"))
    wrong.write_bytes(wrong.read_bytes().replace(b'"label": 0', b'"label": 1', 1))
    empty.write_bytes(b"\n")
    with pytest.raises(DataError) as error:
        load_pairs(data / "training")
    first, second = str(error.value).splitlines()
    assert first.startswith(f"{wrong}:1: label is 1, but the file's name says 0")
    assert second.startswith(f"{empty}: holds no pairs")


@pytest.mark.parametrize("name", ["positive_pairs-2.jsonl.gz", "positive_pairs-2.tsv"])
def test_one_shard_in_two_files_is_refused(data, name):
    sharded(data / "training")
    (data / "training" / name).write_bytes(b"")
    with pytest.raises(DataError, match=rf"positive_pairs-2\.jsonl: {name} is there too\. Keep one"):
        pair_files(data / "training", None)


NAMES = {
    "positive_pairs_1.jsonl": "positive_pairs-1.jsonl",
    "positive-pairs.jsonl": "positive_pairs.jsonl",
    "Negative_Pairs.jsonl.gz": "negative_pairs.jsonl.gz",
    "negatives.json": "negative_pairs.jsonl",
    "pairs2.jsonl": "pairs-2.jsonl",
    "pair.tsv": "pairs.tsv",
    "trees.json": "trees.jsonl",
    "trees_0001.ndjson.gz": "trees-0001.jsonl.gz",
    "trees-a.tsv": "trees-a.jsonl",
}


def test_names_that_are_nearly_right_are_told_with_the_right_ones(tmp_path):
    for name in (
        *NAMES,
        "metadata.json",
        "pairs.txt",
        "treebank.jsonl",
        "pairs-1.jsonl",
        "repairs.jsonl",
    ):
        (tmp_path / name).touch()
    assert {path.name: right for path, right in misnamed(tmp_path)} == NAMES


def test_a_name_that_is_nearly_right_is_said_where_a_file_is_missing_and_by_preflight(data, tmp_path):
    directory = data / "training"
    (directory / "positive_pairs.jsonl").rename(directory / "positive_pairs_1.jsonl")
    with pytest.raises(DataError, match=r"If positive_pairs_1\.jsonl is meant, name it positive_p"):
        load_pairs(directory)
    shutil.copy(directory / "positive_pairs_1.jsonl", directory / "positive_pairs.jsonl")
    report = preflight(tiny_config(data, tmp_path / "run"), quick=True)
    said = [f"{each.found} {each.remedy}" for each in report.findings["Data files"]]
    assert any("positive_pairs_1.jsonl is not read" in text and "pairs-1.jsonl" in text for text in said)


# --- pairs that name their trees ---------------------------------------------------------------


def by_reference(directory: Path, table: bool, stem: str = "pairs") -> tuple[list[Any], list[Any]]:
    """Writes the pairs of a directory anew: trees in two shards, pairs by their ids; returns both."""
    pairs, trees, known = list[Any](), list[Any](), dict[str, Any]()
    for path in sorted(directory.glob("*_pairs.jsonl"), reverse=True):
        for line in path.read_text(encoding="utf-8").splitlines():
            record = json.loads(line)
            for side in ("ast1", "ast2"):
                part = {name: record[side][name] for name in ("sentence", "ast")}
                text = json.dumps(part)
                if text not in known:  # some ids are texts, some numbers
                    known[text] = len(known) if len(known) % 2 else f"t{len(known)}"
                    trees.append({"id": known[text], "label": "x", **part})
                record[side] = known[text]
            names = {"first": record["ast1"], "second": record["ast2"]}
            pairs.append(names | {name: record[name] for name in ("label", "similarity")})
        path.unlink()
    for number, name in enumerate(("trees.jsonl", "trees-more.jsonl.gz")):
        text = "".join(
            json.dumps(each) + "\n" for each in trees[number * 40 : 40 if not number else None]
        )
        (directory / name).write_bytes(gzip.compress(text.encode()) if number else text.encode())
    write_pairs(directory / f"{stem}.{'tsv' if table else 'jsonl'}", pairs)
    return trees, pairs


def write_pairs(path: Path, pairs: list[Any]) -> None:
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(each) + "\n" for each in pairs))
        return
    columns = ["similarity", "second", "first", "label"]
    rows = [[each.get(name) for name in columns] for each in pairs]
    text = "".join(
        "\t".join("" if v is None else str(v) for v in row) + "\r\n" for row in [columns, *rows]
    )
    path.write_text(text)


@pytest.mark.parametrize("table", [False, True])
def test_pairs_that_name_their_trees_are_those_with_their_trees(data, tiny, table):
    trees, _ = by_reference(data / "training", table)
    found, expected = load_pairs(data / "training"), load_pairs(tiny / "training")
    assert found.content_digest == expected.content_digest
    assert found.where(3) == f"{data}/training/pairs.{'tsv:5' if table else 'jsonl:4'}"
    assert [*found.sentences] == [each["sentence"] for each in trees] and len(found.forest) == len(trees)
    again = load_pairs(data / "training")
    assert again.content_digest == expected.content_digest and again.paths == found.paths


@pytest.mark.parametrize("table", [False, True])
def test_named_trees_are_the_same_in_several_processes(data, tmp_path, table):
    by_reference(data / "training", table)
    written = []
    for workers in (1, 2, 3):
        into = tmp_path / f"to{workers}"
        into.mkdir()
        compile_pairs(pair_files(data / "training", None), EncoderSettings(), into, workers)
        written.append({path.name: path.read_bytes() for path in into.iterdir()})
    assert written[0] == written[1] == written[2]


def test_a_run_trains_on_pairs_that_name_trees_and_preflight_counts_those_in_no_pair(data, tmp_path):
    for part in ("training", "validation"):
        trees, pairs = by_reference(data / part, part == "training")
    write_pairs(data / "validation" / "pairs.jsonl", pairs[:20] + pairs[-20:])
    config = tiny_config(data, tmp_path / "run", epochs=1)
    assert train(config).finished
    text = str(preflight(config))
    named = {str(each[side]) for each in pairs[:20] + pairs[-20:] for side in ("first", "second")}
    assert f"validation: {len(trees) - len(named)} of {len(trees)} trees are in no pair" in text
    assert f"training: 0 of {len(load_corpus(config).training.forest)} trees are in no pair" in text


def test_files_that_label_their_pairs_may_name_trees_too(data, tiny):
    _, pairs = by_reference(data / "training", table=False)
    (data / "training" / "pairs.jsonl").unlink()
    for label, name in enumerate(("negative_pairs.tsv", "positive_pairs-1.jsonl")):
        write_pairs(data / "training" / name, [each for each in pairs if each["label"] == label])
    assert load_pairs(data / "training").content_digest == load_pairs(tiny / "training").content_digest
    write_pairs(data / "training" / "negative_pairs.tsv", pairs)
    with pytest.raises(DataError, match=r"negative_pairs\.tsv:2: label is 1, but the file's name"):
        load_pairs(data / "training")


def put(place: int, **values: Any) -> Any:
    return lambda rows: rows[place].update(values)


def without(place: int, name: str) -> Any:
    return lambda rows: rows[place].pop(name)


PAIR_FAULTS = {
    "unknown id": (put(4, first="nowhere"), 'first is "nowhere", but no tree has that id', True),
    "no id": (without(4, "second"), "second is missing", True),
    "an empty id": (put(4, second=""), "second is missing", True),
    "a list as id": (put(4, first=["t0"]), "first is a list, expected a text or a whole number", False),
    "a fraction as id": (put(4, first=1.0), r"first is 1\.0, expected a text or a whole number", False),
    "true as id": (put(4, first=True), "first is true, expected a text", False),
    "another label": (put(4, label=2), 'label is "?2"?, but 1 or 0 was expected', True),
    "similarity a text": (put(4, similarity="high"), "similarity is not a number", True),
    "similarity NaN": (put(4, similarity="nan"), "similarity is not a number", True),
    "similarity too large": (
        put(4, similarity="1e999"),
        "similarity is (not a|too large a) number",
        True,
    ),
    "neither": (put(4, similarity=None, label=None), "label and similarity are missing", True),
    "with its trees": (put(4, ast1={"ast": {"k": "v"}}), "ast1 or ast2 is there, but trees", False),
}


@pytest.mark.parametrize("table", [False, True])
@pytest.mark.parametrize("fault", PAIR_FAULTS)
def test_a_faulty_name_of_a_tree_is_told_by_file_and_line(data, fault, table):
    change, message, in_tables = PAIR_FAULTS[fault]
    if table and not in_tables:
        pytest.skip("a table holds texts only")
    _, pairs = by_reference(data / "training", table)
    change(pairs)
    path = data / "training" / f"pairs.{'tsv' if table else 'jsonl'}"
    write_pairs(path, pairs)
    with pytest.raises(DataError, match=rf"{path.name}:{5 + table}: {message}.*\. [A-Z].*\.$"):
        load_pairs(data / "training")


TREE_FAULTS = {
    "no id": (without(4, "id"), "4: id is missing"),
    "id null": (put(4, id=None), "4: id is missing"),
    "a list as id": (put(4, id=[3]), "4: id is a list, expected a text or a whole number"),
    "no ast": (without(4, "ast"), "4: ast is missing"),
    "an empty ast": (put(4, ast={}), "4: ast is an empty tree"),
    "a text as ast": (put(4, ast="(S (NP a))"), "4: ast is a string, .*looks like a tree in brackets"),
    "a number as sentence": (put(4, sentence=3), "4: sentence is not a string"),
    "an id twice": (put(4, id="1"), r"4: the id 1 is that of .*trees\.jsonl:2, too"),
    "an id twice, far away": (put(50, id="t6"), r"11: the id t6 is that of .*trees\.jsonl:7, too"),
}


@pytest.mark.parametrize("fault", TREE_FAULTS)
def test_a_faulty_tree_is_told_by_file_and_line(data, fault):
    change, message = TREE_FAULTS[fault]
    trees, _ = by_reference(data / "training", table=True)
    change(trees)
    near = "far" not in fault
    path = data / "training" / ("trees.jsonl" if near else "trees-more.jsonl.gz")
    text = "".join(json.dumps(each) + "\n" for each in (trees[:40] if near else trees[40:])).encode()
    path.write_bytes(text if near else gzip.compress(text))
    number, _, rest = message.partition(":")
    where = f"{int(number) + near}:{rest}"
    with pytest.raises(DataError, match=rf"{path.name}:{where}.*\. [A-Z].*\.$"):
        load_pairs(data / "training")


TABLE_FAULTS = {
    "no header": ("t0\t1\t1\n", r"1: the header is t0, 1, 1, expected first, second, and label"),
    "a column is missing": ("first\tlabel\nt0\t1\n", "1: the header is first, label, expected"),
    "no label, no similarity": ("first\tsecond\nt0\t1\n", "1: the header is first, second, expected"),
    "a column twice": ("first\tsecond\tlabel\tlabel\nt0\t1\t1\t1\n", "1: the header is"),
    "too few fields": ("first\tsecond\tlabel\n\nt0\t1\n", "3: 2 fields, expected 3"),
    "too many fields": ("first\tsecond\tlabel\nt0\t1\t1\t1\n", "2: 4 fields, expected 3"),
    "spaces for tabs": ("first second label\nt0 1 1\n", "1: the header is first second label"),
    "a label of 1.0": ("first\tsecond\tlabel\nt0\t1\t1.0\n", r'2: label is "1\.0", but'),
    "no UTF-8": (b"first\tsecond\tlabel\nt0\t\xff\t1\n", "2: not UTF-8 text"),
    "no pairs": ("first\tsecond\tlabel\n", " holds no pairs"),
    "nothing": ("", " holds no pairs"),
}


@pytest.mark.parametrize("fault", TABLE_FAULTS)
def test_a_faulty_table_is_told_by_file_and_line(data, fault):
    text, message = TABLE_FAULTS[fault]
    by_reference(data / "training", table=True)
    raw = text if isinstance(text, bytes) else text.encode()
    (data / "training" / "pairs.tsv").write_bytes(raw)
    with pytest.raises(DataError, match=rf"pairs\.tsv:{message}"):
        load_pairs(data / "training")


def test_names_without_trees_and_trees_without_names_are_told_once(data):
    directory = data / "training"
    by_reference(directory, table=False)
    for path in directory.glob("trees*"):
        path.unlink()
    with pytest.raises(
        DataError, match=r"pairs\.jsonl:1: first and second name trees.*\(72 line\(s\)"
    ) as error:
        load_pairs(directory)
    assert str(error.value).count("\n") == 0
    (directory / "pairs.jsonl").rename(directory / "pairs.tsv")
    with pytest.raises(DataError, match=r"pairs\.tsv: there is no trees\.jsonl.*Add trees\.jsonl"):
        load_pairs(directory)
    (directory / "pairs.tsv").rename(directory / "trees.jsonl")
    with pytest.raises(DataError, match=r"trees\.jsonl holds trees only; python -m treelstm pairs"):
        load_pairs(directory)


def test_pairs_with_their_trees_beside_trees_are_refused_once_a_file(data):
    (data / "training" / "trees.jsonl").write_text('{"id": 1, "ast": {"k": "v"}}\n')
    with pytest.raises(DataError) as error:
        load_pairs(data / "training")
    lines = str(error.value).splitlines()
    assert len(lines) == 2 and all("trees.jsonl is beside this file" in line for line in lines), lines


def test_empty_trees_are_told_and_ids_are_equal_by_their_text(tmp_path):
    (tmp_path / "trees.jsonl").write_text("\n")
    (tmp_path / "pairs.tsv").write_text("first\tsecond\tsimilarity\n7\t8\t1\n8\t7\t0.5\n")
    with pytest.raises(DataError, match=r"trees\.jsonl: holds no trees\. Add trees"):
        load_pairs(tmp_path, objective=None)
    (tmp_path / "trees.jsonl").write_text('{"id": 7, "ast": {"k": "v"}}\n{"ast": {"k": "w"}, "id": "8"}')
    pairs: Pairs = load_pairs(tmp_path, objective=None)
    assert pairs.first.tolist() == [0, 1] and pairs.similarity.tolist() == [1, 0.5]
    assert pairs.label.tolist() == [-1, -1]


@pytest.mark.parametrize("name", ["positive_pairs-1.jsonl.gz", "pairs.tsv", "pairs.jsonl"])
def test_no_sample_is_written_beside_pairs(tmp_path, name):
    (tmp_path / name).touch()
    with pytest.raises(SampleExists, match=f"{name} exists already"):
        write_sample(tmp_path)
