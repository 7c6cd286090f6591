"""The neighbours of a chosen tree, and what decides the distance of two trees."""

from collections.abc import Sequence

from treelstm.data.pairs import Pairs
from treelstm.evaluation import PairScorer, distinct_trees, nearest
from treelstm.explanation import explain
from treelstm.model.encoder import TreeEncoder
from treelstm.plain import shown
from treelstm.tables import explanation_table, html_of, html_table
from treelstm.tree_figures import pair_figure
from treelstm.trees.arrays import Array
from treelstm.trees.forest import Forest
from treelstm.widgets.sentences import Following, TreeChoice


def neighbourhood(
    choice: TreeChoice, scorer: PairScorer, pairs: Pairs, label_keys: Sequence[str] = ()
) -> Following:
    """The trees nearest to the chosen one, and it beside the nearest; `scorer` is that of an encoder."""
    assert scorer.encoder is not None
    encoder = scorer.encoder
    names, trees = choice.names.split("\n"), distinct_trees(pairs)[0]

    def neighbours(tree: int) -> str:
        near = nearest(scorer, tree)
        rows = [[f"{distance:.3f}", names[other]] for other, distance in near]
        head = ["distance", f"nearest to: {names[tree]}\n(by {shown(encoder.origin)})"]
        both = [tree, near[0][0]]
        titles = [names[each] for each in both]
        return html_of(
            html_table(head, rows),
            explained(encoder, pairs.forest, trees[both], titles, label_keys),
        )

    return Following(choice, neighbours)


def explained(
    encoder: TreeEncoder,
    forest: Forest,
    trees: Array,
    titles: Sequence[str],
    label_keys: Sequence[str] = (),
) -> str:
    """Both trees side by side, coloured by what decides their distance, and the same in tables."""
    why = explain(encoder, forest, trees.tolist())
    figure = pair_figure(forest, trees.tolist(), label_keys, titles, why.without)
    return html_of(figure, explanation_table(why, label_keys))
