"""Every notebook, executed by papermill on a tiny sample."""

from __future__ import annotations

import contextlib
import json
import re
import time
from pathlib import Path
from typing import Any

import nbformat
import papermill
import pytest
from conftest import REPOSITORY, tiny_config
from jupyter_client.manager import start_new_kernel
from nbconvert import HTMLExporter
from papermill.exceptions import PapermillExecutionError
from runs import StopAfter, assert_same_run, copy, night_of_runs

from treelstm import list_checkpoints, load_encoder, train
from treelstm.run.lock import only_writer
from treelstm.sealed import CheckpointError
from treelstm.widgets.checkpoints import model_picker

SIZES = {"embedding_dim": 8, "hidden_dim": 12, "output_dim": 6}

pytestmark = pytest.mark.filterwarnings("default")  # warnings of papermill and Jupyter are not ours


def page_parameters(data: Path, directory: Path) -> dict[str, Any]:
    return {
        "data_dir": str(data / "training"),
        "validation_dir": str(data / "validation"),
        "output_dir": str(directory / "run"),
        "epochs": 2,
        **SIZES,
    }


@pytest.fixture
def parameters(tiny: Path, tmp_path: Path) -> dict[str, Any]:
    return page_parameters(tiny, tmp_path)


def execute(name: str, tmp_path: Path, parameters: dict[str, Any]) -> Any:
    output = tmp_path / f"{name}.ipynb"
    papermill.execute_notebook(
        REPOSITORY / "notebooks" / f"{name}.ipynb", output, parameters, progress_bar=False, cwd=tmp_path
    )
    return nbformat.read(output, as_version=4)


def outputs(notebook: Any) -> list[Any]:
    return [output for cell in notebook.cells for output in cell.get("outputs", ())]


def text(notebook: Any) -> str:
    return "".join(output.get("text", "") for output in outputs(notebook))


def results(notebook: Any) -> dict[str, Any]:
    data = [output.get("data", {}) for output in outputs(notebook)]
    return [each["application/json"] for each in data if "application/json" in each][-1]


@pytest.fixture(scope="module")
def trained_once(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    directory = tmp_path_factory.mktemp("trained")
    return directory / "run", execute("02_train", directory, page_parameters(tiny, directory))


@pytest.fixture
def trained(trained_once: tuple[Path, Any], tmp_path: Path) -> Any:
    """The executed train page; its run is in `tmp_path / "run"`."""
    run, page = trained_once
    copy(run, tmp_path / "run")
    return page


def test_the_train_page_trains_shows_figures_and_records_results(trained, tmp_path):
    history = json.loads((tmp_path / "run" / "training_history.json").read_text())
    assert results(trained)["outcome"] == "finished" and results(trained)["epochs"] == len(history) == 2
    assert 0 <= results(trained)["validation"]["roc_auc"] <= 1
    figures = [output for output in outputs(trained) if "image/png" in output.get("data", {})]
    assert len(figures) == 4
    assert "72 pairs, majority rate 0.667" in text(trained)
    assert "epoch 2/2  train 0." in text(trained)
    assert "widget-view" not in json.dumps(trained.cells)  # it would show nothing in a saved page
    assert len(json.dumps(trained)) < 2_000_000


def test_the_train_page_resumes_where_it_stopped(trained, tmp_path, parameters):
    again = execute("02_train", tmp_path, parameters | {"epochs": 3})
    assert "checkpoint_epoch_2.pt: epoch 2" in text(again) and results(again)["epochs"] == 3


@pytest.mark.parametrize(
    "name",
    [
        "02_train",
        *(
            pytest.param(f"0{n}", marks=pytest.mark.long)
            for n in ("1_preflight", "3_resume", "4_evaluate")
        ),
    ],
)
def test_an_unknown_injected_parameter_is_refused_by_name(tmp_path, parameters, name):
    with pytest.raises(PapermillExecutionError, match="epohcs: no such setting"):
        execute(name, tmp_path, parameters | {"epohcs": 3})
    assert not (tmp_path / "run").exists()


@pytest.mark.long
def test_bad_data_stops_the_page_before_anything_is_written(tmp_path, parameters):
    with pytest.raises(PapermillExecutionError, match="nowhere: no such directory"):
        execute("02_train", tmp_path, parameters | {"data_dir": str(tmp_path / "nowhere")})
    assert not (tmp_path / "run").exists()


def test_the_resume_page_shows_the_run_and_goes_on_with_the_runs_own_settings(
    trained, tmp_path, parameters, tiny
):
    page = {"output_dir": parameters["output_dir"], "epochs": 4}
    resumed = execute("03_resume", tmp_path, page)
    assert "is finished: epoch 2" in results(resumed)["status"]
    assert results(resumed)["resumed_at"] == [2, 0] and results(resumed)["epochs"] == 4
    table = next(o.data["text/html"] for o in outputs(resumed) if "<table" in str(o.get("data")))
    assert table.count(">verified<") == 2 and "★" in table and table.count(">chosen<") == 1
    assert str(resumed.cells).count('role="img"') == 2  # the choice, the run that went on
    assert "widget-view" not in json.dumps(resumed.cells)
    train(tiny_config(tiny, tmp_path / "whole", epochs=4))
    assert_same_run(tmp_path / "whole", tmp_path / "run")


@pytest.mark.long
def test_the_resume_page_as_delivered_trains_as_far_as_the_run_was_begun_to_go(tiny, tmp_path):
    config = tiny_config(tiny, tmp_path / "run", epochs=4)
    train(config, listeners=[StopAfter(7)])
    with pytest.raises(PapermillExecutionError, match=r"epochs=1, but .* is in epoch 2\. Set epochs to"):
        execute("03_resume", tmp_path, {"output_dir": config.output_dir, "epochs": 1})
    assert not (tmp_path / "run" / "final_model.pt").exists()
    resumed = execute("03_resume", tmp_path, {"output_dir": config.output_dir})
    assert results(resumed)["resumed_at"] == [1, 2] and results(resumed)["epochs"] == 4
    train(tiny_config(tiny, tmp_path / "whole", epochs=4))
    assert_same_run(tmp_path / "whole", tmp_path / "run")
    again = execute("03_resume", tmp_path, {"output_dir": config.output_dir})
    assert results(again)["outcome"] == "finished" and results(again)["epochs"] == 4


@pytest.mark.long
def test_the_resume_page_makes_a_named_change_and_shows_it(trained, tmp_path, parameters):
    page = {"output_dir": parameters["output_dir"], "epochs": 3, "learning_rate": 0.01}
    execute("03_resume", tmp_path, page | {"changes": "learning_rate"})
    later = execute("03_resume", tmp_path, {"output_dir": page["output_dir"], "epochs": 4})
    changed = "changed on purpose: learning_rate: 0.001 became 0.01 after epoch 2"
    assert changed in results(later)["status"] and results(later)["epochs"] == 4
    with pytest.raises(PapermillExecutionError, match=r"learning_rate=0\.01, this run asks for 0\.02"):
        execute("03_resume", tmp_path, page | {"epochs": 5, "learning_rate": 0.02})


def test_the_evaluation_page_on_a_run_whose_data_have_moved_names_the_parameter_to_give(tiny, tmp_path):
    train(tiny_config(copy(tiny, tmp_path / "before"), tmp_path / "run", epochs=1, validation_dir=None))
    (tmp_path / "before").rename(tmp_path / "after")
    with pytest.raises(PapermillExecutionError, match=r"before/training: no such directory\. Set data_"):
        execute("04_evaluate", tmp_path, {"output_dir": str(tmp_path / "run")})


@pytest.mark.long
def test_pages_on_a_run_whose_data_have_moved_name_the_parameter_to_give(tiny, tmp_path):
    before, after = copy(tiny, tmp_path / "before"), tmp_path / "after"
    train(tiny_config(before, tmp_path / "run", epochs=1, validation_dir=None))
    before.rename(after)
    page = {"output_dir": str(tmp_path / "run")}
    for name in ("03_resume", "04_evaluate"):
        with pytest.raises(
            PapermillExecutionError, match=r"before/training: no such directory\. Set data_"
        ):
            execute(name, tmp_path, page)
    page["data_dir"] = str(after / "training")
    assert results(execute("04_evaluate", tmp_path, page))["scores"]
    assert results(execute("03_resume", tmp_path, page | {"epochs": 2}))["epochs"] == 2


@pytest.mark.long
def test_pages_on_a_run_without_its_best_model_say_what_they_take(trained, tmp_path, parameters):
    run = tmp_path / "run"
    (run / "best_model.pt").unlink()
    page = execute("04_evaluate", tmp_path, {"output_dir": str(run)})
    assert results(page)["checkpoint"].endswith("checkpoint_epoch_2.pt")
    assert "best_model.pt is missing: checkpoint_epoch_2.pt is taken instead" in text(page)


def test_the_resume_page_takes_an_earlier_checkpoint_and_names_a_damaged_one(
    trained, tmp_path, parameters
):
    run = tmp_path / "run"
    (run / "checkpoint_epoch_2.pt").write_bytes(b"")
    page = {"output_dir": str(run), "epochs": 3, "resume": str(run / "checkpoint_epoch_1.pt")}
    resumed = execute("03_resume", tmp_path, page)
    assert "damaged: " in str(resumed.cells) and results(resumed)["resumed_at"] == [1, 0]
    assert (run / "superseded" / "checkpoint_epoch_2.pt").is_file()


@pytest.mark.long
def test_the_resume_page_refuses_another_seed_and_a_directory_without_a_run(
    tmp_path, parameters, trained
):
    page = {"output_dir": parameters["output_dir"], "epochs": 3}
    with pytest.raises(PapermillExecutionError, match="seed=42, this run asks for 7"):
        execute("03_resume", tmp_path, page | {"seed": 7})
    with pytest.raises(PapermillExecutionError, match=r"holds no checkpoint\. Start the run"):
        execute("03_resume", tmp_path, page | {"output_dir": str(tmp_path / "none")})


def test_the_evaluation_page_sets_the_encoder_beside_its_baselines(trained, tmp_path, parameters):
    page = execute("04_evaluate", tmp_path, {"output_dir": parameters["output_dir"]})
    found = results(page)
    rivals = ["bag alone, trained the same way", "TF-IDF bag, no training", "untrained encoder"]
    assert {*found["scores"]} == {"this encoder", *rivals} and {*found["differences"]} == {*rivals}
    assert all(f"the {name.partition(',')[0]} (" in found["verdict"] for name in rivals)
    assert text(page).count("training the bag alone in the same way, once: at most 2 epochs") == 1
    assert "epoch 1/2" not in text(page) and len(text(page).splitlines()) < 20
    assert "only by such symbols, unseen by this encoder: 0" in text(page)  # it has a bag
    own = results(trained)["validation"]
    for name, (value, low, high) in found["scores"]["this encoder"].items():
        assert value == own[name] and -1 <= low <= high <= 1
    assert "(label_keys): radiko, tipo\n" in text(page)
    assert "Precision " in json.dumps(page.cells) and "keeps the two apart" in json.dumps(page.cells)
    assert set(found["retrieval"]["this encoder"]["precision"]) == {"1", "5", "10"}
    run = tmp_path / "run"
    assert found["checkpoint"] == str(run / "best_model.pt") and found["epoch"] == 2
    assert f"this encoder: {run / 'best_model.pt'}, epoch 2" in text(page)
    (_, low, high) = found["compared"]["checkpoint_epoch_1.pt, epoch 1"]["roc_auc"]  # 2 is itself
    assert low <= high
    html = [output["data"]["text/html"] for output in outputs(page) if "text/html" in str(output)]
    # curves, distances, threshold, neighbours, 4 wrong pairs, map, comparison
    assert "".join(html).count("<svg") >= 10
    assert found["verdict"] in html[0] and str(run / "best_model.pt") in html[0]  # first on the page
    assert sum("<details" in each for each in html) >= 8
    assert "widget-view" not in json.dumps(page.cells)
    assert len(json.dumps(page)) < 2_000_000


def test_the_evaluation_page_takes_any_checkpoint_and_other_pairs(trained, tmp_path, parameters, tiny):
    run = tmp_path / "run"
    given = {
        "output_dir": str(run),
        "checkpoint": str(run / "checkpoint_epoch_1.pt"),
        "compare_with": str(run / "checkpoint_epoch_2.pt"),
        "validation_dir": str(tiny / "training"),
        "label_keys": "vortspeco",
    }
    page = execute("04_evaluate", tmp_path, given)
    assert "trees that also occur in training: 100.0%" in text(page)
    assert "(label_keys): vortspeco\n" in text(page)
    assert set(results(page)["compared"]) == {"checkpoint_epoch_2.pt, epoch 2"}
    assert "pairs that checkpoint_epoch_2.pt, epoch 2 was trained on: 72\n" in text(page)
    with pytest.raises(CheckpointError, match=r"there is no file .*checkpoint_epoch_9\.pt"):
        model_picker(run, str(run / "checkpoint_epoch_9.pt"))  # as the page asks


def test_whatever_is_chosen_later_the_evaluation_page_names_what_it_has_computed(
    trained, tmp_path, parameters, tiny
):
    """A person chooses another checkpoint and another tree when all is computed, and runs the last
    cells alone. The other encoder is one of another run, in a file of the same name.
    """
    run, other = tmp_path / "run", tmp_path / "other" / "run"
    train(tiny_config(tiny, other, epochs=1, seed=7, ignored_keys=["radiko"]))
    page = json.loads((REPOSITORY / "notebooks" / "04_evaluate.ipynb").read_text())
    at = next(k for k, c in enumerate(page["cells"]) if "## A map" in "".join(c["source"]))
    choose = f"picker.chosen = {str(run / 'checkpoint_epoch_1.pt')!r}\nwas = choice.value\n"
    choose += "choice.value = was + 1\n"
    choose += "encoder = treelstm.load_encoder(picker.value)"  # the cell that loads is run, no further
    page["cells"].insert(at, nbformat.v4.new_code_cell(choose))
    check = "assert tree_map.named[0] == was + 1 and 'best_model.pt, epoch 2: ' in tree_map.about"
    page["cells"].append(nbformat.v4.new_code_cell(check))
    (tmp_path / "page.ipynb").write_text(json.dumps(page))
    given = {"output_dir": str(run), "compare_with": str(other / "best_model.pt")}
    done = tmp_path / "done.ipynb"
    papermill.execute_notebook(tmp_path / "page.ipynb", done, given, progress_bar=False, cwd=tmp_path)
    page = nbformat.read(done, as_version=4)
    found, names = results(page), [f"{tmp_path.name}/run/best_model.pt", "other/run/best_model.pt"]
    assert found["checkpoint"] == str(run / "best_model.pt") and found["epoch"] == 2
    assert set(found["compared"]) == {f"{names[1]}, epoch 1"}
    html = [o["data"]["text/html"] for o in outputs(page) if "text/html" in o.get("data", {})]
    html = [each for each in html if ">difference to " in each][-1]
    html = html.replace("<wbr/>", "")
    rows = [re.split(r"</?t[hd][^>]*>", row)[1::2] for row in html.split("<tr>")[2:]]
    mine = [f"{value[0]:.3f}" for value in found["scores"]["this encoder"].values()]
    assert rows[0][0] == f"{names[0]}, epoch 2" and rows[1][0] == f"{names[1]}, epoch 1"
    assert sorted(cell.split("<br/>")[0] for cell in rows[0][1:]) == sorted(mine)


def rewritten(tiny: Path, work: Path, kind: str) -> Path:
    """The sample with a similarity and no label for each pair, or with similar pairs only."""
    for part in ("training", "validation"):
        (work / part).mkdir(parents=True)
        lines = []
        for source in sorted((tiny / part).glob("*_pairs.jsonl")):
            for record in map(json.loads, source.read_text().splitlines()):
                if kind == "graded":
                    del record["label"]
                    record["similarity"] = 1 + 4 * record["similarity"]
                elif record.pop("similarity") is None or not record["label"]:
                    continue
                lines.append(json.dumps(record))
        name = "positive_pairs.jsonl" if kind == "positive file" else "pairs.jsonl"
        (work / part / name).write_text("\n".join(lines))
    return work


@pytest.mark.parametrize(
    "kind",
    [
        "graded",
        *(pytest.param(kind, marks=pytest.mark.long) for kind in ("positive file", "pairs file")),
    ],
)
def test_every_page_runs_on_graded_and_on_similar_pairs_alone(tiny, tmp_path, kind):
    graded = kind == "graded"
    parameters = page_parameters(rewritten(tiny, tmp_path / "data", kind), tmp_path)
    scale = {"objective": "graded", "similarity_low": 1, "similarity_high": 5}
    parameters |= scale if graded else {"objective": "ranking"}
    assert "go" in results(execute("01_preflight", tmp_path, parameters))["verdict"]
    trained = execute("02_train", tmp_path, parameters)
    assert ("0 similar, 0 dissimilar, 72 not labelled" in text(trained)) == graded
    own = results(trained)["validation"]
    assert {*own} == ({"pearson", "spearman", "mse"} if graded else set())
    assert ("validation_mse" in results(trained)["best"]) == graded
    for key, value in own.items():
        assert value == pytest.approx(results(trained)["best"][f"validation_{key}"], abs=1e-6)
    run = {"output_dir": parameters["output_dir"]}
    assert results(execute("03_resume", tmp_path, run | {"epochs": 3}))["epochs"] == 3
    page = execute("04_evaluate", tmp_path, run)
    found = results(page)
    assert (found["threshold"] is None) != graded and "nan" not in json.dumps(found).lower()
    begins = "By Pearson correlation (" if graded else "In retrieval (precision at 1: "
    assert found["verdict"].startswith(begins) and "bag alone" in found["verdict"]
    assert ("mse" in found["scores"]["this encoder"]) == graded == (not found["retrieval"])
    words = text(page) + "".join(o.get("data", {}).get("text/html", "") for o in outputs(page))
    words = re.sub(r"base64,[^'\"]*", "", words)
    assert "ROC-AUC" not in words and "Precision 0" not in words and "NaN" not in words
    assert "no threshold, ROC or confusion matrix" in text(page)


def test_the_preflight_page_gives_a_verdict_figures_and_estimates(tmp_path, parameters):
    page = execute("01_preflight", tmp_path, parameters | {"try_settings": True})
    found = results(page)
    assert found["verdict"] in ("go", "go with warnings") and not found["errors"]
    assert {"code", "level", "group", "found", "remedy"} == {*found["findings"][0]}
    assert {*found["tried"]["pairs_per_second"]} == {"8", "16", "32", "64"}  # of 72 pairs
    html = [str(output["data"].get("text/html")) for output in outputs(page) if "data" in output]
    assert not any("checking " in each for each in html)  # nobody waits
    assert "widget-view" not in json.dumps(page.cells)
    assert found["seconds_per_epoch"] > 0 and found["disk_bytes"] > 0 and found["peak_memory_bytes"] > 0
    assert any("<details" in str(output.get("data")) for output in outputs(page))
    assert any("image/png" in output.get("data", {}) for output in outputs(page))
    assert not (tmp_path / "run").exists()


def test_the_preflight_page_fails_on_a_no_go_after_recording_it(tmp_path, parameters):
    with pytest.raises(PapermillExecutionError, match="preflight says no-go"):
        execute("01_preflight", tmp_path, parameters | {"validation_dir": str(tmp_path / "nowhere")})
    page = nbformat.read(tmp_path / "01_preflight.ipynb", as_version=4)
    assert results(page)["verdict"] == "no-go" and "nowhere" in results(page)["errors"][0]


STOPPED = """
import time, treelstm
config = treelstm.Config(**{settings})
history = treelstm.train(config)
print(history.outcome, len(history.epochs) > 0)
"""


def test_the_stop_button_commits_stops_within_a_second_and_the_cell_goes_on_bit_identical(
    tiny, tmp_path
):
    manager, client = start_new_kernel()
    settings = tiny_config(tiny, tmp_path / "run", epochs=10_000).to_dict()
    said, pages = list[str](), list[str]()

    def hear(message: Any) -> None:
        said.append(message["content"].get("text", ""))
        pages.append(message["content"].get("data", {}).get("text/html", ""))
        if ">epoch</th>" in pages[-1] and not stopped:  # the live figure and the first epoch
            stopped.append(time.monotonic())
            client.execute(code, allow_stdin=True)  # Run was pressed twice
            manager.interrupt_kernel()  # what JupyterLab's stop button asks its server to do

    stopped: list[float] = []
    try:
        code = STOPPED.format(settings=settings)
        reply = client.execute_interactive(code, allow_stdin=True, timeout=120, output_hook=hear)
        took = time.monotonic() - stopped[0]
        assert reply["content"]["status"] == "ok" and took < 1.5
        assert "stopped by SIGINT True" in "".join(said)
        epochs = list_checkpoints(tmp_path / "run")[-1].epoch
        after = "print('the second one', 'trained' if history.resumed_at else 'did nothing')"
        client.execute_interactive(after, timeout=20, output_hook=hear)
        assert "the second one did nothing" in "".join(said)
        assert list_checkpoints(tmp_path / "run")[-1].epoch == epochs
        assert sum("<progress" in page for page in pages) and "" in pages[1:], "a bar, which is cleared"
        last = [page for page in pages if page][-1]
        assert "; best: epoch " in last and "<svg" in last, "the headline and the curve"
        assert last.count("<tr>") == 1 + list_checkpoints(tmp_path / "run")[-1].epochs_done
        client.execute_interactive("print('still alive')", timeout=10, output_hook=hear)
        assert "still alive" in said[-1] or "still alive" in "".join(said)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    newest = list_checkpoints(tmp_path / "run")[-1]
    epochs = newest.epoch + 1
    train(tiny_config(tiny, tmp_path / "run", epochs=epochs))
    train(tiny_config(tiny, tmp_path / "whole", epochs=epochs))
    assert_same_run(tmp_path / "whole", tmp_path / "run")


def test_the_page_that_compares_runs_shows_them_and_sets_two_side_by_side(tiny, tmp_path):
    directory = night_of_runs(tiny, tmp_path / "night")
    names = ["learning_rate=0.01,seed=1", "learning_rate=0.001,seed=3"]
    page = execute("05_compare", tmp_path, {"directory": str(directory), "runs": names})
    found = results(page)
    assert len(found["runs"]) == 7 and "7 runs: 6 finished, 1 damaged" in text(page)
    assert {name.partition("/")[0] for name in found["compared"]} == {*names}
    assert [*found["differences"]] == found["compared"][1:] and "72 pairs" in text(page)
    exported, _ = HTMLExporter().from_notebook_node(page)
    for name in names:
        assert f">{name.replace(',', ',<wbr/>')}</th>" in exported and f"{directory / name}" in exported
    assert exported.count(">chosen</td>") == 2 and "widget-view" not in json.dumps(page.cells)
    assert len(json.dumps(page)) < 2_000_000


def test_the_page_for_own_trees_compares_two_and_finds_the_nearest_of_a_file(trained, tmp_path):
    first, trees = {"verbo": {"radiko": "vid"}, "note": "<i>"}, tmp_path / "trees.jsonl"
    others = [{"verbo": {"radiko": verb}} for verb in ("dorm", "vid", "kur")]
    rows = [{"id": f"n{n}", "ast": ast} for n, ast in enumerate([*others, first])]
    trees.write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = {"output_dir": str(tmp_path / "run"), "trees": str(trees)}
    page = execute("06_use", tmp_path, given | {"first": json.dumps(first), "second": "n0"})
    found, encoder = results(page), load_encoder(tmp_path / "run" / "best_model.pt")
    assert found["distance"] == encoder.distance(first, others[0])
    assert found["similar"] == encoder.is_similar(first, others[0])
    assert "note=<i>" in found["unknown_symbols"] and found["epoch"] == 2
    assert [found["nearest"][0][name] for name in ("id", "distance")] == ["n3", 0]
    assert f"4 trees of {trees}; their encodings are kept in .trees.jsonl.vectors.pt" in text(page)
    html = "".join(output.get("data", {}).get("text/html", "") for output in outputs(page))
    assert html.count("<svg") == 2 and "<i>" not in html and "widget-view" not in json.dumps(page.cells)


@pytest.mark.long
@pytest.mark.parametrize("kind", ["none", "one", "damaged", "running"])
def test_the_page_that_compares_runs_says_what_it_cannot_compare_and_runs_through(tiny, tmp_path, kind):
    directory = tmp_path / "models"
    (directory / "run").mkdir(parents=True)
    with contextlib.ExitStack() as until_the_end:
        if kind == "damaged":
            (directory / "run" / "run.json").write_text("{")
        elif kind != "none":
            train(tiny_config(tiny, directory / "run", epochs=2))
        if kind == "running":
            until_the_end.enter_context(only_writer(directory / "run"))
        page = execute("05_compare", tmp_path, {"directory": str(directory)})
    assert "Nothing is compared: two to five encoders can be compared, not " in text(page)
    words = {"none": "No run is in ", "one": "1 run: 1 finished", "damaged": "1 damaged"}
    assert words.get(kind, "1 running now") in text(page)
    assert len(results(page)["runs"]) == (kind != "none") and results(page)["scores"] == {}
