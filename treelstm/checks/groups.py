"""`preflight`: finds every problem before training starts, group by group.

Each check is a function from the settings (and what earlier groups loaded) to findings. One that fails
is a finding itself, and ends no other.
"""

import re
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

from tqdm import tqdm

from treelstm.checks import data, directory, environment, keys, trial
from treelstm.checks.report import CHECK_FAILED, ERROR, Check, Finding, Report, as_html
from treelstm.config import Config, ConfigError, require_config
from treelstm.data.load import TooFewPairs, every_pair, load_corpus
from treelstm.data.pairs import Corpus
from treelstm.data.problems import DataError
from treelstm.data.survey import survey
from treelstm.errors import UserError
from treelstm.neutral import TorchChanged, neutral_torch
from treelstm.process import (
    OutOfMemory,
    default_threads,
    memory_errors_explained,
    set_for_training,
)
from treelstm.progress import in_notebook, is_interactive
from treelstm.run.lock import RunInUse
from treelstm.run.state import SettingsChanged
from treelstm.sealed import CheckpointError

_PACKAGE = Path(__file__).parent.parent
_OF_FAILED_CHECK = (
    "What it looks for is not known, and training may fail in the same way: correct the cause, or train "
    "all the same with ignore_preflight=True"
)
_CODES: dict[type[Exception], str] = {  # of errors that say themselves what to do
    DataError: "data.unusable",
    RunInUse: "output.in-use",
    CheckpointError: "checkpoint.unusable",
    SettingsChanged: "settings.refused",
    ConfigError: "settings.refused",
    TorchChanged: "environment.torch-changed",
    OutOfMemory: "memory.used-up",
    UserError: "preflight.refused",
}


def preflight(config: Config, quick: bool = False) -> Report:
    """Checks everything a run needs, and reports instead of raising, whatever goes wrong.

    `quick` takes under a second: no data is read, nothing is trained. Otherwise a person who watches a
    notebook or a terminal sees what is being checked.
    """
    require_config(config)
    report = Report(config)
    with ExitStack() as until_all_is_checked:
        _check(report, quick, until_all_is_checked)
    return report


def _check(report: Report, quick: bool, until_all_is_checked: ExitStack) -> None:
    config, enter = report.config, until_all_is_checked.enter_context
    show = enter(_sign_of_life(report, quick))
    corpus: Corpus | None = None

    def add(group: str, check: Check) -> None:
        found = report.findings.setdefault(group, [])
        show(group if _name(check) == group.lower() else f"{group}: {_name(check)}")
        try:
            with memory_errors_explained():
                result = check()
                for each in [result] if isinstance(result, Finding) else result:
                    if isinstance(each, Finding):
                        found.append(each)
                    else:
                        add(group, each)
        except Exception as error:
            found.extend(_failures(error, check))

    def neutral() -> Iterable[Finding]:
        enter(neutral_torch())
        return ()

    def threads() -> Iterable[Finding]:
        enter(set_for_training(config.num_threads or default_threads(config.shards)))
        return ()

    def reading() -> Iterator[Finding | Check]:
        nonlocal corpus
        try:
            corpus = load_corpus(config)
        except TooFewPairs:  # what their trees look like can be said all the same
            yield from keys.token_lists(survey(every_pair(config.data_path, config)))
            raise
        report.pairs = corpus.training
        yield partial(data.data_content, config, corpus)

    add("Dependencies", neutral)
    add("Dependencies", partial(environment.dependencies, config))
    add("Data files", partial(data.data_files, config, config.data_path, "data_dir"))
    if config.validation_path is not None:
        add("Data files", partial(data.data_files, config, config.validation_path, "validation_dir"))
    if not quick and report.can_go_on:
        add("Data content", reading)
    add("Output directory", partial(directory.output_directory, config, corpus))
    if corpus is None:
        return
    trained = replace(config, start_from=None) if directory.resumes(config) else config  # ignored then
    add("Batches", threads)
    add("Batches", partial(trial.batches, config, corpus))
    add("Model", partial(trial.model, trained, corpus))
    if report.can_go_on and max(config.processes, config.shards) > 1:
        add("Processes", partial(trial.processes, trained, corpus))
    if report.can_go_on:
        add("Resources", partial(trial.resources, trained, corpus, report))
    if report.can_go_on:
        add("Determinism", partial(trial.determinism, trained, corpus))


@contextmanager
def _sign_of_life(report: Report, quick: bool) -> Iterator[Callable[[str], None]]:
    """What shows a person who waits what is being checked, and on a page the groups so far."""
    if quick or not is_interactive():
        yield lambda now: None
    elif in_notebook():
        from IPython.display import HTML, display

        place = display(HTML(as_html(report, "what there is")), display_id=True)
        try:
            yield lambda now: place.update(HTML(as_html(report, now)))
        finally:
            place.update(HTML(""))
    else:
        with tqdm(bar_format="{elapsed} {desc}", leave=False) as line:
            yield line.set_description_str


def _name(check: Check) -> str:
    """The name of a check's function, in words."""
    name: str = getattr(check, "func", check).__name__
    return name.strip("_").replace("_", " ")


def _failures(error: Exception, check: Check) -> Iterator[Finding]:
    """Whatever went wrong, a finding that names it is of more use than a traceback."""
    code = next((code for kind, code in _CODES.items() if isinstance(error, kind)), CHECK_FAILED)
    if isinstance(error, DataError):
        for problem in error.problems.shown:
            yield Finding(code, ERROR, problem.found, problem.remedy)
        if error.problems.more:
            yield Finding(code, ERROR, error.problems.more, "Correct those above, then check again")
    elif isinstance(error, UserError):
        found, *remedy = re.split(r"\.\s", str(error).removesuffix("."), maxsplit=1)
        yield Finding(code, ERROR, found, *remedy)
    else:
        frames = traceback.extract_tb(error.__traceback__)
        ours = [frame for frame in frames if Path(frame.filename).is_relative_to(_PACKAGE)]
        where = f"{Path(ours[-1].filename).relative_to(_PACKAGE.parent)}, line {ours[-1].lineno}"
        text = f'the check "{_name(check)}" failed with {type(error).__name__}: {error} ({where})'
        yield Finding(code, ERROR, text, _OF_FAILED_CHECK)
