"""Two to five encoders on the same pairs, each reading the trees in its own way; where they disagree.

Pairs that a run was trained on would favour its encoder, so they are left out: pairs of the same two
trees, as that encoder sees them, in whatever file.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

import numpy as np
from IPython.display import HTML

from treelstm import evaluation
from treelstm.comparison import compared
from treelstm.config import Config, from_root
from treelstm.data.load import load_corpus, load_pairs
from treelstm.data.pairs import Pairs
from treelstm.data.problems import DataError
from treelstm.drawing import PageFigure
from treelstm.errors import UserError
from treelstm.evaluation import Estimate, PairScorer, Retrieval, distinct_trees
from treelstm.history import best
from treelstm.model.encoder import TreeEncoder
from treelstm.model.files import load_encoder, names_of, read_model, same_weights
from treelstm.run.directory import list_checkpoints, looks_again, newest_usable, now_at
from treelstm.run.status import verified_row
from treelstm.sealed import CheckpointError
from treelstm.tables import html_table
from treelstm.tree_figures import pair_figure
from treelstm.trees.arrays import Array
from treelstm.trees.naming import label_keys

MOST, _FEWEST = 5, 10  # encoders at most, pairs at least


class NotComparable(UserError, ValueError):
    """These encoders cannot be compared, or not on these pairs."""


@dataclass(frozen=True)
class SideBySide:
    """Encoders on the same pairs, by names that tell them apart."""

    about: str  # which pairs these are
    pairs: Pairs  # as the first one reads them
    left_out: int  # further pairs, which a run was trained on
    scorers: dict[str, PairScorer]
    scores: dict[str, dict[str, Estimate]]  # as `compared` gives them
    differences: dict[str, dict[str, Estimate]]  # the first one's minus those of each other
    retrieval: dict[str, Retrieval]  # empty where no tree has another that is labelled similar to it

    @property
    def disagreements(self) -> Array:
        """Positions of the pairs that are similar by the threshold of one encoder and dissimilar by that
        of another, strongest first: by how far apart their distances are, in thresholds.
        """
        times = np.array([each.distance / each.threshold for each in self.scorers.values()])
        apart = np.ptp(np.nan_to_num(times, nan=1.0), axis=0)  # NaN: without a threshold
        differ = np.flatnonzero((times < 1).any(axis=0) & (times >= 1).any(axis=0))
        return differ[np.argsort(-apart[differ], kind="stable")]

    def table(self, pair: int) -> HTML:
        """What each encoder says of a pair."""
        rows = []
        for name, scorer in self.scorers.items():
            distance, at = float(scorer.distance[pair]), scorer.threshold
            said = "no threshold" if np.isnan(at) else "similar" if distance < at else "dissimilar"
            rows.append([name, f"{distance:.3f}", f"{at:.3f}", said])
        head = [f"labelled {self.pairs.kind(pair)}", "distance", "threshold", "says"]
        return HTML(html_table(head, rows))

    def figure(self, pair: int) -> PageFigure:
        """Both trees of a pair."""
        forest, trees = self.pairs.forest, [int(self.pairs.first[pair]), int(self.pairs.second[pair])]
        titles = [self.pairs.sentences[tree] or f"tree {tree}" for tree in trees]
        return pair_figure(forest, trees, label_keys(forest), titles)


def compare_encoders(
    models: Sequence[Path | str], validation_dir: Path | str | None = None, device: str = "auto"
) -> SideBySide:
    """Two to five checkpoints or models, of any runs, on the pairs of `validation_dir`, else on those
    that the first one's run held out; without pairs that any of the runs was trained on.

    Raises:
        NotComparable: too few or too many files, two that hold the same encoder, pairs that an encoder
            cannot read, or too few of them left.
        CheckpointError: a file cannot be used; says which and why.
    """
    if not 2 <= len(models) <= MOST:
        given = f"{len(models)} ({', '.join(map(str, models)) or 'none'})"
        raise NotComparable(f"two to five encoders can be compared, not {given}. Choose so many.")
    encoders = [load_encoder(from_root(model), device) for model in models]
    names = names_of(encoders)
    for (one, first), (other, second) in combinations(zip(names, encoders, strict=True), 2):
        if same_weights(first.state_dict(), second.state_dict()):
            raise NotComparable(f"{one} and {other} hold the same encoder. Choose others to compare.")
    config, whose = encoders[0].origin.config, f"of {validation_dir}"
    try:
        if validation_dir is None:
            every, whose = load_corpus(config).validation, f"that the run of {names[0]} held out"
        else:
            every = load_pairs(from_root(validation_dir), config.ignored_keys, None, config.child_order)
    except DataError as error:
        raise NotComparable(f"{error}\nSet validation_dir to a directory of pairs.") from error
    known = [met_in_training(encoder, every) for encoder in encoders]
    met, trained = np.any([each[0] for each in known], 0), np.any([each[1] for each in known], 0)
    pairs, left_out = every[np.flatnonzero(~trained)], int(trained.sum())
    if len(pairs) < _FEWEST or pairs.has_classes < every.has_classes:
        raise NotComparable(
            f"of {len(every)} pairs, {whose}, {left_out} are left out, since a run was trained on them. "
            f"The other {len(pairs)} are too few: at least {_FEWEST} are needed, of both classes if "
            "there were both. Set validation_dir to a directory of pairs that no run was trained on."
        )
    again = len(np.unique(every.forest.root[every.trees[met & ~np.tile(trained, 2)]]))
    about = f"{pairs.in_words}, {whose}; left out, since a run was trained on them: {left_out:,}\n"
    about += f"trees that also occur in the training of a run: {again:,} of "
    about += f"{len(distinct_trees(pairs)[0]):,}{''.join(each[2] for each in known)}"
    scorers = {n: scorer_on(encoder, pairs) for n, encoder in zip(names, encoders, strict=True)}
    some = evaluation.can_retrieve(pairs)
    ranked = {n: evaluation.retrieval(each, pairs) for n, each in scorers.items() if some}
    return SideBySide(about, pairs, left_out, scorers, *compared(scorers, pairs), ranked)


def met_in_training(encoder: TreeEncoder, pairs: Pairs) -> tuple[Array, Array, str]:
    """Which of the trees [2 P] and of the pairs [P] an encoder's run was trained on, or the run that it
    started from; what cannot be told of it, as a line.
    """
    own, config, seen = _contents(_read_by(encoder, pairs)), encoder.origin.config, set[Config]()
    trees, both = np.zeros(2 * len(pairs), bool), np.zeros(len(pairs), bool)
    try:
        while config not in seen:
            seen.add(config)  # its validation pairs do not matter here, and may be gone
            readable = replace(config, validation_dir=config.validation_dir and config.data_dir)
            of_training = _contents(load_corpus(readable).training)
            trees, both = trees | np.isin(own[0], of_training[0]), both | np.isin(own[1], of_training[1])
            if config.start_from:
                start = now_at(from_root(config.start_from), config.output_path)
                config = Config.from_parameters(read_model(start)["config"])
    except (DataError, CheckpointError) as error:
        return trees, both, f"\nwhich {encoder.origin.path} was trained on cannot be told: {error}"
    return trees, both, ""


def _contents(pairs: Pairs) -> tuple[Array, Array]:
    """The trees [2 P] and the pairs [P] by what they hold, the trees of a pair in either order."""
    trees = pairs.forest.tree_digest[pairs.trees]
    both = np.ascontiguousarray(np.sort(trees.reshape(2, -1), axis=0).T)
    return trees, both.view("S64").ravel()


def _read_by(encoder: TreeEncoder, pairs: Pairs) -> Pairs:
    """The same pairs, in the same order, as the encoder reads trees."""
    of, directory = encoder.settings, pairs.paths[0].parent
    if (sorted(of.ignored_keys), of.child_order) == (sorted(pairs.ignored_keys), pairs.child_order):
        return pairs
    try:
        every = load_pairs(directory, of.ignored_keys, None, of.child_order)
    except DataError as error:
        text = f"{encoder.origin.path} cannot be compared on these pairs: {error}"
        raise NotComparable(text) from error
    if every.fingerprint != pairs.fingerprint:
        raise NotComparable(f"{directory} has changed while it was read. Run this again.")
    lines, wanted = (each.file.astype(np.int64) * 2**32 + each.line for each in (every, pairs))
    return every[np.searchsorted(lines, wanted)]


def scorer_on(encoder: TreeEncoder, pairs: Pairs) -> PairScorer:
    """An encoder from a run's file on pairs that may have been read otherwise than it reads trees;
    `between` takes the distinct trees of `pairs`.
    """
    own = _read_by(encoder, pairs)
    _, where = np.unique(pairs.forest.root[pairs.trees], return_index=True)
    vectors = encoder.encode_trees(own.forest, own.trees[where]).cpu()
    between = evaluation.vector_scorer(vectors, pairs, 0.0).between
    return replace(evaluation.encoder_scorer(encoder, own), between=between)


@looks_again
def other_checkpoint(output_dir: Path | str, encoder: TreeEncoder) -> Path | None:
    """What to compare an encoder with: the run's newest checkpoint; where that holds this very encoder,
    the one of the best epoch before it; None if there is no other.
    """
    newest = newest_usable(output_dir)
    if newest is None or not same_weights(encoder.state_dict(), newest.content["model_state_dict"]):
        return newest.checkpoint.path if newest else None
    record = best(newest.content["history"][: newest.checkpoint.epoch - 1])
    of_best = (record["epoch"], 0) if record else None
    earlier = [each for each in list_checkpoints(output_dir) if each < newest.checkpoint]
    paths = [each.path for each in sorted(earlier, key=lambda each: (each.position == of_best, each))]
    return next((path for path in paths[::-1] if verified_row(path).status == "verified"), None)
