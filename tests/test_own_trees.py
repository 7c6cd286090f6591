"""docs/bring-your-own.md: two corpora from files to a verdict, at a small size."""

from __future__ import annotations

import re
import shlex
import sysconfig
from pathlib import Path

import pytest
from conftest import REPOSITORY, tiny_config
from treebank import write_treebank

import treelstm
from treelstm.commands import main
from treelstm.comparison import compared
from treelstm.rivals import with_rivals
from treelstm.run.directory import find_best_model

PAGE = (REPOSITORY / "docs" / "bring-your-own.md").read_text()
BLOCKS = re.findall(r"```\n(.*?)```", PAGE, re.DOTALL)
SITE = Path(sysconfig.get_paths()["purelib"])


def test_each_block_of_the_page_is_under_ten_lines_of_flags_that_exist(capsys):
    texts = BLOCKS + re.findall(
        r"`(python -m treelstm [^`]+)`", (REPOSITORY / "data/README.md").read_text()
    )
    assert len(BLOCKS) == 2 and len(texts) > 10
    for text in texts:
        assert len(text.splitlines()) < 10
        for line in re.findall(r"python -m treelstm (.*)", text):
            command, *words = shlex.split(line)
            with pytest.raises(SystemExit):
                main([command, "--help"])
            known = capsys.readouterr().out
            assert not [word for word in words if word.startswith("--") and f"{word} " not in known], (
                line
            )


def verdict_of(trees: list[Path], tmp_path: Path) -> dict[str, dict[str, tuple[float, float, float]]]:
    """ROC-AUC and so on of an encoder and its rivals, each with its interval."""
    rows, training, validation = (
        tmp_path / name for name in ("trees.jsonl.gz", "training", "validation")
    )
    assert main(["trees", *map(str, trees), "--to", str(rows)]) == 0
    words = "--by label --neighbours --validation 0.4 --validation-to".split()
    assert main(["pairs", str(rows), "--to", str(training), *words, str(validation)]) == 0
    config = tiny_config(
        tmp_path, tmp_path / "run", epochs=6, embedding_dim=24, hidden_dim=32, output_dim=24
    )
    treelstm.train(config)
    model = find_best_model(tmp_path / "run")
    pairs, encoder = treelstm.load_pairs(validation), treelstm.load_encoder(model)
    return compared(with_rivals(encoder, pairs, config), pairs)[0]


def test_a_treebank_in_conllu_goes_from_files_to_a_verdict_where_structure_decides(tmp_path):
    write_treebank(tmp_path / "treebank", stories=24)
    scores = verdict_of([tmp_path / "treebank"], tmp_path)
    assert len(scores) == 4
    encoder, bag, _, untrained = (each["roc_auc"][0] for each in scores.values())
    assert encoder > max(bag, untrained), "a bag of words cannot tell who chases whom"


@pytest.mark.skipif(not (SITE / "pip" / "_vendor").is_dir(), reason="pip is not in this environment")
def test_functions_in_two_versions_go_from_files_to_a_verdict(tmp_path, capsys):
    trees = [
        home / name for home in (SITE, SITE / "pip" / "_vendor") for name in ("idna", "platformdirs")
    ]
    scores = verdict_of(trees, tmp_path)
    for low, high in ((each["roc_auc"][1], each["roc_auc"][2]) for each in scores.values()):
        assert 0 <= low <= high <= 1
    assert main(["evaluate", "--output-dir", str(tmp_path / "run")]) == 0
    said = capsys.readouterr().out
    assert "encoder" in said and "bag of symbols" in said
