"""What a resume may change: settings and data that decide what is computed, compared with a commit's.

`Config.changes` names those that may differ on purpose. Everything else is refused, with the way out.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from treelstm.config import MODEL_SETTINGS, Config, Value
from treelstm.data.pairs import Corpus
from treelstm.history import BestEpoch, Change, Outcome
from treelstm.process import usable_cores
from treelstm.run.content import Commit
from treelstm.run.directory import list_checkpoints

# They decide which pairs a batch holds, so the steps done in an epoch would lose their meaning.
_BETWEEN_EPOCHS = {"batch_size", "seed", "validation_fraction", "data", "objective"}
DECIDE_LOSS = {"margin", "positive_margin", "objective", "temperature"}  # what a validation loss means
DECIDE_LOSS |= {"similarity_low", "similarity_high"}
_BEST_ANEW = DECIDE_LOSS | {"best_by"}  # or by which number epochs are compared


@dataclass(frozen=True)
class Difference:
    """A setting, or "data", that is not what it was, with both values in words."""

    name: str
    before: Value
    now: Value
    text: str


def differences(config: Config, corpus: Corpus, content: Commit) -> list[Difference]:
    """Settings and data that change what the commit's run computes."""
    before = content["config"]
    values = {
        name: (before.get(name), now)
        for name, now in config.fixed_on_resume().items()
        if name not in before or before[name] != now
        if name != "epochs" or before.get("lr_schedule") == "cosine"
    }
    was, now = content["num_threads"], config.num_threads
    if now is not None and now != was and not (now < was and usable_cores() < was):
        values["num_threads"] = was, now
    found = [
        Difference(name, was, now, f"{name}={was!r}, this run asks for {now!r}")
        for name, (was, now) in values.items()
    ]
    return found + _of_data(config, corpus, content)


def _of_data(config: Config, corpus: Corpus, content: Commit) -> list[Difference]:
    was, now = content["fingerprint"], corpus.fingerprint
    if was == now or content.get("content_digest") == corpus.content_digest:
        return []  # the same bytes, or the same pairs in other files
    found, where = [], ""
    held_out = content["config"].get("validation_dir"), config.validation_dir
    if (held_out[0] is None) != (held_out[1] is None):  # the files below follow from it
        text = "validation_dir={!r}, this run asks for {!r}".format(*held_out)
        found, where = [Difference("data", *held_out, text)], "training/"
    for name in sorted(was.keys() | now.keys()):
        if was.get(name) != now.get(name) and name.startswith(where):
            first, second = (digests.get(name, "no such file")[:12] for digests in (was, now))
            text = f"{name} with SHA-256 {first}, the file now has {second}"
            if "content_digest" not in content:
                text += " (an older version wrote this checkpoint, which knows the files' bytes only)"
            found.append(Difference("data", f"{name} {first}", f"{name} {second}", text))
    return found


def refusals(config: Config, corpus: Corpus, content: Commit, path: Path) -> list[tuple[str, str]]:
    """Why these settings or data cannot resume the checkpoint, and what to do; empty if they can."""
    found, reasons = differences(config, corpus, content), []
    epoch, step, name = content["epoch"], content["step"], path.name
    if config.epochs < epoch:
        state = f"{name} is in epoch {epoch}" if step else f"{name} has {epoch} epochs done"
        remedy = f"Set epochs to at least {epoch}, or resume an earlier checkpoint"
        reasons.append((f"epochs={config.epochs}, but {state}", remedy))
    wanted = dict.fromkeys([*config.changes, *(each.name for each in found)])
    on_purpose = ", ".join(each for each in wanted if each not in MODEL_SETTINGS)
    were = ", ".join(f"{each.name}={each.before!r}" for each in found if each.name != "data")
    back = f"Set {were} as before" if were else "Put the data back"
    model = ", ".join(each.name for each in found if each.name in MODEL_SETTINGS)
    for each in found:
        text, other = f"{name} was trained with {each.text}", "choose a new output_dir"
        if model:
            remedy = f"Another {model} makes another model. {back}, or {other}"
        elif each.name not in config.changes:
            remedy = f'{back}, set changes="{on_purpose}" to go on with it on purpose, or {other} '
            remedy += "(start_from keeps the weights)"
        elif step and each.name in _BETWEEN_EPOCHS:
            text += f"; {each.name} can change only where an epoch ends"
            earlier = (c for c in list_checkpoints(path.parent) if c.epoch < epoch)
            whole = [c for c in earlier if not c.steps_into_next]
            remedy = f'Set resume="{whole[-1].path}"' if whole else "Finish the epoch first, as before"
        else:
            continue
        reasons.append((text, remedy))
    # With start_from, the vocabulary came with the weights; with other data it stays as it was.
    foreign = content["config"].get("start_from") is not None or bool(content.get("changes"))
    same = foreign or content["vocabulary"] == list(corpus.vocabulary.symbols)
    same &= content.get("content_digest", corpus.content_digest) == corpus.content_digest
    if not found and not same:
        text = f"{name} was trained on other trees than these files give: another version of treelstm "
        text += "wrote it, with another spelling of symbols"
        remedy = "Use that version, or choose a new output_dir (start_from keeps the weights)"
        reasons.append((text, remedy))
    return reasons


def new_changes(config: Config, corpus: Corpus, content: Commit) -> list[Change]:
    """The accepted differences as records for the commit."""
    found = differences(config, corpus, content)
    names = {each.name for each in found}
    held_out = content.get("content_digest", {}).get("validation")
    other_pairs = bool(names & {"seed", "validation_fraction", "data"})
    other_pairs &= held_out != corpus.content_digest["validation"]
    epoch, step, anew = content["epoch"], content["step"], bool(names & _BEST_ANEW) or other_pairs
    return [
        Change(name=d.name, before=d.before, now=d.now, epoch=epoch, step=step, best_anew=anew)
        for d in found
    ]


def in_words(change: Change) -> str:
    """What a change was, and where in the run."""
    place = f"in epoch {change['epoch']}, after step {change['step']}"
    if not change["step"]:
        place = f"after epoch {change['epoch']}"
    return f"{change['name']}: {change['before']!r} became {change['now']!r} {place}"


def ended(config: Config, epochs_done: int, step: int, best: BestEpoch | None) -> Outcome | None:
    """How a run at this position has ended by itself, or None while there is more to do."""
    if step == 0 and epochs_done >= config.epochs:
        return Outcome.FINISHED
    return Outcome.FINISHED_EARLY if step == 0 and _out_of_patience(config, epochs_done, best) else None


def _out_of_patience(config: Config, epochs_done: int, best: BestEpoch | None) -> bool:
    waited = epochs_done - best["epoch"] if best else 0
    return config.patience is not None and waited >= config.patience


def epochs_left(config: Config, content: Commit, new: Sequence[Change]) -> tuple[int, str]:
    """How many epochs are left at most after a commit and new changes, and what that means, in words."""
    step, best = content["step"], None if any(c["best_anew"] for c in new) else content["best"]
    epochs_done = content["epoch"] - (step > 0)
    if outcome := ended(config, epochs_done, step, best):
        limits = [f"epochs (now {config.epochs})"] if outcome == Outcome.FINISHED else []
        if _out_of_patience(config, epochs_done, best):
            limits.append(f"patience (now {config.patience}, None waits for ever)")
        return 0, f"the run is {outcome}: nothing to do. Raise {' and '.join(limits)} to train on"
    most = f"at most {config.epochs} will run: patience={config.patience}"
    if config.patience is None:
        most = f"{config.epochs} will run"
    return config.epochs - epochs_done, f"epochs {epochs_done + 1} to {most}"
