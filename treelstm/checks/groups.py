"""`preflight`: finds every problem before training starts, group by group.

Each check is a function from the settings (and what earlier groups loaded) to findings.
"""

from collections.abc import Iterable
from dataclasses import replace

from treelstm.checks import data, directory, environment, trial
from treelstm.checks.report import ERROR, Finding, Report
from treelstm.config import Config, require_config
from treelstm.data.load import load_corpus
from treelstm.data.pairs import DataError
from treelstm.process import set_for_training
from treelstm.run.directory import list_checkpoints


def preflight(config: Config, quick: bool = False) -> Report:
    """Checks everything a run needs, and reports instead of raising.

    `quick` takes under a second: no data is read, nothing is trained.
    """
    require_config(config)
    report = Report(config)

    def add(group: str, findings: Iterable[Finding]) -> None:
        report.findings[group] = list(findings)

    add("Dependencies", environment.dependencies(config))
    add("Data files", data.data_files(config))
    corpus = None
    if not quick and not report.count(ERROR):
        try:
            corpus = load_corpus(config)
        except DataError as error:
            add("Data content", data.problems(error))
    if corpus is None:
        add("Output directory", directory.output_directory(config, None))
        return report
    report.pairs = corpus.training
    add("Data content", data.data_content(config, corpus))
    resuming = config.resume is not None and bool(list_checkpoints(config.output_path))
    trained = replace(config, start_from=None) if resuming else config  # ignored on resume
    with set_for_training(config.num_threads):
        add("Batches", trial.batches(config, corpus))
        add("Model", trial.model(trained, corpus))
        if not report.count(ERROR):
            add("Resources", trial.resources(trained, corpus, report))
            if not resuming:  # a resumed run keeps its thread count
                report.findings["Resources"] += trial.thread_count(trained, corpus)
        add("Output directory", directory.output_directory(config, corpus))
        if not report.count(ERROR):
            add("Determinism", trial.determinism(trained, corpus))
    return report
