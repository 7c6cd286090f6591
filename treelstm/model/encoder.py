"""The tree encoder: symbol embeddings, a Child-Sum Tree-LSTM, projections of root and bag of symbols.

Shapes: B trees; P pairs; D embedding, H hidden, O output.
"""

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from treelstm.config import Config, EncoderSettings
from treelstm.errors import UserError
from treelstm.model.child_sum import ChildSumTreeLSTM, SymbolSum
from treelstm.model.vectors import SCALE, Vectors
from treelstm.neutral import neutral_torch
from treelstm.randomness import WEIGHTS, generator
from treelstm.trees.builder import TreeError, compile_forest
from treelstm.trees.forest import Forest, TreeBatch, moved
from treelstm.trees.vocabulary import Vocabulary

_SUBTREES_PER_CALL = 32_768  # evaluated at once: half a GB
TREES_AT_ONCE = 2**16  # in one forest; decides bits
GAIN_SCALE = 20.0  # so that Adam moves the bag's weight as fast as it has to

# (out, sizes, rows): fills `out`, which lies in parts of these sizes, with rows(0), rows(1) and so on.
Fill = Callable[[Tensor, Sequence[int], Callable[[int], Tensor]], None]


def _fill(out: Tensor, sizes: Sequence[int], rows: Callable[[int], Tensor]) -> None:
    for number, part in enumerate(out.split([*sizes])):
        part.copy_(rows(number))


class NoThreshold(UserError, ValueError):
    """The encoder has never been validated, so it cannot say which distances count as similar."""


def parameter_shapes(
    settings: EncoderSettings, symbols: int, vector_size: int = 0
) -> dict[str, tuple[int, ...]]:
    """The shape of each weight of an encoder that knows so many symbols, by its name.

    `vector_size` is that of pretrained vectors; 0: there are none.
    """
    inputs, states, outputs = settings.embedding_dim, settings.hidden_dim, settings.output_dim
    shapes: dict[str, tuple[int, ...]] = {"embedding": (symbols, inputs)}
    if states:
        shapes |= {"input_weight": (4 * states, inputs), "input_bias": (4 * states,)}
        shapes |= {"sum_weight": (3 * states, states), "forget_weight": (states, states)}
        # No bias: it would cancel in every distance and never be trained.
        shapes |= {"output_weight": (outputs, states)}
    if settings.bag_of_symbols:
        shapes |= {"bag_weight": (outputs, inputs), "gain": ()}
    if vector_size not in (0, inputs):
        shapes |= {"vector_weight": (inputs, vector_size)}
    return shapes


def _drawn(name: str, shape: tuple[int, ...], random: torch.Generator) -> Tensor:
    """A weight before training."""
    if name == "embedding":
        return torch.randn(shape, generator=random) * SCALE
    if name == "gain":
        return torch.zeros(())
    if name == "input_bias":
        # A forget gate that starts open lets children through (Jozefowicz et al. 2015, section 5).
        return torch.cat((torch.zeros(3 * shape[0] // 4), torch.ones(shape[0] // 4)))
    scale: float = shape[1] ** -0.5
    if name == "vector_weight":
        scale *= 3**0.5  # keeps the vectors' size, as the scale of a uniform draw
    return (torch.rand(shape, generator=random) * 2 - 1) * scale


def _random_signs(texts: Iterable[str], size: int) -> Tensor:
    """A row [size] for each text, which depends on the text alone; the scale is that of embeddings."""
    width = -(-size // 8)  # bytes
    spelled = (text.encode("utf-8", "surrogatepass") for text in texts)
    digests = b"".join(hashlib.shake_128(text).digest(width) for text in spelled)
    bits = np.unpackbits(np.frombuffer(digests, np.uint8).reshape(-1, width), axis=1)[:, :size]
    return torch.from_numpy((2.0 * bits - 1) * SCALE)


class Origin(NamedTuple):
    """What an encoder was read from, as it was then: its file may hold another one by now."""

    path: Path
    epoch: int
    config: Config  # of the run

    def __str__(self) -> str:
        return f"{self.path}, epoch {self.epoch}"


class TreeEncoder(nn.Module):
    """Maps trees to vectors. Its vocabulary and ignored keys let it read ASTs.

    z = W_tree h_root + exp(20 g) W_bag b. Here h_root is the state of the root (`ChildSumTreeLSTM`) and
    b, of length 1, the direction of the sum of the embeddings of the tree's distinct symbols: a path
    that does not squeeze words through the tree. The gain g starts at 0 and is learned. Without
    `bag_of_symbols` only the first term is there, with hidden_dim=0 only the second.

    With `child_order`, the k-th item of a list, k from 0, counts in its parent's sum of states times
    cos(k w), w from 0 to pi over the H dimensions: some see mainly what is there, some mainly where.
    These numbers are fixed: no list is too long for them, and a subtree has one state wherever it is.

    With `vectors`, the embedding of a symbol that has one is its vector plus what training adds; vectors
    of another size are projected. They are part of the state, since unseen trees need them.

    Weights are drawn from `seed` alone. With `precision="bfloat16"`, the states and products inside the
    trees are of that type; weights, their gradients and the projections stay float32.
    """

    embedding: nn.Parameter
    input_weight: nn.Parameter
    input_bias: nn.Parameter
    sum_weight: nn.Parameter
    forget_weight: nn.Parameter
    output_weight: nn.Parameter
    bag_weight: nn.Parameter
    gain: nn.Parameter
    vector_weight: nn.Parameter
    vector_table: Tensor
    vector_words: Tensor
    vector_row: Tensor  # of each symbol of the vocabulary; -1: it has no vector
    has_vector: np.ndarray  # of each symbol of the vocabulary; on the CPU, wherever the encoder is
    origin: Origin  # of an encoder that was read from a file of a run

    @neutral_torch()
    def __init__(
        self,
        vocabulary: Vocabulary,
        settings: EncoderSettings,
        *,
        seed: int = 42,
        vectors: Vectors | None = None,
    ) -> None:
        super().__init__()
        self.vectors = vectors
        self.vocabulary = vocabulary
        self.settings = EncoderSettings.among(settings.to_dict())  # a Config is more than these
        random = generator(seed, WEIGHTS)
        size = vectors.table.shape[1] if vectors else 0
        for name, shape in parameter_shapes(settings, len(vocabulary), size).items():
            self.register_parameter(name, nn.Parameter(_drawn(name, shape, random)))
        if vectors:
            rows = torch.from_numpy(vectors.rows_of(vocabulary.symbols, settings.vectors_keys))
            self.register_buffer("vector_table", vectors.table)
            self.register_buffer("vector_words", vectors.words)
            self.register_buffer("vector_row", rows, persistent=False)
            self.has_vector = rows.numpy() >= 0
            with torch.no_grad():
                self.embedding[rows >= 0] = 0.0
        self.threshold = math.nan  # distance under which trees count as similar; set by calibration

    def forward(
        self, batch: TreeBatch, dropout_mask: Tensor | None = None, embedding: Tensor | None = None
    ) -> Tensor:
        """Encodings [B, O] of the batch's trees, made by `self.batch`; `dropout_mask` [B, H] acts on
        the root states. `embedding` may have more rows than the encoder's own, see `reading`.
        """
        table = self._embeddings(batch.with_vector) if embedding is None else embedding
        rows = SymbolSum.apply(table, batch)
        parts = []
        if self.settings.hidden_dim:
            parts.append(self._of_tree(rows[: batch.num_nodes], batch, dropout_mask))
        if self.settings.bag_of_symbols:
            parts.append(self.of_bags(rows[batch.num_nodes :]))
        return parts[0] if len(parts) == 1 else parts[0] + parts[1]

    def having_vectors(self, symbols: np.ndarray) -> Tensor | None:
        """Those of these ids of the vocabulary that have a pretrained vector, on the CPU; None: there
        are no vectors. (The CPU finds out which, since a GPU would have to be waited for.)
        """
        if self.vectors is None:
            return None
        symbols = symbols[symbols < len(self.has_vector)]  # see `reading` for others
        return torch.from_numpy(symbols[self.has_vector[symbols]])

    def _embeddings(self, symbols: Tensor | None) -> Tensor:
        """Embeddings [all, D]; vectors are added for these symbols alone, which all have one."""
        if symbols is None:
            return self.embedding
        vectors = self._projected(self.vector_row[symbols])
        if self.settings.vectors_frozen:
            return self.embedding.index_copy(0, symbols, vectors)
        return self.embedding.index_add(0, symbols, vectors)

    def _embeddings_for(self, symbols: np.ndarray) -> Tensor:
        """Embeddings [all, D], of which those of `symbols`, distinct ids, can be used."""
        there = self.having_vectors(symbols)
        return self._embeddings(None if there is None else moved(there, self.embedding.device))

    def embeddings_of(self, symbols: np.ndarray) -> Tensor:
        """Embeddings [U, D] of these symbols, distinct ids: a parameter's rows, and vectors."""
        of_all = self._embeddings_for(symbols)
        return of_all.index_select(0, moved(torch.from_numpy(symbols), of_all.device))

    def _projected(self, rows: Tensor) -> Tensor:
        """The vectors in these rows of the table, in the size of an embedding."""
        vectors, weight = self.vector_table[rows], getattr(self, "vector_weight", None)
        return vectors if weight is None else functional.linear(vectors, weight)

    def _of_tree(self, x: Tensor, batch: TreeBatch, dropout_mask: Tensor | None) -> Tensor:
        inside = [x, self.input_weight, self.input_bias, self.sum_weight, self.forget_weight]
        if self.settings.precision == "bfloat16":
            inside = [tensor.bfloat16() for tensor in inside]
        root: Tensor = ChildSumTreeLSTM.apply(*inside, batch).to(x.dtype)
        if dropout_mask is not None:
            root = root * dropout_mask
        return functional.linear(root, self.output_weight)

    def of_bags(self, sums: Tensor) -> Tensor:
        """The bag's part [B, O] of the encodings, from the sums [B, D] of the symbols' embeddings."""
        bag = functional.linear(functional.normalize(sums), self.bag_weight)
        return torch.exp(GAIN_SCALE * self.gain) * bag

    def batch(self, forest: Forest, trees: np.ndarray, ids: np.ndarray) -> TreeBatch:
        """What `forward` needs of these trees; `ids` are those of the forest's symbols."""
        of = self.settings
        batch = forest.batch(trees, ids, bags=of.bag_of_symbols)
        batch.with_vector = self.having_vectors(batch.used.numpy())
        if of.child_order and batch.places is not None:  # where no tree has children, there are none
            w = torch.linspace(math.pi, 0, of.hidden_dim, dtype=torch.float64)
            batch.factors = torch.outer(batch.places, w).cos()
        return batch

    def reading(self, forest: Forest) -> tuple[np.ndarray, Tensor]:
        """Ids of the forest's symbols, and the embeddings that they point to.

        A symbol that training did not know gets a row of its own: its vector, else random signs, made
        from its text. So two trees that share it are nearer than two that do not (Dhingra et al. 2017,
        arXiv:1703.00993, section 4). An encoder without a bag takes the unknown symbol of its key
        instead of random signs.
        """
        ids, symbols = self.vocabulary.ids(forest.symbols), self.vocabulary.spelled(forest.symbols)
        parts = [self._embeddings_for(np.arange(len(self.vocabulary)))]
        unknown = np.flatnonzero(self.vocabulary.is_unknown(ids))
        if self.vectors is not None:
            texts = (symbols[symbol] for symbol in unknown.tolist())
            rows = self.vectors.rows_of(texts, self.settings.vectors_keys)
            found = torch.from_numpy(rows[rows >= 0]).to(self.embedding.device)
            parts.append(self._projected(found))
            ids[unknown[rows >= 0]] = len(self.vocabulary) + np.arange(len(found))
            unknown = unknown[rows < 0]
        if self.settings.bag_of_symbols:
            ids[unknown] = sum(map(len, parts)) + np.arange(len(unknown))
            texts = (symbols[symbol] for symbol in unknown.tolist())
            parts.append(_random_signs(texts, self.settings.embedding_dim).to(self.embedding))
        return ids, torch.cat(parts)

    @neutral_torch()
    @torch.no_grad()
    def encode_trees(
        self, forest: Forest, trees: Sequence[int] | np.ndarray, shards: int = 1, fill: Fill = _fill
    ) -> Tensor:
        """Encodings [len(trees), O], without dropout; equal trees are evaluated once.

        They are evaluated in at least `shards` calls, which decides bits; `fill` has each of them made.
        """
        trees = np.asarray(trees, np.int64)
        _, first, inverse = np.unique(forest.root[trees], return_index=True, return_inverse=True)
        ids, embedding = self.reading(forest)
        device = self.embedding.device
        distinct = trees[first]
        ends = np.cumsum(np.diff(forest.tree_ptr)[distinct])
        call = ends // _SUBTREES_PER_CALL
        if shards > 1 and len(ends):
            rounds = math.ceil(ends[-1] / (shards * _SUBTREES_PER_CALL))
            call = (ends - 1) * shards * rounds // ends[-1]
        calls = np.split(distinct, np.flatnonzero(np.diff(call)) + 1)

        def rows(number: int) -> Tensor:
            batch = self.batch(forest, calls[number], ids).to(device)
            return cast("Tensor", self(batch, embedding=embedding))

        vectors = embedding.new_empty(len(distinct), self.settings.output_dim)
        fill(vectors, [*map(len, calls)], rows)
        return vectors.index_select(0, torch.from_numpy(inverse).to(device))

    def encode(self, asts: Iterable[Any]) -> Tensor:
        """Encodings of JSON ASTs: float32 [n, O], on the encoder's device.

        Raises:
            TreeError: an AST is empty or not what JSON can say (names the place); `asts` is no list.
        """
        if isinstance(asts, Mapping | str) or not np.iterable(asts):
            raise TreeError("encode takes a list of trees; for one tree, write encode([tree]).")
        return torch.cat([self.encode_trees(each, np.arange(len(each))) for each in self.forests(asts)])

    def forests(self, asts: Iterable[Any]) -> Iterator[Forest]:
        """The ASTs as this encoder reads them, up to 65,536 in a forest, so that memory does not grow
        with their number; `encode_trees` on one after the other gives what `encode` gives, to the bit.
        """
        asts, of, first = iter(asts), self.settings, 0
        while True:
            some = islice(asts, TREES_AT_ONCE)
            forest = compile_forest(some, of.ignored_keys, child_order=of.child_order, first=first)
            if len(forest) or not first:
                yield forest
            if len(forest) < TREES_AT_ONCE:
                return
            first += len(forest)

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
