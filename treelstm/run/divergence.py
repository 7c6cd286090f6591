"""Whether a run has diverged, and in which step. Checked before every commit, so that each is good."""

import math
from collections.abc import Iterable
from itertools import groupby

from treelstm.errors import UserError
from treelstm.randomness import epoch_order
from treelstm.run.directory import newest_usable
from treelstm.run.state import Run, new_run, norm, resumed_run
from treelstm.run.step import train_step

_LARGEST_GROWTH = 10_000.0  # of the norm of the weights since they were drawn


class TrainingDiverged(UserError, ArithmeticError):
    """Loss or weights are NaN, infinite or out of bounds; the last commit is good.

    Bounds: the objective's `largest_sound_loss`, and 10,000 times the norm of the weights as drawn.
    """


def check_sound(run: Run) -> None:
    """Checks the loss and the weights; on a GPU, this waits for the steps to end.

    Raises:
        TrainingDiverged: the state must not be committed; names the step that went wrong.
    """
    first = 0.0 if run.first_loss is None else float(run.first_loss)
    limit = run.objective.largest_sound_loss(first)
    losses = [run.train_loss] if run.step or run.history else []
    if run.history and not run.step:
        losses.append(run.history[-1]["validation_loss"])
    loss = max(losses, key=lambda loss: (not math.isfinite(loss), loss), default=first)
    if _sound(run, loss, limit) and math.isfinite(first):
        return
    raise TrainingDiverged(
        f"the loss is {loss:.4g} in {run.place} of {run.steps_per_epoch}: training has diverged. "
        f"{_what_went_wrong(run, limit)} The last commit in {run.config.output_path} is good. Start "
        f"another run with a lower learning_rate (now {run.config.learning_rate}) or warmup_steps."
    )


def shown_loss(run: Run) -> float:
    """The training loss to display; raises as `check_sound` if it is NaN or infinite."""
    if not math.isfinite(run.train_loss):
        check_sound(run)
    return run.train_loss


def _sound(run: Run, loss: float, limit: float) -> bool:
    size = norm(run.encoder.parameters())
    return math.isfinite(loss + size) and loss <= limit and size <= _LARGEST_GROWTH * run.initial_norm


def _what_went_wrong(run: Run, limit: float) -> str:
    """Replays the steps since the last commit, which computes the same, and names the first one that is
    out of bounds, or the one in which the weights grew most.
    """
    config, pairs = run.config, run.corpus.training
    start = newest_usable(config.output_path)
    again = resumed_run(config, run.corpus, start) if start else new_run(config, run.corpus)
    order = epoch_order(config.seed, again.epochs_done + 1, len(pairs))
    ids = run.corpus.vocabulary.ids(pairs.forest.symbols)
    suspect, most, after = "", 0.0, math.nan
    for step in range(again.step, run.step or run.steps_per_epoch):
        indices = order[step * config.batch_size : (step + 1) * config.batch_size]
        weights, before = norm(again.encoder.parameters()), float(again.epoch_sums[0])
        train_step(again, order, ids)
        loss = (float(again.epoch_sums[0]) - before) / len(indices)
        gradient = norm(p.grad for p in again.encoder.parameters() if p.grad is not None)
        after = norm(again.encoder.parameters())
        sound = _sound(again, loss, limit) and math.isfinite(gradient)
        if not sound or after / weights > most:
            most = after / weights
            suspect = (
                f"It went wrong in epoch {again.epochs_done + 1}, step {step + 1}: loss {loss:.4g}, "
                f"norm of the gradient {gradient:.4g}, of the weights {weights:.4g} before and "
                f"{after:.4g} after; its pairs: {_places(map(pairs.where, indices.tolist()))}."
            )
        if not sound:
            return suspect
    if after == norm(run.encoder.parameters()):
        return suspect
    return "A replay of the same steps is sound: suspect the memory or the processor of this machine."


def _places(where: Iterable[str]) -> str:
    """Files and lines, each file named once."""
    places = sorted((path, int(line)) for path, _, line in (w.rpartition(":") for w in where))
    files = groupby(places, key=lambda place: place[0])
    return "; ".join(f"{path} line {', '.join(str(line) for _, line in each)}" for path, each in files)
