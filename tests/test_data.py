from __future__ import annotations

import errno
import gc
import gzip
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import tiny_config
from corpora import seal, store_in

from treelstm import load_corpus, load_pairs, preflight, train
from treelstm.config import Config
from treelstm.data.files import pair_files
from treelstm.data.problems import DataError
from treelstm.errors import UserError


@pytest.fixture
def data(tiny: Path, tmp_path: Path) -> Path:
    """A copy of the tiny corpus that a test may damage."""
    return Path(shutil.copytree(tiny, tmp_path / "data", ignore=shutil.ignore_patterns(".forest-*")))


def edit(path: Path, line: int, change: Any) -> None:
    """Applies `change` to the bytes of one line, counted from 1."""
    lines = path.read_bytes().splitlines()
    lines[line - 1] = change(lines[line - 1])
    path.write_bytes(b"\n".join(lines) + b"\n")


def edit_record(path: Path, line: int, change: Any) -> None:
    def changed(raw: bytes) -> bytes:
        record = json.loads(raw)
        change(record)
        return json.dumps(record).encode()

    edit(path, line, changed)


def without(*path: str) -> Any:
    def change(record: Any) -> None:
        for key in path[:-1]:
            record = record[key]
        del record[path[-1]]

    return change


def with_value(value: Any, *path: str) -> Any:
    def change(record: Any) -> None:
        for key in path[:-1]:
            record = record[key]
        record[path[-1]] = value

    return change


RECORD_FAULTS = {
    "ast1 missing": (without("ast1"), "ast1 is missing"),
    "ast2 missing": (without("ast2"), "ast2 is missing"),
    "ast missing": (without("ast2", "ast"), r"ast2\.ast is missing"),
    "ast1 a list": (with_value([], "ast1"), "ast1 is not a JSON object"),
    "ast null": (with_value(None, "ast1", "ast"), r"ast1\.ast is null"),
    "ast string": (with_value("hundo", "ast1", "ast"), r"ast1\.ast is a string"),
    "ast empty list": (with_value([], "ast2", "ast"), r"ast2\.ast is an empty list"),
    "ast empty": (with_value({}, "ast2", "ast"), r"ast2\.ast is an empty tree"),
    "label contradicts": (with_value(0, "label"), "label is 0, but the file's name says 1"),
    "label missing": (without("label"), "label is missing"),
    "label boolean": (with_value(True, "label"), "label is true"),
    "similarity text": (with_value("high", "similarity"), "similarity is not a number"),
    "similarity huge": (with_value(10**400, "similarity"), "similarity is too large a number"),
    "similarity huge below 0": (with_value(-(10**400), "similarity"), "similarity is too large a num"),
    "label huge": (with_value(10**400, "label"), "label is 10{39}, but the file's name says 1"),
    "sentence number": (with_value(3, "ast1", "sentence"), r"ast1\.sentence is not a string"),
}


@pytest.mark.parametrize("fault", RECORD_FAULTS)
def test_a_faulty_record_is_named_by_file_and_line_and_nothing_is_written(data, tmp_path, fault):
    change, message = RECORD_FAULTS[fault]
    path = data / "training" / "positive_pairs.jsonl"
    edit_record(path, 3, change)
    with pytest.raises(DataError, match=rf"positive_pairs\.jsonl:3: {message}.*\. [A-Z].*\.$"):
        train(tiny_config(data, tmp_path / "run"))
    assert not (tmp_path / "run").exists()
    assert not [*(data / "training").glob(".forest*")]


def put(what: bytes) -> Any:
    """Begins the record of a line with one more key and its value."""
    return lambda raw: raw.replace(b"{", b"{" + what + b", ", 1)


LINE_FAULTS = {
    "broken JSON": (lambda raw: raw[:40], r"not JSON \("),
    "not UTF-8": (lambda raw: b"\xff" + raw, r"not UTF-8 \(byte 1 of the line is 0xff\)"),
    "a list": (lambda raw: b"[1]", "not a JSON object"),
    "a deep label": (
        lambda raw: raw.replace(b'"label": 0', b'"label": ' + b"[" * 9999 + b"]" * 9999),
        "label is a list, but the file's name says 0",
    ),
    "deep and cut": (
        lambda raw: raw.strip()[:-1] + b', "x": ' + b"[" * 50_000,
        r"not JSON \(Expecting value",
    ),
    "deep, with a key twice": (
        put(b'"x": ' + b'{"a": ' * 50_000 + b'{"b": 1, "\\u0062": 2}' + b"}" * 50_000),
        'the key "b" occurs twice in one object',
    ),
    "deep, with NaN": (put(b'"x": ' + b"[" * 50_000 + b"NaN" + b"]" * 50_000), "holds NaN, which"),
    "a key twice in two spellings": (put(b'"x": 1, "\\u0078": 1'), 'the key "x" occurs twice'),
    "a key twice": (put(b'"label": 0, "label": 0'), 'the key "label" occurs twice in one object'),
    "a key twice in a tree": (
        lambda raw: raw.replace(b'"ast": {', b'"ast": {"kid": {"a": 1}, "kid": {"a": 2}, ', 1),
        'the key "kid" occurs twice in one object',
    ),
    "half a character": (put(rb'"x": "cut \ud83d"'), r"holds \\ud83d, half of a character"),
    "its other half": (put(rb'"x": ["\uDE00\ud83d"]'), r"holds \\ude00, half of a character"),
    "half a character in a key": (put(rb'"\udfff": 1'), r"holds \\udfff, half of a character"),
    "half a character as it is": (
        put(b'"x": "\xed\xa0\xbd"'),
        r"not UTF-8 \(byte \d+ of the line is 0xed",
    ),
    "NaN": (put(b'"x": NaN'), "holds NaN, which is not JSON"),
    "infinite": (put(b'"similarity": -Infinity'), "holds -Infinity, which is not JSON"),
    "too large": (put(b'"similarity": 1e999'), "holds the number 1e999, which is too large"),
    "too large a label": (put(b'"label": -1e400'), "holds the number -1e400, which is too large"),
    "too long a number": (put(b'"x": 1' + b"0" * 5000), "holds a number of more than 4,300 digits"),
}


@pytest.mark.parametrize("fault", LINE_FAULTS)
def test_an_unreadable_line_is_named_by_file_and_line(data, fault):
    change, message = LINE_FAULTS[fault]
    edit(data / "training" / "negative_pairs.jsonl", 7, change)
    with pytest.raises(DataError, match=rf"negative_pairs\.jsonl:7: {message}.*\. [A-Z].*\.$"):
        load_pairs(data / "training")


def test_all_problems_are_reported_together_the_first_20_and_the_count(data):
    for line in range(1, 31):
        edit_record(data / "training" / "negative_pairs.jsonl", line, without("ast1"))
    edit_record(data / "training" / "positive_pairs.jsonl", 5, with_value(None, "ast1", "ast"))
    with pytest.raises(DataError) as caught:
        load_pairs(data / "training")
    lines = str(caught.value).splitlines()
    assert "positive_pairs.jsonl:5: ast1.ast is null" in lines[0]
    assert "negative_pairs.jsonl:19: ast1 is missing" in lines[19]
    assert lines[20] == "... and 11 more"
    assert caught.value.problems.count == 31


@pytest.mark.parametrize("name", ["positive_pairs", "negative_pairs"])
def test_a_missing_or_empty_class_is_named(data, name):
    path = data / "training" / f"{name}.jsonl"
    path.write_bytes(b"\n")
    with pytest.raises(DataError, match=rf"{name}\.jsonl: holds no pairs"):
        load_pairs(data / "training")
    path.unlink()
    with pytest.raises(DataError, match=rf"{name}\.jsonl: no such file"):
        load_pairs(data / "training")


def test_a_missing_directory_says_how_to_get_a_sample(tmp_path):
    with pytest.raises(UserError, match=r"nowhere: no such directory\. .*treelstm sample"):
        load_pairs(tmp_path / "nowhere")


def test_a_directory_may_be_a_string(tiny, monkeypatch):
    monkeypatch.chdir(tiny)
    assert same(load_pairs("training"), load_pairs(tiny / "training"))
    assert pair_files("training", "contrastive")[0] == Path("training", "positive_pairs.jsonl")
    with pytest.raises(DataError, match="nowhere: no such directory"):
        pair_files("nowhere", "contrastive")


def test_plain_and_gzipped_files_of_one_class_are_ambiguous(data):
    (data / "training" / "positive_pairs.jsonl.gz").write_bytes(b"")
    with pytest.raises(DataError, match=r"positive_pairs\.jsonl\.gz is there too"):
        load_pairs(data / "training")


def zipped(path: Path) -> Path:
    target = path.with_suffix(".jsonl.gz")
    target.write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()
    return target


def test_gzipped_pairs_equal_plain_ones(tiny, data):
    for name in ("positive_pairs", "negative_pairs"):
        zipped(data / "training" / f"{name}.jsonl")
    plain, packed = load_pairs(tiny / "training"), load_pairs(data / "training")
    assert np.array_equal(plain.forest.tree_digest, packed.forest.tree_digest)
    assert np.array_equal(plain.label, packed.label) and plain.sentences == packed.sentences


def test_a_truncated_gzip_is_named(data):
    path = zipped(data / "training" / "positive_pairs.jsonl")
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(DataError, match=r"positive_pairs\.jsonl\.gz:\d+: cannot be read after line"):
        load_pairs(data / "training")


def test_a_plain_file_named_gz_is_named(data):
    path = zipped(data / "training" / "positive_pairs.jsonl")
    path.write_bytes(b"plain text\n")
    with pytest.raises(DataError, match="cannot be read after line 0"):
        load_pairs(data / "training")


@pytest.mark.parametrize(
    "encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"]
)
@pytest.mark.parametrize("packed", [False, True])
def test_a_file_in_utf_16_or_32_is_one_problem_that_says_how_to_save_it(data, encoding, packed):
    path = data / "training" / "positive_pairs.jsonl"
    path.write_bytes(path.read_text(encoding="utf-8").encode(encoding))
    if packed:
        path = zipped(path)
    problem = rf"{path.name}:1: saved as {encoding[:6].upper()}, expected UTF-8\. Save it as UTF-8\.$"
    with pytest.raises(DataError, match=problem):
        load_pairs(data / "training")


def test_byte_order_marks_pairs_of_escapes_and_long_numbers_are_read(tiny, data):
    mark = b"\xef\xbb\xbf"
    for name in ("positive_pairs", "negative_pairs"):
        path = data / "training" / f"{name}.jsonl"
        raw = path.read_bytes()
        path.write_bytes(mark + raw + mark + b"\n" + mark)  # also where two files were joined
    assert same(load_pairs(tiny / "training"), load_pairs(data / "training"))
    edit(
        path,
        1,
        lambda raw: raw.removeprefix(mark).replace(b'"ast": {', b'"ast": {"long": %s, ' % LONG, 1),
    )
    edit(path, 2, lambda raw: raw.replace(b'"sentence": "', rb'"sentence": "\ud83d\uDE00', 1))
    pairs = load_pairs(data / "training")
    assert any("\N{GRINNING FACE}" in sentence for sentence in pairs.sentences)
    assert {f"long={LONG[:4000].decode()}", f"long={'9' * 10_000}", "long=1e-400"} & set(
        pairs.forest.symbols
    )


LONG = b'[%s, "%s", 0.%s1, 1e-400]' % (b"7" * 4000, b"9" * 10_000, b"0" * 5000)


OTHERS = {
    "a named pipe": os.mkfifo,
    "a directory": Path.mkdir,
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "a socket": lambda path: socket.socket(socket.AF_UNIX).bind(path.name),
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("ending", [".jsonl", ".jsonl.gz"])
@pytest.mark.parametrize("kind", OTHERS)
def test_what_is_not_a_file_is_refused_and_never_waited_for(data, kind, ending, monkeypatch):
    (data / "training" / "positive_pairs.jsonl").unlink()
    path = data / "training" / f"positive_pairs{ending}"
    monkeypatch.chdir(path.parent)  # the name of a socket must be short
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        OTHERS[kind](path)
        gc.collect()
    with pytest.raises(DataError, match=rf"positive_pairs{ending}: cannot be read \(it is {kind}, exp"):
        load_pairs(data / "training")
    report = preflight(Config(data_dir=str(data / "training"), output_dir=str(data / "run")), quick=True)
    assert any(f"it is {kind}" in finding.found for finding in report.findings["Data files"])


def test_a_line_of_3_gb_in_a_small_gzip_takes_little_memory(data):
    path = data / "training" / "positive_pairs.jsonl.gz"
    path.with_suffix("").unlink()
    path.write_bytes(gzip.compress(b"[" + b" " * 2**20) * 3000)  # 3 MB
    code = (
        "import sys, treelstm\n"
        "import treelstm.data.load\n"
        "def most(): return int(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])\n"
        "before = most()  # torch with CUDA takes more\n"
        "try: treelstm.load_pairs(sys.argv[1])\n"
        "except treelstm.data.problems.DataError as error: print(error)\n"
        "print(most() - before)"
    )
    words = [sys.executable, "-c", code, str(data / "training")]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    message, kilobytes = done.stdout.splitlines()
    assert re.search(
        r"positive_pairs\.jsonl\.gz:1: longer than 67,108,864 bytes.*\. Write one pair", message
    )
    assert int(kilobytes) < 700_000


@pytest.mark.parametrize("call", ["stat", "open"])
@pytest.mark.parametrize("number", [errno.EIO, errno.EMFILE, errno.EACCES, errno.ESTALE])
def test_a_file_that_cannot_be_looked_at_or_opened_is_not_a_missing_one(data, monkeypatch, call, number):
    real = getattr(os, call)

    def refuse(path: Any, *args: Any, **options: Any) -> Any:
        if str(path).endswith("positive_pairs.jsonl"):
            raise OSError(number, os.strerror(number), path)
        return real(path, *args, **options)

    monkeypatch.setattr(os, call, refuse)
    problem = rf"positive_pairs\.jsonl: cannot be read \({os.strerror(number)}\)\. [A-Z]"
    with pytest.raises(DataError, match=problem):
        load_pairs(data / "training")


CHANGED_WHILE_READ = """
import itertools, os, shutil, sys
from pathlib import Path
import treelstm
path, other = map(Path, sys.argv[1:3])
kept = path.parent.with_name("kept")
before, raw = path.read_bytes(), other.read_bytes()
left = 0  # opens of the file before it is changed

def change(event, arguments):
    global left
    if event != "open" or str(arguments[0]) != str(path):
        return
    left -= 1
    if left == 0 and how == "replaced":
        path.with_name("new").write_bytes(raw)
        path.with_name("new").replace(path)
    elif left == 0:
        with path.open("rb+" if how == "written over" else "ab") as file:
            file.write(raw)

sys.addaudithook(change)
for how, at in itertools.product(sys.argv[3:], [1, 2, 3]):
    path.write_bytes(before)
    for store in path.parent.glob(".forest-*"):
        shutil.rmtree(store)
    left = at
    treelstm.load_pairs(path.parent)
    left = 0
    (store,) = path.parent.glob(".forest-*")
    shutil.rmtree(kept, ignore_errors=True)
    shutil.copytree(store, kept)
    for content in (path.read_bytes(), before):
        shutil.rmtree(store, ignore_errors=True)
        shutil.copytree(kept, store)
        path.write_bytes(content)
        cached = treelstm.load_pairs(path.parent)
        shutil.rmtree(store)
        assert treelstm.load_pairs(path.parent).sentences == cached.sentences, (how, at)
"""


@pytest.mark.parametrize("packed", [False, True])
def test_a_file_that_changes_between_reads_is_never_cached_under_the_wrong_digest(data, packed):
    path, other = (data / part / "positive_pairs.jsonl" for part in ("training", "validation"))
    if packed:
        path, other = zipped(path), zipped(other)
    ways = ["replaced", "appended"] if packed else ["replaced", "appended", "written over"]
    words = [sys.executable, "-c", CHANGED_WHILE_READ, str(path), str(other), *ways]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=200)
    assert (done.returncode, done.stderr) == (0, "")


def same(first: Any, second: Any) -> bool:
    return all(
        np.array_equal(getattr(first.forest, name), getattr(second.forest, name))
        for name in ("symbol", "child", "root", "tree_subtrees", "tree_digest")
    ) and np.array_equal(first.label, second.label)


def mark(store: Path) -> None:
    """Changes a sentence of a compiled corpus, which shows whether pairs come from there."""
    sentences = np.load(store / "sentences.npy")
    sentences[np.flatnonzero(sentences == ord(" "))[0]] = ord("_")
    (store / "sentences.npy").unlink()  # it is mapped
    np.save(store / "sentences.npy", sentences)
    seal(store)


def test_the_cache_equals_the_compiled_pairs_and_is_read_while_nothing_changes(data):
    compiled = load_pairs(data / "training", ("plena_vorto",))
    mark(store_in(data / "training"))
    cached = load_pairs(data / "training", ("plena_vorto",))
    assert cached.sentences == (compiled.sentences[0].replace(" ", "_", 1), *compiled.sentences[1:])
    assert same(compiled, cached) and cached.forest.symbols == compiled.forest.symbols


def test_the_cache_is_rebuilt_when_files_or_settings_change(data):
    before = load_pairs(data / "training", ("plena_vorto",))
    fewer = load_pairs(data / "training", ("plena_vorto", "nombro"))
    assert len(fewer.forest.symbols) < len(before.forest.symbols)
    edit_record(
        data / "training" / "positive_pairs.jsonl", 1, with_value({"nova": "vorto"}, "ast1", "ast")
    )
    assert "nova=vorto" in load_pairs(data / "training", ("plena_vorto",)).forest.symbols


@pytest.mark.parametrize("damage", [lambda raw: b"", lambda raw: raw[:100], lambda raw: raw[:-50]])
def test_a_damaged_cache_is_reported_and_built_again(data, caplog, damage):
    whole = load_pairs(data / "training")
    cache = store_in(data / "training") / "child.npy"
    raw = cache.read_bytes()
    cache.unlink()  # it is mapped
    cache.write_bytes(damage(raw))
    assert same(whole, load_pairs(data / "training"))
    assert f"{cache.parent} is damaged" in caplog.text
    assert same(whole, load_pairs(data / "training"))


def test_the_pairs_of_a_read_only_directory_are_cached_elsewhere(data, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    directory = data / "training"
    directory.chmod(0o555)
    whole = load_pairs(directory)
    assert not [*directory.glob(".forest*")]
    mark(next(tmp_path.glob("treelstm/*/.forest-*")))
    cached = load_pairs(directory)
    assert same(whole, cached) and "_" in cached.sentences[0]


def test_validation_dir_gives_unseen_pairs_and_says_the_overlap(tiny, tmp_path):
    assert load_corpus(tiny_config(tiny, tmp_path)).overlap == 0.0
    twice = Config(data_dir=str(tiny / "training"), validation_dir=str(tiny / "training"))
    assert load_corpus(twice).overlap == 1.0


def test_the_split_is_stratified_and_depends_on_the_seed_alone(tiny):
    def split(seed: int) -> tuple[list[int], list[int]]:
        corpus = load_corpus(
            Config(data_dir=str(tiny / "training"), validation_fraction=0.25, seed=seed)
        )
        assert corpus.validation.label.sum() == 6 and len(corpus.validation) == 18
        return corpus.training.first.tolist(), corpus.validation.first.tolist()

    training, validation = split(1)
    assert not set(training) & set(validation) and len(training) == 54
    assert split(1) == (training, validation) != split(2)


def test_too_few_pairs_to_split_are_refused(data):
    path = data / "training" / "positive_pairs.jsonl"
    path.write_bytes(path.read_bytes().splitlines()[0])
    with pytest.raises(DataError, match=r"holds 1 pair\(s\), too few to hold out"):
        load_corpus(Config(data_dir=str(data / "training")))


def test_vocabulary_comes_from_training_trees_only(data, tmp_path):
    edit_record(
        data / "validation" / "positive_pairs.jsonl", 1, with_value({"nova": "vorto"}, "ast1", "ast")
    )
    corpus = load_corpus(tiny_config(data, tmp_path))
    assert not any(symbol.startswith("nova") for symbol in corpus.vocabulary.symbols)
    assert corpus.unknown_share > 0


def test_the_unknown_share_counts_the_symbols_of_each_distinct_tree(data, tmp_path):
    corpus = load_corpus(tiny_config(data, tmp_path))
    forest, known = corpus.validation.forest, set(corpus.vocabulary.symbols)
    symbols = [
        symbol
        for tree in set(corpus.validation.trees.tolist())
        for subtree in set(forest.graph(tree).subtree.tolist())
        for symbol in forest.symbols_of(subtree)
    ]
    unknown = [symbol not in known for symbol in symbols]
    assert any(unknown) and corpus.unknown_share == sum(unknown) / len(unknown)


def test_the_real_corpus_shares_its_subtrees_twelve_times(real):
    pairs = load_pairs(real / "training", Config().ignored_keys)
    assert len(pairs) == 5_495 and int(pairs.label.sum()) == 495
    assert int(pairs.forest.tree_nodes[pairs.trees].sum()) == 237_262
    assert len(pairs.forest.height) == pytest.approx(19_904, abs=5)


def in_one_file(data: Path, change: Any) -> Path:
    """The training pairs in pairs.jsonl, each record changed by `change`."""
    records = []
    for path in sorted((data / "training").glob("*_pairs.jsonl"), reverse=True):
        records += map(json.loads, path.read_text(encoding="utf-8").splitlines())
        path.unlink()
    for record in records:
        change(record)
    path = data / "training" / "pairs.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def test_pairs_of_both_labels_may_lie_in_one_file(data, tiny):
    path = in_one_file(data, lambda record: None)
    found, expected = load_pairs(path.parent), load_pairs(tiny / "training")
    assert found.content_digest == expected.content_digest
    assert found.where(30) == f"{path}:31" and expected.where(30).endswith("negative_pairs.jsonl:7")
    assert found.content_digest == load_pairs(path.parent).content_digest  # from the compiled corpus


def test_pairs_without_labels_train_the_graded_objective(data, tmp_path):
    in_one_file(data, without("label"))
    settings = {"objective": "graded", "validation_dir": None, "validation_fraction": 0.25}
    config = tiny_config(data, tmp_path / "run", **settings)
    report = preflight(config)
    assert report.verdict != "no-go", report
    record = train(config).epochs[-1]
    assert {"validation_pearson", "validation_spearman", "validation_mse"} <= record.keys()
    assert not {"train_acc", "validation_roc_auc"} & record.keys()


def test_graded_pairs_need_a_similarity_on_the_scale_by_file_and_line(data, tmp_path):
    path = in_one_file(data, lambda record: record.update(similarity=record["similarity"] * 4 + 1))
    edit_record(path, 3, lambda record: record.update(similarity=5.5))
    edit_record(path, 4, without("similarity"))
    scale = {"objective": "graded", "similarity_low": 1, "similarity_high": 5, "validation_dir": None}
    config = tiny_config(data, tmp_path / "run", **scale)
    with pytest.raises(DataError) as error:
        load_corpus(config)
    assert f"{path}:3: similarity is 5.5" in str(error.value) and "from 1 to 5" in str(error.value)
    assert f"{path}:4: similarity is missing" in str(error.value)
    assert f"{path}:3" in str(preflight(config))


def test_the_ranking_objective_needs_similar_pairs_only(data, tmp_path):
    (data / "training" / "negative_pairs.jsonl").unlink()
    with pytest.raises(DataError, match="objective='contrastive' needs"):
        load_pairs(data / "training")
    settings = {"objective": "ranking", "validation_dir": None, "validation_fraction": 0.25}
    record = train(tiny_config(data, tmp_path / "run", **settings)).epochs[-1]
    assert (
        0 < record["validation_reciprocal_rank"] <= 1 and 0 <= record["validation_precision_at_1"] <= 1
    )
    (data / "training" / "positive_pairs.jsonl").rename(data / "training" / "pairs.jsonl")
    with pytest.raises(DataError, match="holds no dissimilar pairs"):
        load_pairs(data / "training")


def test_a_pair_of_one_file_must_have_a_label_or_a_similarity(data):
    path = in_one_file(data, lambda record: None)
    edit_record(path, 2, without("label"))
    edit_record(path, 5, lambda record: record.update(label=2))
    edit_record(path, 6, lambda record: [record.pop("label"), record.pop("similarity")])
    with pytest.raises(DataError) as error:
        load_pairs(path.parent)
    assert f"{path}:5: label is 2, but 1 or 0 was expected" in str(error.value)
    assert f"{path}:6: label and similarity are missing" in str(error.value) and f"{path}:2:" not in str(
        error.value
    )
    edit_record(path, 5, lambda record: record.update(label=1))
    edit_record(path, 6, lambda record: record.update(label=1))
    with pytest.raises(DataError, match=f"{path.name}:2: label is missing. .*contrastive"):
        load_pairs(path.parent)
