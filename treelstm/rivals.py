"""What an encoder is compared with: a bag of symbols that is trained in the same way; no training."""

import hashlib
import json
import logging
from dataclasses import replace
from tempfile import TemporaryDirectory

from treelstm.config import Config, from_root
from treelstm.data.load import load_corpus
from treelstm.data.pairs import Pairs
from treelstm.errors import UserError
from treelstm.evaluation import PairScorer, encoder_scorer, tfidf_scorer, untrained_encoder
from treelstm.files import WriteFailed
from treelstm.model.encoder import TreeEncoder
from treelstm.model.files import load_encoder
from treelstm.progress import Progress
from treelstm.run.directory import BAG_ALONE, FINAL, find_best_model, names_in, newest_usable
from treelstm.run.lock import RunInUse
from treelstm.run.training import train_heard_by

_PATIENCE = 5  # epochs; a run of hundreds needs a few of them for its bag

log = logging.getLogger("treelstm")


class BagNotTrained(UserError, RuntimeError):
    """The training of the bag alone was stopped, so that there is nothing to compare with."""


def with_rivals(encoder: TreeEncoder, pairs: Pairs, config: Config) -> dict[str, PairScorer]:
    """An encoder from a run's file and its rivals on these pairs; see `bag_alone` for `config`.

    Thresholds of rivals that have none of their own are calibrated on these very pairs.
    """
    scorers = {"this encoder": encoder_scorer(encoder, pairs)}
    if (bag := bag_alone(encoder, config)) is not None:
        scorers["bag alone, trained the same way"] = encoder_scorer(bag, pairs)
    untrained = untrained_encoder(encoder, config.seed)
    scorers["TF-IDF bag, no training"] = tfidf_scorer(pairs)
    scorers["untrained encoder"] = encoder_scorer(untrained, pairs, calibrate=True)
    return scorers


def bag_alone(encoder: TreeEncoder, config: Config) -> TreeEncoder | None:
    """An encoder without a tree (hidden_dim=0), trained as an encoder's run was, by its settings.

    `config` says where the data are now. At most as many epochs as the run has had, until none of five
    is better than the best; with the run's validation pairs, but from fresh weights, also if the run had
    `start_from`. It is kept beside the file, in a directory of `bag_alone/` for each set of settings
    and data; where that cannot be, in a temporary one. None if the encoder has no tree itself.

    Raises:
        BagNotTrained: the training was stopped; called again, it goes on.
        DataError, TrainingDiverged and the like: as `train`.
    """
    origin, own = encoder.origin, encoder.origin.config
    newest = newest_usable(origin.path.parent)
    if not own.hidden_dim:
        return None
    epochs = max(origin.epoch, len(newest.content["history"]) if newest else 0, 1)
    validation = own.validation_dir
    if validation is not None and not from_root(validation).is_dir():
        print(f"the bag alone chooses its epoch on {config.validation_dir}: {validation} is gone")
        validation = config.validation_dir
    same = replace(
        config,
        hidden_dim=0,
        bag_of_symbols=True,
        validation_dir=validation,
        epochs=own.epochs if config.lr_schedule == "cosine" else epochs,
        resume="auto",
        start_from=None,
        changes=(),
        keep=1,
        patience=config.patience or _PATIENCE,
        max_hours=None,
        accept_weak_disk=True,  # what is lost can be trained again
    )
    of = [same.fixed_on_resume(), same.epochs, same.patience, load_corpus(same).content_digest]
    name = hashlib.sha256(json.dumps(of, sort_keys=True).encode()).hexdigest()[:12]
    directory = origin.path.parent / BAG_ALONE / name
    try:
        if FINAL not in names_in(directory):
            _train(replace(same, output_dir=str(directory)))
            config.for_this_kernel()  # an engine reports on the page's run, not on this one
        return load_encoder(find_best_model(directory), config.device)
    except (WriteFailed, RunInUse) as error:
        print(f"the bag alone is not kept: {error}")
    with TemporaryDirectory() as temporary:
        _train(replace(same, output_dir=temporary))
        return load_encoder(find_best_model(temporary), config.device)


def _train(config: Config) -> None:
    """Trains with a bar or one line on the console; the log in the directory has the rest."""
    where = f"at most {config.epochs} epochs, kept in {config.output_dir}"
    print(f"training the bag alone in the same way, once: {where}", flush=True)
    log.addFilter(_off_the_console)
    try:
        outcome = train_heard_by([Progress(figure_shown=True)], config).outcome
    finally:
        log.removeFilter(_off_the_console)
    if not outcome.finished:
        raise BagNotTrained(f"The bag alone was {outcome}. Run the cell again: its training goes on.")


def _off_the_console(record: logging.LogRecord) -> bool:
    record.shown = True
    return True
