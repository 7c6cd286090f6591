"""Planted faults of the pair files: each is found at its level, by file and line if it has one."""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from faults import every_record, fault, negative, positive, remove_children

import treelstm
from treelstm.checks.report import ERROR, NOTE, WARNING


def change_record(path: Path, line: int, change: Callable[[Any], Any]) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    record = json.loads(lines[line - 1])
    change(record)
    lines[line - 1] = json.dumps(record)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def change_line(path: Path, line: int, change: Callable[[bytes], bytes]) -> None:
    lines = path.read_bytes().split(b"\n")
    lines[line - 1] = change(lines[line - 1])
    path.write_bytes(b"\n".join(lines))


@fault("Data files", ERROR, r"training: no such directory")
def test_directory_missing(base, config, patch):
    shutil.rmtree(base / "training")


@fault("Data files", ERROR, r"validation: is a file, expected a directory")
def test_directory_is_a_file(base, config, patch):
    shutil.rmtree(base / "validation")
    (base / "validation").touch()


@fault("Data files", ERROR, r"training/positive_pairs\.jsonl: no such file, nor \.jsonl\.gz")
def test_file_missing(base, config, patch):
    positive(base).unlink()


@fault("Data files", ERROR, r"training/negative_pairs\.jsonl is empty")
def test_file_empty(base, config, patch):
    negative(base).write_bytes(b"")


@fault("Data files", ERROR, r"positive_pairs\.jsonl\.gz is there too")
def test_plain_and_gzipped(base, config, patch):
    (base / "training" / "positive_pairs.jsonl.gz").write_bytes(gzip.compress(b"{}"))


@fault("Data content", ERROR, r"positive_pairs\.jsonl\.gz:\d+: cannot be read \w+ line")
def test_gzip_truncated(base, config, patch):
    packed = gzip.compress(positive(base).read_bytes())
    positive(base).unlink()
    (base / "training" / "positive_pairs.jsonl.gz").write_bytes(packed[:-40])


@fault("Data content", ERROR, r"positive_pairs\.jsonl\.gz:\d+: (cannot be read|not JSON|not UTF-8)")
def test_gzip_flipped(base, config, patch):
    packed = bytearray(gzip.compress(positive(base).read_bytes()))
    packed[len(packed) // 2] ^= 255
    positive(base).unlink()
    (base / "training" / "positive_pairs.jsonl.gz").write_bytes(packed)


@fault("Data content", WARNING, r"training/metadata\.json says num_positive_pairs 41, found 40")
def test_metadata_disagrees(base, config, patch):
    (base / "training" / "metadata.json").write_text('{"num_positive_pairs": 41}')


@fault("Data content", WARNING, r"validation/metadata\.json cannot be read")
def test_metadata_broken(base, config, patch):
    (base / "validation" / "metadata.json").write_text("{")


@fault("Data content", WARNING, r"training/metadata\.json cannot be read \(.*it is a named pipe")
def test_metadata_is_a_pipe(base, config, patch):
    (base / "training" / "metadata.json").unlink()
    os.mkfifo(base / "training" / "metadata.json")


@fault("Data content", WARNING, r"training/metadata\.json cannot be read \(longer than 1,048,576 bytes")
def test_metadata_is_a_giant(base, config, patch):
    with (base / "training" / "metadata.json").open("wb") as file:
        file.truncate(2**40)  # of zeros, which take no place on the disk


@fault("Data content", WARNING, r"training/metadata\.json says total_pairs a list, found 100")
def test_metadata_holds_a_deep_list(base, config, patch):
    deep = b"[" * 4_999 + b"]" * 4_999
    (base / "training" / "metadata.json").write_bytes(b'{"total_pairs": ' + deep + b"}")


@fault("Data content", WARNING, r"training/metadata\.json cannot be read \(not JSON \(Expecting value")
def test_metadata_is_deep(base, config, patch):
    (base / "training" / "metadata.json").write_bytes(b"[" * 5_000)


@fault("Data content", WARNING, r"training/metadata\.json cannot be read \(holds (a|the) number")
def test_metadata_with_a_huge_number(base, config, patch):
    (base / "training" / "metadata.json").write_bytes(b'{"total_pairs": 1' + b"0" * 5000 + b"}")


@fault("Data content", WARNING, r"training/metadata\.json says total_pairs 9{40}, found 100")
def test_metadata_with_a_large_number(base, config, patch):
    (base / "training" / "metadata.json").write_bytes(
        b'\xef\xbb\xbf{"total_pairs": ' + b"9" * 4000 + b"}"
    )


@fault("Data files", ERROR, r"training/positive_pairs\.jsonl cannot be read \(it is a named pipe, expec")
def test_pair_file_is_a_pipe(base, config, patch):
    positive(base).unlink()
    os.mkfifo(positive(base))


@fault("Data content", ERROR, r"positive_pairs\.jsonl:1: saved as UTF-16, expected UTF-8\. Save it as")
def test_pair_file_in_utf_16(base, config, patch):
    positive(base).write_text(positive(base).read_text(encoding="utf-8"), encoding="utf-16")


# --- content ------------------------------------------------------------------------------------


@fault("Data content", ERROR, r"training/positive_pairs\.jsonl:39: not JSON")
def test_json_broken_far_below_line_5(base, config, patch):
    change_line(positive(base), 39, lambda raw: raw[:-5])


@fault("Data content", ERROR, r"validation/negative_pairs\.jsonl:2: not JSON")
def test_json_broken_in_validation(base, config, patch):
    change_line(base / "validation" / "negative_pairs.jsonl", 2, lambda raw: b"{'single': 1}")


@fault("Data content", ERROR, r"negative_pairs\.jsonl:7: not UTF-8 \(byte 3 of the line is 0xe9\)")
def test_not_utf8(base, config, patch):
    change_line(negative(base), 7, lambda raw: raw[:2] + b"\xe9" + raw[2:])


@fault("Data content", ERROR, r"negative_pairs\.jsonl:60: (is no|not a) JSON object")
def test_line_is_a_list(base, config, patch):
    change_line(negative(base), 60, lambda raw: b"[]")


@fault("Data content", ERROR, r"positive_pairs\.jsonl:4: ast2 is missing")
def test_side_missing(base, config, patch):
    change_record(positive(base), 4, lambda record: record.pop("ast2"))


@fault("Data content", ERROR, r"positive_pairs\.jsonl:4: ast1\.ast is missing")
def test_ast_missing(base, config, patch):
    change_record(positive(base), 4, lambda record: record["ast1"].pop("ast"))


@fault("Data content", ERROR, r"positive_pairs\.jsonl:9: label is 0, but the file's name says 1")
def test_label_against_file(base, config, patch):
    change_record(positive(base), 9, lambda record: record.update(label=0))


@fault("Data content", ERROR, r"positive_pairs\.jsonl:1: ast1\.ast is null")
def test_tree_null(base, config, patch):
    change_record(positive(base), 1, lambda record: record["ast1"].update(ast=None))


@fault("Data content", ERROR, r"positive_pairs\.jsonl:1: ast1\.ast is an empty tree")
def test_tree_empty(base, config, patch):
    change_record(positive(base), 1, lambda record: record["ast1"].update(ast={"plena_vorto": "x"}))


@fault("Data content", ERROR, r"\.\.\. and 20 more")
def test_forty_faults_are_counted(base, config, patch):
    for line in range(1, 41):
        change_record(positive(base), line, lambda record: record.pop("label"))


@fault("Data content", WARNING, r": 62 pairs, 60 dissimilar to 2 similar \(30\.0 : 1\); .* in 96\.8%")
def test_classes_over_20_to_1(base, config, patch):
    lines = positive(base).read_bytes().splitlines(True)
    positive(base).write_bytes(b"".join(lines[:2]))


@fault("Data content", WARNING, r"training: 1 pair\(s\) have both labels: .*positive_pairs\.jsonl:6")
def test_same_pair_under_both_labels(base, config, patch):
    record = json.loads(positive(base).read_text(encoding="utf-8").splitlines()[5])
    other = {"ast1": record["ast2"], "ast2": record["ast1"], "label": 0}
    with negative(base).open("a", encoding="utf-8") as file:
        file.write(json.dumps(other) + "\n")


@fault(
    "Data content",
    WARNING,
    r"training: \d+ pair\(s\) repeat an earlier one \(\d+\.\d%\), for example .*jsonl:41",
)
def test_repeated_pairs(base, config, patch):
    text = positive(base).read_bytes()
    positive(base).write_bytes(text + text)


@fault(
    "Data content",
    NOTE,
    r"training: 1 pair\(s\) repeat an earlier one .* for example .*positive_pairs\.jsonl:41",
)
def test_one_repeated_pair(base, config, patch):
    text = positive(base).read_bytes()
    positive(base).write_bytes(text + text.splitlines(True)[3])


@fault("Data content", WARNING, r"100\.0% of the validation trees occur in training")
def test_validation_seen_in_training(base, config, patch):
    shutil.rmtree(base / "validation")
    shutil.copytree(base / "training", base / "validation")


@fault("Data content", WARNING, r"\d\d\.\d% of the symbols in validation trees do not occur in training")
def test_validation_of_another_parser(base, config, patch):
    for path in (base / "validation").glob("*_pairs.jsonl"):
        text = path.read_text(encoding="utf-8")
        path.write_text(
            re.sub(r'"(tipo|vortspeco|nombro|kazo)": "', r'"\1": "x', text), encoding="utf-8"
        )


@fault("Data content", WARNING, r'"token_id" \(\d+ values on \d+ nodes\) .* look like positions or ids')
def test_key_that_numbers_the_nodes(base, config, patch):
    def number(record: Any, k: int) -> None:
        record["ast1"]["ast"]["verbo"]["token_id"] = 2 * k
        record["ast2"]["ast"]["verbo"]["token_id"] = 2 * k + 1

    every_record(base, number)


@fault("Data content", ERROR, r"training: .*sentences\.npy: not as compiled, though size and time are")
def test_a_bit_of_the_compiled_corpus_has_rotted(base, config, patch):
    treelstm.load_corpus(config)
    path = next((base / "training").glob(".forest-*/sentences.npy"))
    found = path.stat()
    with path.open("rb+") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\0")
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))


@fault("Data content", WARNING, "No tree has a child: is the AST nested under ignored keys")
def test_trees_without_children(base, config, patch):
    return remove_children(base, config)
