"""`preflight`: finds every problem before training starts, group by group.

Each check is a function from the settings (and what earlier groups loaded) to findings.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace

from treelstm.checks import data, directory, environment, keys, trial
from treelstm.checks.report import ERROR, Finding, Report
from treelstm.config import Config, require_config
from treelstm.data.load import TooFewPairs, every_pair, load_corpus
from treelstm.data.pairs import Corpus
from treelstm.data.problems import DataError
from treelstm.data.survey import survey
from treelstm.errors import UserError
from treelstm.neutral import neutral_torch
from treelstm.process import default_threads, memory_errors_explained, set_for_training
from treelstm.run.directory import list_checkpoints


def preflight(config: Config, quick: bool = False) -> Report:
    """Checks everything a run needs, and reports instead of raising, whatever goes wrong.

    `quick` takes under a second: no data is read, nothing is trained.
    """
    require_config(config)
    report = Report(config)

    try:
        with neutral_torch():
            _check(report, quick)
    except Exception as error:
        report.findings.setdefault("Dependencies", []).extend(_failures(error))
    return report


def _failures(error: Exception) -> Iterator[Finding]:
    """Whatever went wrong, a report that names it is of more use than a traceback."""
    if isinstance(error, DataError):
        for problem in error.problems.shown:
            yield Finding(ERROR, problem.found, problem.remedy)
        if error.problems.more:
            yield Finding(ERROR, error.problems.more, "Correct those above, then check again")
    elif isinstance(error, UserError):
        found, *remedy = re.split(r"\.\s", str(error).removesuffix("."), maxsplit=1)
        yield Finding(ERROR, found, *remedy)
    else:
        text = f"a check failed with {type(error).__name__}: {error}"
        yield Finding(ERROR, text, "Training would fail in the same way: correct its cause")


def _check(report: Report, quick: bool) -> None:
    config = report.config
    corpus: Corpus | None = None

    def add(group: str, findings: Iterable[Finding]) -> None:
        found = report.findings.setdefault(group, [])
        try:
            with memory_errors_explained():
                found.extend(findings)
        except Exception as error:
            found.extend(_failures(error))

    def read() -> Iterator[Finding]:
        nonlocal corpus
        try:
            corpus = load_corpus(config)
        except TooFewPairs:  # what their trees look like can be said all the same
            yield from keys.token_lists(survey(every_pair(config.data_path, config)))
            raise
        report.pairs = corpus.training
        yield from data.data_content(config, corpus)

    add("Dependencies", environment.dependencies(config))
    add("Data files", data.data_files(config, config.data_path, "data_dir"))
    if config.validation_path is not None:
        add("Data files", data.data_files(config, config.validation_path, "validation_dir"))
    if not quick and not report.count(ERROR):
        add("Data content", read())
    add("Output directory", directory.output_directory(config, corpus))
    if corpus is None:
        return
    resuming = config.resume is not None and bool(list_checkpoints(config.output_path))
    trained = replace(config, start_from=None) if resuming else config  # ignored on resume
    with set_for_training(config.num_threads or default_threads(config.shards)):
        add("Batches", trial.batches(config, corpus))
        add("Model", trial.model(trained, corpus))
        if not report.count(ERROR) and max(config.processes, config.shards) > 1:
            add("Processes", trial.processes(trained, corpus))
        if not report.count(ERROR):
            add("Resources", trial.resources(trained, corpus, report))
        if not report.count(ERROR):
            add("Determinism", trial.determinism(trained, corpus))
