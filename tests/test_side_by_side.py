from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import tiny_config
from runs import copy, rewrite

from treelstm import load_encoder, load_pairs, train
from treelstm.evaluation import encoder_scorer, metrics_of, retrieval
from treelstm.model.files import names_of
from treelstm.plain import distinct_names
from treelstm.sealed import CheckpointError
from treelstm.side_by_side import NotComparable, compare_encoders, other_checkpoint

OTHERWISE = {"ignored_keys": ["vortspeco"], "child_order": True}  # another way to read trees


@pytest.fixture(scope="module")
def runs(tiny: Path, whole: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The best models of runs on the same pairs: two that differ in their seed, one that reads the trees
    otherwise, and two that held out the same part of the training pairs, of which one reads otherwise.
    """
    directory = tmp_path_factory.mktemp("runs")
    split = {"validation_dir": None, "validation_fraction": 0.3, "seed": 1}
    settings: dict[str, Any] = {"seed": {"seed": 7}, "otherwise": OTHERWISE, "split": split}
    settings["both"] = split | OTHERWISE
    for name, each in settings.items():
        train(tiny_config(tiny, directory / name, epochs=1, **each))
    found = {name: directory / name / "best_model.pt" for name in settings}
    return {"whole": whole / "best_model.pt", **found}


def lines(directory: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (directory / f"{name}_pairs.jsonl").read_text().splitlines()]


def write(directory: Path, records: list[dict[str, Any]]) -> Path:
    directory.mkdir(parents=True)
    with gzip.open(directory / "pairs.jsonl.gz", "wt") as file:
        file.writelines(json.dumps(record) + "\n" for record in records)
    return directory


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["/m/a/best.pt"], ["best.pt"]),
        (["/m/a/1.pt", "/m/a/2.pt"], ["1.pt", "2.pt"]),
        (["/m/a/best.pt", "/m/b/best.pt"], ["a/best.pt", "b/best.pt"]),
        (["/m/a/1.pt", "/m/b/2.pt"], ["a/1.pt", "b/2.pt"]),  # of which run, too
        (["/1/x/best.pt", "/2/x/best.pt", "/2/y/z.pt"], ["1/x/best.pt", "2/x/best.pt", "2/y/z.pt"]),
        (["/m/a/best.pt", "/m/a/superseded/best.pt"], ["a/best.pt", "superseded/best.pt"]),
        (["/a/best.pt", "/b/a/best.pt"], ["/a/best.pt", "b/a/best.pt"]),
        (["/m/a/best.pt", "/m/a/best.pt"], ["best.pt", "best.pt (2)"]),
        (["/m/\x01.pt", "/m/\x02.pt"], ["\ufffd.pt", "\ufffd.pt (2)"]),
        (["/night/lr=0.1", "/night/lr=0.2"], ["lr=0.1", "lr=0.2"]),
        ([], []),
    ],
)
def test_names_are_the_shortest_that_tell_paths_apart(paths, names):
    assert distinct_names(paths) == names


def test_an_encoder_keeps_what_it_was_read_from_when_its_file_is_replaced(runs, tmp_path):
    path = tmp_path / "best_model.pt"
    path.write_bytes(runs["whole"].read_bytes())
    first = load_encoder(path)
    path.write_bytes(runs["seed"].read_bytes())
    second = load_encoder(path)
    assert (first.origin.config.seed, second.origin.config.seed) == (42, 7)
    assert names_of([first, second]) == ["best_model.pt, epoch 2", "best_model.pt (2), epoch 1"]


def test_encoders_of_several_runs_have_the_scores_that_each_has_alone(runs, tiny):
    found = compare_encoders([*runs.values()], tiny / "validation", "cpu")
    names = [f"{path.parent.name}/best_model.pt" for path in runs.values()]
    assert [name.rpartition(", epoch ")[0] for name in found.scorers] == names
    assert len(found.pairs) == 72 and found.left_out == 0
    assert [*found.differences] == [*found.scores][1:]
    for path, (name, scorer) in zip(runs.values(), found.scorers.items(), strict=True):
        encoder = load_encoder(path)
        of = encoder.settings
        own = load_pairs(tiny / "validation", of.ignored_keys, child_order=of.child_order)
        alone = encoder_scorer(encoder, own)
        assert (scorer.distance == alone.distance).all() and scorer.threshold == alone.threshold
        assert {key: value[0] for key, value in found.scores[name].items()} == metrics_of(alone, own)
        again, ranked = found.retrieval[name], retrieval(alone, own)
        assert again.queries == ranked.queries and again.precision == pytest.approx(ranked.precision)


def test_pairs_stay_aligned_line_by_line_where_encoders_read_trees_otherwise(runs, tiny):
    held_out = {}
    for first, second in (("split", "both"), ("both", "split")):
        found = compare_encoders([runs[first], runs[second]], None, "cpu")
        assert f"that the run of {first}/best_model.pt, epoch 1 held out" in found.about
        held_out[first] = [found.pairs.where(pair) for pair in range(len(found.pairs))]
        assert len(held_out[first]) + found.left_out == 21
        for pair, place in enumerate(held_out[first]):
            path, _, line = place.rpartition(":")
            record = json.loads(Path(path).read_text().splitlines()[int(line) - 1])
            for scorer in found.scorers.values():
                distance = scorer.encoder.distance(record["ast1"]["ast"], record["ast2"]["ast"])
                assert distance == pytest.approx(float(scorer.distance[pair]), abs=1e-5)
    assert held_out["split"] == held_out["both"]
    with pytest.raises(NotComparable, match="The other 0 are too few"):  # `whole` was trained on all
        compare_encoders([runs["split"], runs["whole"]], None, "cpu")


def test_pairs_that_a_run_was_trained_on_are_left_out_by_content_and_trees_are_counted(
    runs, tiny, tmp_path
):
    unseen = [each for kind in ("positive", "negative") for each in lines(tiny / "validation", kind)]
    seen = lines(tiny / "training", "positive")[:5] + lines(tiny / "training", "negative")[-3:]
    swapped = [each | {"ast1": each["ast2"], "ast2": each["ast1"]} for each in seen]
    for each in swapped:
        each["ast1"]["ast"]["parse_status"] = "ignored by all"
    half = [each | {"ast2": unseen[0]["ast2"], "label": 0} for each in seen[:4]]  # one tree is new
    directory = write(tmp_path / "pairs", seen[:2] + unseen[:40] + swapped + half)
    found = compare_encoders([runs["whole"], runs["otherwise"]], directory, "cpu")
    assert found.left_out == 10 and len(found.pairs) == 44
    assert found.about.splitlines()[0].endswith("left out, since a run was trained on them: 10")
    again = len({json.dumps(each["ast1"], sort_keys=True) for each in half})
    assert f"in the training of a run: {again} of " in found.about
    only_whole = compare_encoders([runs["whole"], runs["seed"]], directory, "cpu")
    assert only_whole.left_out == 10
    with pytest.raises(NotComparable, match=r"of 72 pairs, .*/training, 72 are left out, .*Set valid"):
        compare_encoders([runs["whole"], runs["seed"]], tiny / "training", "cpu")


def test_what_the_run_that_gave_the_first_weights_was_trained_on_is_left_out_too(runs, tiny, tmp_path):
    start = {"start_from": str(runs["whole"]), "data_dir": str(tiny / "validation")}
    models = []
    for seed in (3, 4):
        train(tiny_config(tiny, tmp_path / f"{seed}", epochs=1, seed=seed, **start))
        models.append(tmp_path / f"{seed}" / "final_model.pt")
    training = lines(tiny / "training", "positive") + lines(tiny / "training", "negative")
    directory = write(tmp_path / "pairs", training)
    with pytest.raises(NotComparable, match="72 are left out"):
        compare_encoders(models, directory, "cpu")


def test_what_cannot_be_told_is_said(runs, tiny, tmp_path):
    data = copy(tiny, tmp_path / "data")
    train(tiny_config(data, tmp_path / "gone", epochs=1))
    models = [runs["seed"], tmp_path / "gone" / "best_model.pt"]
    (data / "validation").rename(data / "elsewhere")  # is not missed
    assert "cannot be told" not in compare_encoders(models, tiny / "validation", "cpu").about
    (data / "training").rename(data / "away")
    said = compare_encoders(models, tiny / "validation", "cpu").about
    assert "/gone/best_model.pt was trained on cannot be told: " in said
    with pytest.raises(NotComparable, match=r"training: no such directory.*\nSet validation_dir"):
        compare_encoders(models[::-1], None, "cpu")


def test_what_cannot_be_compared_is_refused_by_name(runs, tiny, tmp_path):
    for count in (0, 1, 6):
        with pytest.raises(NotComparable, match=rf"two to five .* not {count} \("):
            compare_encoders([runs["whole"]] * count)
    twin = runs["whole"].with_name("checkpoint_epoch_2.pt")
    with pytest.raises(
        NotComparable, match=r"best_model\.pt, epoch 2 and checkpoint_epoch_2\.pt, epoch"
    ):
        compare_encoders([runs["whole"], twin])
    torn = tmp_path / "torn.pt"
    torn.write_bytes(b"torn")
    for path in (torn, tmp_path / "missing.pt"):
        with pytest.raises(CheckpointError, match=path.name):
            compare_encoders([runs["whole"], path])
    unseen = lines(tiny / "validation", "positive")
    directory = write(tmp_path / "pairs", [*unseen, unseen[0] | {"ast1": {"ast": {"vortspeco": "a"}}}])
    with pytest.raises(
        NotComparable, match=r"otherwise/best_model.* cannot be .*: ast1.ast is an empty"
    ):
        compare_encoders([runs["whole"], runs["otherwise"]], directory)
    few = write(tmp_path / "few", unseen[:9])
    with pytest.raises(NotComparable, match=r"of 9 pairs, of .*/few, 0 are left out"):
        compare_encoders([runs["whole"], runs["seed"]], few)


def test_disagreements_are_by_the_encoders_own_thresholds_strongest_first(runs, tiny):
    found = compare_encoders([*runs.values()][:3], tiny / "validation", "cpu")
    times = np.array([each.distance / each.threshold for each in found.scorers.values()])
    differ = [p for p in range(72) if len({*(times[:, p] < 1)}) == 2]
    assert sorted(found.disagreements.tolist()) == differ and differ
    spans = np.ptp(times, axis=0)[found.disagreements]
    assert (np.diff(spans) <= 0).all()
    pair = int(found.disagreements[0])
    html = found.table(pair).data.replace("<wbr/>", "")
    assert html.count(">similar<") >= 1 and html.count(">dissimilar<") >= 1
    assert all(name in html for name in found.scorers)
    assert f"labelled {found.pairs.kind(pair)}" in html
    assert len(found.figure(pair).axes) == 2


def test_an_encoder_is_compared_with_the_newest_and_never_with_itself(tiny, tmp_path):
    run = tmp_path / "run"
    train(tiny_config(tiny, run, epochs=1))
    alone = load_encoder(run / "final_model.pt")
    assert other_checkpoint(run, alone) is None and other_checkpoint(tmp_path / "none", alone) is None
    train(tiny_config(tiny, run, epochs=4))
    checkpoint = "checkpoint_epoch_{}.pt".format
    first, last = (load_encoder(run / checkpoint(epoch)) for epoch in (1, 4))
    assert other_checkpoint(run, first).name == checkpoint(4)

    def of_best(epoch: int) -> Any:
        def change(content: Any) -> None:
            content["history"] = [r | {"best": r["epoch"] <= epoch} for r in content["history"]]
            content["best"] = {"epoch": epoch, "validation_loss": 0.1}

        return change

    for best, expected in ((1, 1), (2, 2), (3, 3), (4, 3)):
        rewrite(run / checkpoint(4), of_best(best))
        assert other_checkpoint(run, last).name == checkpoint(expected)
    (run / checkpoint(3)).write_bytes(b"torn")
    assert other_checkpoint(run, last).name == checkpoint(2)
