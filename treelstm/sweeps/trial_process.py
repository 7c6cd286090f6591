"""The process of one trial: papermill with the engine, which ends when the sweep's process does.

python -m treelstm.sweeps.trial_process TRIAL_DIRECTORY PAGE PARENT
"""

import logging
import sys
from pathlib import Path

from treelstm.night import watch_parent


def main(directory: Path, page: Path, parent: int) -> int:
    watch_parent(parent)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    import papermill
    from papermill.exceptions import PapermillExecutionError

    from treelstm.sweeps.trials import read_trial

    trial = read_trial(directory)
    assert trial is not None, directory
    parameters = trial.settings | {"output_dir": str(directory)}
    options = {"engine_name": "treelstm", "log_output": True, "progress_bar": False}
    try:
        papermill.execute_notebook(page, directory / page.name, parameters, **options)
        return 0
    except PapermillExecutionError as error:
        why = f"{error.ename}: {error.evalue}"
    except SystemExit as end:
        if not isinstance(end.code, str):
            raise
        why = end.code  # the page could not be saved
    print(" ".join(why.split()), flush=True)  # the last line tells the sweep why it failed
    return 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])))
