"""The notebooks in a real JupyterLab and a real browser: run, stopped, reloaded, a checkpoint picked.

Screenshots of every test are written to .screenshots/.
"""

from __future__ import annotations

import importlib.util
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lab
import numpy as np
import pytest
from conftest import tiny_config
from lab import Page, until
from nbconvert import HTMLExporter
from nbformat import v4
from runs import assert_same_run, copy, night_of_runs

from treelstm import (
    Collection,
    list_checkpoints,
    list_runs,
    load_checkpoint,
    load_encoder,
    load_pairs,
    preflight,
    tables,
    train,
)
from treelstm.checks.report import as_html
from treelstm.evaluation import Retrieval, encoder_scorer
from treelstm.explanation import explain
from treelstm.run.lock import holder
from treelstm.widgets import checkpoints, monitor, own_trees, run_picker, sentences
from treelstm.widgets import pairs as browse
from treelstm.widgets.map import TreeMap
from treelstm.widgets.neighbours import neighbourhood

pytestmark = [
    pytest.mark.browser,
    pytest.mark.filterwarnings("default"),  # warnings of playwright and Jupyter are not ours
    pytest.mark.skipif(lab.missing() is not None, reason=str(lab.missing())),
]
ENDLESS = 100_000  # epochs


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("lab")


@pytest.fixture(scope="module")
def address(root: Path) -> Iterator[str]:
    with lab.jupyterlab(root) as address:
        yield address


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with lab.chromium() as browser:
        yield browser


@pytest.fixture
def parameters(tiny: Path, tmp_path: Path) -> dict[str, Any]:
    config = tiny_config(tiny, tmp_path / "run", epochs=3).to_dict()
    names = "data_dir validation_dir output_dir epochs batch_size embedding_dim hidden_dim output_dim"
    return {name: config[name] for name in names.split()}


@pytest.fixture(scope="module")
def four_epochs(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("picked") / "run"
    train(tiny_config(tiny, run, epochs=4))
    return run


@pytest.fixture
def opened(root: Path, address: str, browser: Any, request: Any) -> Iterator[Any]:
    """Opens a notebook with these parameters; takes a screenshot at the end, also of a failed test."""
    pages: list[Page] = []

    def open_page(name: str, parameters: dict[str, Any]) -> Page:
        lab.place(name, root, parameters)
        pages.append(Page(browser, address, name))
        return pages[-1]

    yield open_page
    for page in pages:
        page.screenshot(f"{request.node.name}-{page.name}")
        page.close()


def test_every_page_runs_from_top_to_bottom_and_shows_its_results(opened, parameters):
    # each page: its parameters, the least number of figures, and a pattern of its results
    pages = {
        "01_preflight": (parameters, 1, r'verdict"?\s*go'),
        "02_train": (parameters, 5, r'outcome"finished"\s*epochs3'),
        "03_resume": ({"output_dir": parameters["output_dir"], "epochs": 4}, 4, r"epochs4"),
        "04_evaluate": ({"output_dir": parameters["output_dir"]}, 8, r"By average precision"),
    }
    for name, (given, pictures, results) in pages.items():
        page = opened(name, given)
        page.run_all()
        page.finished()
        until(lambda page=page, seen=results: re.search(seen, page.outputs()), 10, results)
        until(lambda page=page, least=pictures: page.pictures() >= least, 10, f"{pictures} pictures")
        if name == "01_preflight":
            page.tab.get_by_role("button", name="Try learning rates").click()
            until(lambda page=page: "pairs per second" in page.outputs(), 60, "what was tried")
            until(lambda page=page: page.pictures() >= 2, 10, "the curve of learning rates")
        page.screenshot(f"page-{name}")
    # another checkpoint is chosen now, and the comparison alone is run again
    mine = re.search(r"this encoder: .*/(best_model\.pt, epoch \d)", page.outputs())[1]
    fold = page.cell('Folded("choose another one')
    fold.locator("summary").last.focus()  # the first is hidden: that of the plain form
    page.tab.keyboard.press("Enter")
    fold.locator('.treelstm-picker tr[data-path$="checkpoint_epoch_1.pt"]').click()
    cell = page.cell("side_by_side.scorer_on")
    before = cell.locator(".jp-InputPrompt").inner_text()
    cell.locator(".jp-InputArea-editor").click()
    page.tab.keyboard.press("Shift+Enter")
    until(lambda: cell.locator(".jp-InputPrompt").inner_text() not in (before, "[*]:"), 30, "its end")
    page.finished()
    assert cell.locator("th[scope=row]").first.inner_text() == mine
    page.screenshot("page-04_evaluate-compared")
    # of all pairs, those of a class; one of them is looked at
    cell = page.cell("PairBrowser(")
    cell.locator("select").select_option(label="dissimilar (48)")
    until(lambda: cell.locator("tr[data-path]").count() == 48, 10, "the dissimilar pairs")
    row = cell.locator("tr[data-path]").nth(3)
    row.click()
    words = "dissimilar, distance {2}: {3}{4}".format(*row.locator("td").all_inner_texts()).split()
    figure = cell.locator(".widget-html svg").first
    until(lambda: words[2] in str(figure.text_content()), 10, "the trees of the pair")
    shown = "".join(str(figure.text_content()).split())
    assert f"dissimilar,distance{words[2]}" in shown and words[-1] in shown
    page.screenshot("page-04_evaluate-pairs")
    first = page.tab.locator(".jp-OutputArea-output").first.inner_text()
    assert re.search(r"By average precision .*/best_model\.pt, epoch \d, on 72 pairs", first, re.DOTALL)
    a_sentence_is_chosen_and_all_follows(page)


def test_a_tree_is_typed_with_a_mistake_mended_compared_and_looked_for(opened, four_epochs):
    page = opened("06_use", {"output_dir": str(four_epochs)})
    page.run_all()
    page.finished()
    form = page.cell("comparison_form(encoder")
    area, verdict = form.locator("textarea").first, form.locator(".treelstm-found b").first
    until(lambda: "threshold" in verdict.inner_text(), 10, "the verdict of the pair that is there")
    area.fill('{"verbo": {"radiko": "vid"},\n oops}')
    said = form.locator(".treelstm-said").first
    until(lambda: "line 2 column 2" in said.inner_text(), 10, "what is wrong, and where")
    assert area.get_attribute("aria-invalid") == "true" and verdict.count() == 0
    page.screenshot("page-06_use-wrong")
    area.fill('{"verbo": {"radiko": "<b>vid"}}')
    form.get_by_role("button", name="compare").click()
    until(lambda: verdict.count() and "distance" in verdict.inner_text(), 10, "the verdict")
    assert said.inner_text() == "" and "radiko=<b>vid" in form.inner_text()
    search = page.cell("TreeSearch(collection")
    name = search.get_by_role("combobox").input_value()
    search.get_by_role("combobox").click()
    search.get_by_role("option").nth(7).click()
    until(lambda: search.get_by_role("combobox").input_value() != name, 10, "another sentence")
    chosen = search.get_by_role("combobox").input_value()
    until(
        lambda: f"nearest to: {chosen.partition(' (')[0]}" in search.inner_text(), 10, "its neighbours"
    )


def a_sentence_is_chosen_and_all_follows(page: Page) -> None:
    """By words, on the map by mouse and by keys, and from the table below it; in the dark, 1000 wide."""
    tab, follower = page.tab, page.cell("neighbours.neighbourhood(")
    tab.set_viewport_size({"width": 1000, "height": 1000})
    tab.evaluate("jupyterapp.commands.execute('application:toggle-left-area')")
    tab.evaluate("jupyterapp.commands.execute('apputils:change-theme', {theme: 'JupyterLab Dark'})")
    search, of_map = tab.get_by_role("combobox", name="sentence"), tab.locator(".treelstm-map")
    looked_at, canvas = of_map.locator(".treelstm-tree b"), of_map.locator("canvas")

    def followed(sentence: str) -> None:
        until(lambda: f"nearest to: {sentence}\n" in follower.inner_text(), 20, "the neighbours")
        assert search.input_value() == sentence

    search.click()
    options = tab.locator(".treelstm-choice").get_by_role("option")
    count = options.count()
    wanted = options.nth(5).inner_text()
    first_word, *_, last = wanted.lower().split()
    search.fill(f"{last} {first_word}")  # in any order
    found = options.count()
    said = f"{found} of {count} match"
    assert 0 < found < count and said in tab.locator(".treelstm-choice").inner_text()
    tab.keyboard.press("Escape")
    search.fill(wanted)
    tab.keyboard.press("Enter")
    followed(wanted)
    until(lambda: looked_at.inner_text() == wanted, 10, "the map to follow")

    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    x, y, width, height = (box[side] for side in ("x", "y", "width", "height"))
    for k in range(60):  # until it hits a point
        tab.mouse.move(x + width * (0.2 + 0.01 * k), y + height / 2)
        if looked_at.inner_text() != wanted:
            break
    until(lambda: "\n  " in of_map.locator("pre").inner_text(), 10, "the tree's drawing")
    tab.mouse.down()
    tab.mouse.up()
    followed(looked_at.inner_text())
    for key in ("ArrowRight", "ArrowLeft", "ArrowUp", "+", "0", "Enter"):
        tab.keyboard.press(key)
    followed(looked_at.inner_text())

    tab.mouse.move(x + 2, y + 2)
    tab.mouse.down()
    for right, down in ((0.99, 0.01), (0.99, 0.99), (0.01, 0.99)):
        tab.mouse.move(x + width * right, y + height * down, steps=3)
    tab.mouse.up()
    table = of_map.locator(".treelstm-inside")
    assert f"{count} trees inside the line" in table.inner_text()
    chosen = table.get_by_role("button").nth(3)
    sentence = chosen.inner_text()
    chosen.click()
    followed(sentence)
    of_map.get_by_label("search:").fill(sentence)
    of_map.get_by_text(re.compile(r"^\d+ found$")).wait_for()
    of_map.get_by_label("colour:").select_option("key radiko")
    of_map.get_by_role("button", name=re.compile(r"other values \(\d+\)")).wait_for()
    page.screenshot("page-04_evaluate-map")
    time.sleep(1)  # the time that a theme's colours take
    assert tab.evaluate(_FAINT) == [] and tab.evaluate(_TOO_WIDE) == []
    tab.evaluate("jupyterapp.commands.execute('apputils:change-theme', {theme: 'JupyterLab Light'})")
    time.sleep(1)
    assert tab.evaluate(_FAINT) == []


# Texts in widgets and tables with less contrast than WCAG 2.1 asks for at level AA.
_FAINT = """() => {
    const numbers = color => [...color.match(/[\\d.]+/g).map(Number), 1].slice(0, 4);
    const over = (top, below) => below.map((value, i) => top[i] * top[3] + value * (1 - top[3]));
    const behind = each => {
        const color = numbers(getComputedStyle(each).backgroundColor);
        if (color[3] === 1 || !each.parentElement) return color.slice(0, 3);
        return over(color, behind(each.parentElement));
    };
    const light = color => {
        const [r, g, b] = color.map(value => value / 255)
            .map(value => value <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b + 0.05;
    };
    const widgets = '.treelstm-picker *, .treelstm-map *, .treelstm-choice *';
    const texts = `${widgets}, .jp-OutputArea-output :is(th, td, p, button, text)`;
    return [...document.querySelectorAll(texts)]
        .filter(each => each.checkVisibility() && !each.matches('svg, svg :not(text)'))
        .filter(each => each.textContent.trim() || each.matches('textarea, input:not([type=checkbox])'))
        .map(each => {
            const ink = getComputedStyle(each)[each.matches('text') ? 'fill' : 'color'];
            const below = behind(each), of = [over(numbers(ink), below), below];
            const [low, high] = of.map(light).sort((a, b) => a - b);
            return [high / low, each.outerHTML.slice(0, 80)];
        })
        .filter(([ratio]) => ratio < 4.5);
}"""
_TOO_WIDE = """() => [...document.querySelectorAll('.jp-OutputArea-output')]
    .filter(each => each.scrollWidth > each.clientWidth + 1).map(each => each.innerText)"""


def selected(page: Page) -> list[str]:
    rows = page.tab.locator('.treelstm-picker tr[aria-selected="true"]')
    return [Path(row.get_attribute("data-path")).name for row in rows.all()]


def shown_epochs(page: Page) -> list[int]:
    cells = page.tab.locator(".treelstm-picker tbody tr td:first-child").all_inner_texts()
    return [int(cell.split()[0]) for cell in cells]


def mark(page: Page) -> float:
    return float(page.tab.locator(".treelstm-mark").first.bounding_box()["x"])


@pytest.fixture
def picking(opened, four_epochs, tmp_path) -> tuple[Page, Path]:
    """The resume page of a run of four epochs whose third checkpoint is damaged."""
    run = copy(four_epochs, tmp_path / "run")
    (run / "checkpoint_epoch_3.pt").write_bytes(b"torn")
    page = opened("03_resume", {"output_dir": str(run), "epochs": 4})
    page.run_all()
    page.finished()
    page.tab.get_by_text("damaged", exact=True).wait_for()
    return page, run


def test_a_checkpoint_is_picked_by_mouse_and_training_goes_on_from_it(picking, four_epochs):
    page, run = picking
    assert selected(page) == ["checkpoint_epoch_4.pt"] and shown_epochs(page) == [4, 3, 2, 1]
    page.tab.get_by_role("button", name="epoch", exact=True).click()
    assert shown_epochs(page) == [1, 2, 3, 4]
    page.tab.get_by_role("button", name="valid. loss").click()
    losses = page.tab.locator(".treelstm-picker tbody tr td:nth-child(4)").all_inner_texts()
    assert losses == [*sorted(filter(None, losses)), ""]
    page.tab.locator("tr.treelstm-damaged").click(force=True)  # the row is disabled
    assert selected(page) == ["checkpoint_epoch_4.pt"]
    was = mark(page)
    page.tab.locator('tr[data-path$="checkpoint_epoch_2.pt"]').click()
    assert selected(page) == ["checkpoint_epoch_2.pt"] and mark(page) < was - 20
    for theme in ("Light", "Dark"):
        page.theme(theme)
        assert page.tab.evaluate(_FAINT) == [], theme
    details = page.tab.locator(".treelstm-details").inner_text()
    assert "sets aside 2 later checkpoints (checkpoint_epoch_3.pt to checkpoint_epoch_4.pt" in details
    assert "hidden_dim=12" in details
    page.screenshot("picker")
    assert "Nothing is trained yet. The run has its 4 epochs: set a larger" in page.outputs()
    page.run_from("treelstm.train(")
    until(lambda: "checkpoint_epoch_2.pt: epoch 2, step 5 of 5" in page.outputs(), 60, "the resumption")
    page.finished()
    assert (run / "superseded" / "checkpoint_epoch_4.pt").is_file()
    page.run_from("treelstm.train(")
    until(lambda: "The choice has been used" in page.outputs(), 60, "the second run of the cell")
    page.finished()
    assert_same_run(four_epochs, run)


def test_a_checkpoint_is_picked_by_keyboard_and_its_page_is_whole_without_its_kernel(
    picking, four_epochs, root
):
    page, run = picking
    page.tab.locator('.treelstm-picker tr[aria-selected="true"]').focus()
    page.tab.keyboard.press("ArrowDown")  # skips the damaged checkpoint
    assert selected(page) == ["checkpoint_epoch_2.pt"]
    page.tab.keyboard.press("End")
    assert selected(page) == ["checkpoint_epoch_1.pt"]
    page.tab.keyboard.press("ArrowUp")
    page.tab.keyboard.press("Home")
    assert selected(page) == ["checkpoint_epoch_4.pt"]
    page.tab.keyboard.press("End")
    page.tab.locator(".treelstm-picker th button").first.focus()
    page.tab.keyboard.press("Enter")
    assert shown_epochs(page) == [1, 2, 3, 4] and selected(page) == ["checkpoint_epoch_1.pt"]
    page.run_from("treelstm.train(")
    until(lambda: "checkpoint_epoch_1.pt: epoch 1, step 5 of 5" in page.outputs(), 60, "the resumption")
    page.finished()
    assert_same_run(four_epochs, run)
    assert_only_plain_forms_show_without_the_kernel(page, root)


def assert_only_plain_forms_show_without_the_kernel(page: Page, root: Path) -> None:
    """Of the resume page the run's state and the picker: kernel restarted, reopened, exported."""
    saved, widgets = (
        page.tab.locator(".treelstm-saved"),
        ".widget-html, .treelstm-picker, .jupyter-widgets",
    )
    living = page.tab.locator(f":is({widgets}):visible")
    assert saved.count() == 2 and not saved.first.is_visible() and living.count() == 2
    until(lambda: page.tab.locator(".jp-mod-dirty").count() == 0, 30, "the page's autosave")
    page.tab.evaluate("void jupyterapp.commands.execute('kernelmenu:restart')")
    page.tab.get_by_role("button", name="Confirm Kernel Restart").click()
    for how in ("restarted", "reopened"):
        if how == "reopened":
            page.open(reset=False)
        until(lambda: saved.last.is_visible() and not living.count(), 30, f"the plain forms, {how}")
        assert saved.first.is_visible() and "is finished: epoch 4" in saved.first.inner_text()
        assert page.tab.locator(".treelstm-saved svg[role=img]:visible").count() == 1
        assert (
            "checkpoint_epoch_1.pt" in saved.last.inner_text() and "verified" in saved.last.inner_text()
        )
        page.screenshot(f"picker-{how}")
    exported, _ = HTMLExporter().from_filename(root / "03_resume.ipynb")
    assert " object at 0x" not in exported and exported.count('class="treelstm-saved"') == 2


def ended_like_an_undisturbed_run(tiny: Path, run: Path, work: Path) -> None:
    epochs = list_checkpoints(run)[-1].epoch + 1
    train(tiny_config(tiny, run, epochs=epochs))
    train(tiny_config(tiny, work / "undisturbed", epochs=epochs))
    assert_same_run(work / "undisturbed", run)


def test_the_stop_button_commits_and_running_the_cell_again_goes_on(
    opened, parameters, tiny, tmp_path, root
):
    run = tmp_path / "run"
    page = opened("02_train", parameters | {"epochs": ENDLESS})
    page.run_all()
    training = page.cell("treelstm.train(")
    reached = 0
    for again in (False, True):
        if again:
            page.run_from("treelstm.train(")
        until(lambda: training.locator(".treelstm-live svg").count() == 2, 60, "the live figure")
        until(lambda least=reached: _epochs(run) > least + 5, 60, "some epochs")
        assert not holder(run).is_this_process
        page.screenshot(f"training-{again}")
        began = time.monotonic()
        page.stop()
        until(lambda: "stopped by you (stop button" in training.inner_text(), 30, "the end")
        assert time.monotonic() - began < 2.5  # the click, one step, one commit, and the page shows it
        page.finished()
        assert _epochs(run) > reached and "SIGINT" not in training.inner_text()
        reached = _epochs(run)
    assert training.locator(".treelstm-live").count() == 1 and not training.locator("progress").count()
    shown, done = training.locator(".treelstm-epochs tr"), list_checkpoints(run)[-1].epochs_done
    assert shown.count() == 1 + min(done, 201) and shown.nth(1).inner_text().startswith(str(done))
    assert " left" not in training.inner_text() and "; best: epoch " in training.inner_text()
    for _ in range(2):  # Run is pressed twice
        training.locator(".jp-InputArea-editor").click()
        page.tab.keyboard.press("Shift+Enter")
    until(lambda: _epochs(run) > reached, 60, "an epoch")
    page.stop()
    until(lambda: "Nothing was trained: " in training.inner_text(), 30, "the end of both")
    page.screenshot("training-twice")
    page.cell("epochs = ").locator(".jp-InputArea-editor").click()
    page.tab.keyboard.press("Control+End")
    page.tab.keyboard.type("\nmargin = 2.0")
    page.tab.keyboard.press("Shift+Enter")
    page.run_from("treelstm.train(")
    until(lambda: "margin was 1.0, is 2.0 now" in page.errors(), 30, "the refusal of old settings")
    page.screenshot("training-stale")
    until(lambda: page.tab.locator(".jp-mod-dirty").count() == 0, 30, "the page's autosave")
    assert (root / "02_train.ipynb").stat().st_size < 500_000
    ended_like_an_undisturbed_run(tiny, run, tmp_path)


def _epochs(run: Path) -> int:
    checkpoints = list_checkpoints(run)
    return checkpoints[-1].epoch if checkpoints else 0


def test_a_page_reloaded_in_mid_training_loses_nothing_and_another_page_follows_the_run(
    opened, parameters, tiny, tmp_path
):
    run = tmp_path / "run"
    follower = opened("03_resume", {"output_dir": str(run), "epochs": ENDLESS})
    page = opened("02_train", parameters | {"epochs": ENDLESS})
    page.run_all()
    until(lambda: _epochs(run) > 3, 60, "some epochs")
    kernel = page.kernel()
    page.open(reset=False)
    assert page.kernel()["id"] == kernel["id"] and holder(run) is not None

    follower.run_all()
    words = follower.cell("RunMonitor").locator(".widget-html")
    words.get_by_text(re.compile("is being trained by process")).wait_for()
    before = _committed(words.inner_text())
    until(lambda: _committed(words.inner_text()) > before, 30, "the page to follow the run")
    said = "Nothing is trained yet. To go on from checkpoint_epoch_"
    until(lambda: said in follower.outputs(), 60, "the page's stop at the choice")
    follower.run_from("treelstm.train(")
    until(lambda: "RunInUse" in follower.errors(), 60, "the refusal to train beside another process")
    assert "RunInUse" in follower.outputs()
    follower.screenshot("following")

    page.stop()  # in the reloaded page
    until(lambda: holder(run) is None, 30, "the end of the training")
    words.get_by_text(re.compile("is stopped by you")).wait_for()
    assert load_checkpoint(list_checkpoints(run)[-1].path)["history"]
    ended_like_an_undisturbed_run(tiny, run, tmp_path)


@pytest.mark.long
@pytest.mark.parametrize("package", ["jupyter_server_nbmodel", "jupyter_server_documents"])
def test_a_page_reloaded_in_mid_training_still_runs_where_the_server_runs_the_cells(
    opened, parameters, tiny, tmp_path, package
):
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed; it changes JupyterLab, see docs/training-guide.md")
    run = tmp_path / "run"
    page = opened("02_train", parameters | {"epochs": ENDLESS})
    page.run_all()
    until(lambda: _epochs(run) > 3, 90, "some epochs")
    page.open(reset=False)
    training = page.cell("treelstm.train(")
    until(lambda: training.locator(".jp-InputPrompt").inner_text() == "[*]:", 30, "the running cell")
    until(lambda: "starting from scratch" in training.inner_text(), 30, "what it printed before")
    page.screenshot(package)
    page.stop()
    until(lambda: holder(run) is None, 30, "the end of the training")
    page.finished()
    ended_like_an_undisturbed_run(tiny, run, tmp_path)


def _committed(words: str) -> tuple[int, int]:
    found = re.search(r"newest commit: epoch (\d+)(?:, step (\d+))?", words)
    assert found, words
    return int(found[1]), int(found[2] or 1_000)


# Would run, become a formula, or be read as markup, wherever a page takes text for more than text.
NAME = r"$5 and $6 <img src=x onerror=window.hit=1> &lt; `b` **c** \(d\)"
SENTENCE = rf"{NAME} <script>window.hit=1</script> \begin{{equation}} e \end{{equation}}"


def hostile_run(tiny: Path, work: Path) -> Path:
    """A run whose sentences, nodes, roles, paths, settings and one checkpoint try to be markup."""
    work = work / NAME
    for source in tiny.glob("*/*.jsonl"):
        records = [json.loads(line) for line in source.read_text(encoding="utf-8").splitlines()]
        for record in records:
            for tree in (record["ast1"], record["ast2"]):
                tree["sentence"] = f"{SENTENCE} {tree['sentence']}"
                tree["ast"] |= {"radiko": SENTENCE, SENTENCE: {"radiko": SENTENCE}}
        target = work / source.parent.name / source.name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    train(tiny_config(work, work / "run", epochs=2))
    (work / f"{NAME}.pt").write_bytes((work / "run" / "checkpoint_epoch_1.pt").read_bytes())
    (work / "run" / "checkpoint_epoch_1.pt").write_bytes(b"torn")
    return work / "run"


def assert_text_is_text(page: Page, *texts: str) -> None:
    outputs = " ".join(page.outputs().split())
    for text in texts:
        assert text in outputs, outputs
    assert page.tab.evaluate("window.hit") is None
    formulas = page.tab.locator("mjx-container").all()
    assert not formulas, formulas[0].locator("xpath=..").evaluate("each => each.outerHTML")
    assert page.tab.locator('.jp-OutputArea-output img[src="x"]').count() == 0


def test_text_of_data_settings_and_paths_is_never_markup_in_any_page(opened, tiny, tmp_path):
    run = hostile_run(tiny, tmp_path)
    config = tiny_config(run.parent, run, epochs=2).to_dict()
    names = "data_dir validation_dir epochs batch_size embedding_dim hidden_dim output_dim"
    pages = {
        "01_preflight": {name: config[name] for name in names.split()},
        "03_resume": {"epochs": 2},
        "04_evaluate": {"checkpoint": str(run.parent / f"{NAME}.pt")},
    }
    for name, given in pages.items():
        page = opened(name, {"output_dir": str(run)} | given)
        page.run_all()
        page.finished()
        assert_text_is_text(page, NAME, *[SENTENCE] * (name == "04_evaluate"))
        page.tab.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
        if name != "01_preflight":
            page.tab.get_by_text("damaged", exact=True).first.click(force=True)
            for row in page.tab.locator("[aria-label=checkpoints] tr[data-path]").all():
                row.click(force=True)
            assert "$5 and $6 <img " in page.tab.locator(".treelstm-details").first.inner_text()
        assert_text_is_text(page, NAME)


def test_text_is_never_markup_in_a_page_that_was_executed_and_saved(
    root, address, browser, tiny, tmp_path
):
    run = hostile_run(tiny, tmp_path)
    pairs, half = load_pairs(run.parent / "validation"), {1: 0.5}
    encoder = load_encoder(run / "best_model.pt")
    scorer, choice = encoder_scorer(encoder, pairs), sentences.TreeChoice(pairs)
    report = preflight(tiny_config(run.parent, run, data_dir=str(run.parent / SENTENCE)), quick=True)
    parts = [
        checkpoints.model_picker(run, run.parent / f"{NAME}.pt").night_form(),
        checkpoints.resume_picker(run, "auto").night_form(),
        monitor.RunMonitor(run).night_form(),
        run_picker.RunPicker(list_runs(run.parent.parent)).night_form(),
        choice.night_form(),
        TreeMap(scorer, pairs, choice).night_form(),
        neighbourhood(choice, scorer, pairs).night_form(),
        tables.folded(SENTENCE, "").data,
        tables.score_table({NAME: {"spearman": (0.5, 0.4, 0.6)}}, {}).data,
        tables.retrieval_table({NAME: Retrieval(9, 9, half, half, 0.1, 0.5, np.ones(9, bool))}).data,
        tables.explanation_table(explain(encoder, pairs.forest, [0, 1])).data,
        own_trees.TreeSearch(Collection.of_pairs(pairs, encoder), NAME).night_form(),
        browse.PairBrowser(scorer, pairs).night_form(),
        as_html(report),
    ]
    cells = [v4.new_code_cell("from IPython.display import HTML, display")]
    cells += [v4.new_code_cell(f"display(HTML({part!r}))") for part in parts]
    saved = [v4.new_output("display_data", {"text/html": part}) for part in parts]
    cells.append(v4.new_code_cell("1", outputs=saved))
    (root / "saved.ipynb").write_text(json.dumps(v4.new_notebook(cells=cells)))
    page = Page(browser, address, "saved")
    try:
        time.sleep(1)  # the time that a script or a formula would take
        assert_text_is_text(page, NAME, SENTENCE)
        page.run_all()  # now the page is trusted
        page.finished()
        assert_text_is_text(page, NAME, SENTENCE)
    finally:
        page.screenshot("saved")
        page.close()


def test_runs_are_sorted_filtered_compared_and_noted_on(opened, root, tiny, tmp_path):
    directory = night_of_runs(tiny, tmp_path / "night")
    page = opened("05_compare", {"directory": str(directory)})
    tab, broken = page.tab, page.tab.locator('tr[data-path="broken"]')
    page.run_all()
    page.finished()
    line = tab.locator(".treelstm-picker tbody tr:visible")
    bar = tab.locator(".treelstm-bar")

    def names() -> list[str]:
        return [str(each.get_attribute("data-path")) for each in line.all()]

    def compared() -> list[str]:
        rows = tab.locator(".treelstm-picker [aria-selected=true]").all()
        return [str(row.get_attribute("data-path")) for row in rows]

    assert len(names()) == 7 and names()[-1] == "broken" and broken.locator("input").is_disabled()
    assert {name.partition(",")[0] for name in compared()} == {
        "learning_rate=0.01",
        "learning_rate=0.001",
    }
    tab.get_by_role("button", name="seed", exact=True).click()
    assert [name[-1] for name in names()] == [*"112233", "n"]
    tab.get_by_label("filter learning_rate").fill("< 0.01")
    tab.get_by_label("filter seed").fill(">=2")
    assert names() == ["learning_rate=0.001,seed=2", "learning_rate=0.001,seed=3"]
    bar.get_by_text("copy as CSV").click()
    tab.context.grant_permissions(["clipboard-read"])
    csv = tab.evaluate("navigator.clipboard.readText()").splitlines()
    assert csv[0].startswith("run,average precision,state,learning_rate,seed,") and len(csv) == 3
    assert re.match(r'"learning_rate=0.001,seed=2",0\.\d{5,},finished,0.001,2,2,2,', csv[1])
    tab.get_by_label("filter learning_rate").fill("")
    tab.get_by_label("filter seed").fill("")
    tab.get_by_label("search all columns").fill("DAMAGED")
    assert names() == ["broken"] and "1 of 7 shown; 2 chosen" in bar.inner_text()
    tab.get_by_label("search all columns").fill("")

    for name in compared():  # by mouse; then two by keys
        tab.get_by_label(f"compare {name}").click()
    assert compared() == []
    line.nth(0).click()
    for key in ("Space", "ArrowDown", "ArrowDown", "Space"):
        tab.keyboard.press(key)
    assert compared() == ["learning_rate=0.01,seed=1", "learning_rate=0.01,seed=2"]
    for number in (1, 3, 4, 5):
        line.nth(number).locator("input").click()
    assert len(compared()) == 5 and "at most 5" in bar.inner_text()
    for number in (1, 3, 4):
        line.nth(number).locator("input").click()
    page.run_from("run_picker.compared(")
    page.finished()
    table = page.cell("run_picker.compared(").inner_text()
    assert "seed=1" in table and "difference to" in table and "0.001" not in table

    line.nth(0).click()
    details, note = tab.locator(".treelstm-details"), directory / names()[0] / "notes.md"
    assert f"output_dir = '{directory / names()[0]}'" in details.inner_text()
    details.locator("textarea").fill(NAME)
    details.get_by_text("save the note").click()
    details.get_by_text("Saved in notes.md.").wait_for()
    assert note.read_text() == NAME and NAME in line.nth(0).inner_text()
    assert_text_is_text(page)
    note.write_text("another page wrote this")
    details.locator("textarea").fill("")
    details.locator("textarea").press_sequentially("mine")  # m would make a cell Markdown
    details.get_by_text("save the note").click()
    details.get_by_text("is now: another page wrote this").wait_for()
    assert (
        note.read_text() == "another page wrote this"
        and details.locator("textarea").input_value() == "mine"
    )
    details.get_by_text("save the note").click()
    details.get_by_text("Saved in notes.md.").wait_for()
    assert note.read_text() == "mine"

    broken.click()
    tab.set_viewport_size({"width": 1000, "height": 1000})
    tab.evaluate("jupyterapp.commands.execute('application:toggle-left-area')")
    for theme in ("Light", "Dark"):
        page.theme(theme)
        page.screenshot(f"runs-{theme}")
        assert tab.evaluate(_FAINT) == [], theme
    assert tab.evaluate(_TOO_WIDE) == []
    tab.keyboard.press("Control+s")
    until(lambda: b"image/png" in (root / "05_compare.ipynb").read_bytes(), 30, "the page to be saved")
    exported, _ = HTMLExporter().from_filename(root / "05_compare.ipynb")
    assert exported.count(">chosen</td>") == 2 and " object at 0x" not in exported
    assert ">learning_rate=0.001,<wbr/>seed=3</th>" in exported
