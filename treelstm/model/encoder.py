"""The tree encoder: symbol embeddings, a Child-Sum Tree-LSTM, a projection of the root's state.

Shapes: B trees; P pairs; D embedding, H hidden, O output.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from treelstm.config import EncoderSettings
from treelstm.errors import UserError
from treelstm.model.child_sum import ChildSumTreeLSTM, SymbolSum
from treelstm.neutral import neutral_torch
from treelstm.randomness import WEIGHTS, generator
from treelstm.trees.builder import TreeError, compile_forest
from treelstm.trees.forest import Forest, TreeBatch
from treelstm.trees.vocabulary import Vocabulary

_SUBTREES_PER_CALL = 32_768  # evaluated at once: half a GB
_EMBEDDING_SCALE = 0.15  # standard deviation; a node adds up several symbols


class NoThreshold(UserError, ValueError):
    """The encoder has never been validated, so it cannot say which distances count as similar."""


def parameter_shapes(settings: EncoderSettings, symbols: int) -> dict[str, tuple[int, ...]]:
    """The shape of each weight of an encoder that knows so many symbols, by its name."""
    embedding_dim, hidden_dim = settings.embedding_dim, settings.hidden_dim
    return {
        "embedding": (symbols, embedding_dim),
        "input_weight": (4 * hidden_dim, embedding_dim),
        "input_bias": (4 * hidden_dim,),
        "sum_weight": (3 * hidden_dim, hidden_dim),
        "forget_weight": (hidden_dim, hidden_dim),
        "output_weight": (settings.output_dim, hidden_dim),
    }


class TreeEncoder(nn.Module):
    """Maps trees to vectors. Its vocabulary and ignored keys let it read ASTs.

    Weights are drawn from `seed` alone. With `precision="bfloat16"`, the states and products inside the
    trees are of that type; weights, their gradients and the projection stay float32.
    """

    @neutral_torch()
    def __init__(self, vocabulary: Vocabulary, settings: EncoderSettings, *, seed: int = 42) -> None:
        super().__init__()
        self.vocabulary = vocabulary
        self.settings = EncoderSettings.among(settings.to_dict())  # a Config is more than these
        random = generator(seed, WEIGHTS)
        shapes, hidden_dim = parameter_shapes(settings, len(vocabulary)), settings.hidden_dim

        def drawn(name: str, scale: float) -> nn.Parameter:
            return nn.Parameter((torch.rand(shapes[name], generator=random) * 2 - 1) * scale)

        inputs, states = settings.embedding_dim**-0.5, hidden_dim**-0.5
        symbols = torch.randn(shapes["embedding"], generator=random)
        self.embedding = nn.Parameter(symbols * _EMBEDDING_SCALE)
        self.input_weight = drawn("input_weight", inputs)
        # A forget gate that starts open lets children through (Jozefowicz et al. 2015, section 5).
        self.input_bias = nn.Parameter(torch.cat((torch.zeros(3 * hidden_dim), torch.ones(hidden_dim))))
        self.sum_weight = drawn("sum_weight", states)
        self.forget_weight = drawn("forget_weight", states)
        # No bias: it would cancel in every distance and never be trained.
        self.output_weight = drawn("output_weight", states)
        self.threshold = math.nan  # distance under which trees count as similar; set by calibration

    def forward(self, batch: TreeBatch, dropout_mask: Tensor | None = None) -> Tensor:
        """Encodings [B, O] of the batch's trees; `dropout_mask` [B, H] acts on the root states."""
        x = SymbolSum.apply(self.embedding, batch)
        inside = [x, self.input_weight, self.input_bias, self.sum_weight, self.forget_weight]
        if self.settings.precision == "bfloat16":
            inside = [tensor.bfloat16() for tensor in inside]
        root: Tensor = ChildSumTreeLSTM.apply(*inside, batch).to(x.dtype)
        if dropout_mask is not None:
            root = root * dropout_mask
        return functional.linear(root, self.output_weight)

    @neutral_torch()
    def encode_trees(self, forest: Forest, trees: Sequence[int] | np.ndarray) -> Tensor:
        """Encodings [len(trees), O], without dropout; equal trees are evaluated once."""
        trees = np.asarray(trees, np.int64)
        _, first, inverse = np.unique(forest.root[trees], return_index=True, return_inverse=True)
        ids = self.vocabulary.ids(forest.symbols)
        device = self.embedding.device
        distinct = trees[first]
        call = np.cumsum(np.diff(forest.tree_ptr)[distinct]) // _SUBTREES_PER_CALL
        calls = np.split(distinct, np.flatnonzero(np.diff(call)) + 1)
        with torch.no_grad():
            parts = [self(forest.batch(some, ids).to(device)) for some in calls]
        return torch.cat(parts).index_select(0, torch.from_numpy(inverse).to(device))

    def encode(self, asts: Iterable[Any]) -> Tensor:
        """Encodings of JSON ASTs: float32 [n, O], on the encoder's device.

        Raises:
            TreeError: an AST is empty or not a JSON object (says which one), or `asts` is not a list.
        """
        if isinstance(asts, Mapping | str):
            raise TreeError("encode takes a list of trees; for one tree, write encode([tree]).")
        forest = compile_forest(asts, self.settings.ignored_keys)
        return self.encode_trees(forest, np.arange(len(forest)))

    def distance(self, first: Any, second: Any) -> float:
        """Distance of two JSON ASTs' encodings, at least 0; raises as `encode`."""
        vectors = self.encode([first, second])
        return float(distances(vectors[:1], vectors[1:]))

    def is_similar(self, first: Any, second: Any) -> bool:
        """Whether two JSON ASTs are closer than the threshold that training calibrated.

        Raises:
            TreeError: as `encode`.
            NoThreshold: the encoder has none.
        """
        if math.isnan(self.threshold):
            remedy = "Train it, or set .threshold to the distance under which trees count as similar"
            raise NoThreshold(f"This encoder has no threshold: it was never validated. {remedy}.")
        return self.distance(first, second) < self.threshold


def distances(first: Tensor, second: Tensor) -> Tensor:
    """Euclidean distance of each pair: [P, O], [P, O] -> [P]; its gradient at 0 is 0."""
    distance: Tensor = torch.linalg.vector_norm(first - second, dim=1)
    return distance
