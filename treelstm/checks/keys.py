"""Checks of the keys of the ASTs: ignored ones, positions and ids, lists that are no trees, numbers.

Words are never called bookkeeping, however rare they are: what counts is how numbers behave in a text.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from treelstm.checks.report import NOTE, OK, WARNING, Finding, judged
from treelstm.config import KEY_LISTS
from treelstm.data.foreign import CONVERT
from treelstm.data.pairs import Corpus, Pairs
from treelstm.data.survey import Survey, survey
from treelstm.trees.builder import compile_forest
from treelstm.trees.forest import Array
from treelstm.trees.vocabulary import key_of

_PLACE = "line|col|column|row|byte|char|character"
_SURE = re.compile(  # names of positions in which nothing else is kept
    rf"(start|end|begin)?({_PLACE})(no|nr|num|number|offset|index|pos|begin|end)"
    rf"|(start|end|begin)({_PLACE}|index|offset|pos|position|point)|characteroffset(begin|end)"
)
_MAYBE = re.compile(rf"{_PLACE}|offset|start|end|begin|index|loc|location|length|range|span|position")
_WORD = re.compile("wor[dt]|mot|vort|radik|form|lem|te[xk]|token|name|value|label|string|identifier")
_ID = re.compile("(.*[_a-z])?id|.*(hash|address|guid)")
_HEX = re.compile(r"(0x)?[0-9a-f]{8}[0-9a-f-]*", re.IGNORECASE)
_RISES = 12  # which chance does not explain where nearly nothing falls


def keys(corpus: Corpus) -> Iterator[Finding]:
    pairs = corpus.training
    found = survey(pairs)
    read = f"in the {len(found.asts):,} trees read"
    flat = [name for name, trees in found.flat.items() if 2 * len(trees) >= len(found.asts)]
    if flat:
        text = "most trees hold what looks like a token list with heads, or nodes with ids of children"
        yield Finding(WARNING, f"{text} ({'; '.join(flat)}): it is read as a flat bag", CONVERT)
    elif found.asts:
        yield from _ignored(found, positions := _positions(found), pairs, read)
        if positions:
            yield _bookkeeping(found, positions, pairs, read)
        yield from _numbers(found, positions, read)
    yield from _forms({*pairs.forest.symbols, *corpus.validation.forest.symbols})
    yield from _constant(pairs)


def _ignored(found: Survey, positions: list[str], pairs: Pairs, read: str) -> Iterator[Finding]:
    """What is left out, and whether it is what tells nodes apart."""
    said = []
    for key, hidden in found.hidden.items():
        texts = [each for each in zip(hidden.node, hidden.value, strict=True) if each[1] is not ...]
        values = Counter(value for _, value in texts)
        said.append(f'"{key}" ({len(hidden.node):,} nodes, {len(values) or "no"} texts)')
        numbered = sum(any(map(str.isdigit, value)) for _, value in texts) > 0.9 * len(texts)
        if numbered or len(texts) < 10 or not 1 < len(values) <= len(texts) / 2:
            continue
        kept = [found.visible[node] for node, _ in texts]
        bare = sum(not any(isinstance(v, str) for v in each.values()) for each in kept) / len(texts)
        told: dict[Any, Counter[str]] = {}  # the role of a node and what else it says -> its texts
        for (node, value), each in zip(texts, kept, strict=True):
            rest = sorted((k, str(v)) for k, v in each.items() if k not in positions)
            told.setdefault((found.nodes[node][3], *rest), Counter())[value] += 1
        untold = 1 - sum(max(counts.values()) for counts in told.values()) / len(texts)
        if bare >= 0.2 or untold >= 0.3:
            common = ", ".join(value for value, _ in values.most_common(4))
            text = (
                f'the ignored key "{key}" looks like content: {len(values):,} texts on {len(texts):,} '
            )
            text += f"nodes {read}, such as {common}; {bare:.0%} of these nodes have no other text, in "
            text += f"{untold:.0%} it cannot be told from the rest"
            left = tuple(each for each in pairs.ignored_keys if each != key)
            yield Finding(WARNING, text, f"If the model should see it, set ignored_keys={left}")
    missing = [key for key in pairs.ignored_keys if key not in found.hidden]
    text = f"ignored keys {read}: {', '.join(said) or 'none'}"
    yield Finding(OK, text + (f"; not found: {', '.join(missing)}" if missing else ""))


def _bookkeeping(found: Survey, positions: list[str], pairs: Pairs, read: str) -> Finding:
    """What the forest would be without positions and ids, and the setting that makes it so."""
    complete = (*pairs.ignored_keys, *positions)
    now, then = (compile_forest(found.asts, keys, True) for keys in (pairs.ignored_keys, complete))
    listed = ", ".join(
        f'"{key}" ({len({*found.keys[key].value}):,} values on {len(found.keys[key].node):,} nodes)'
        for key in positions
    )
    text = f"{listed} {read} look like positions or ids, which make equal subtrees differ: without them "
    text += f"{len(then.height):,} distinct subtrees instead of {len(now.height):,}, "
    text += f"{len(then.symbols):,} symbols instead of {len(now.symbols):,}"
    remedy = f"Set ignored_keys={complete}"
    for name, names in KEY_LISTS.items():
        if {*positions} <= {*names} and not found.hidden:
            more = ", ".join(key for key in names if key in found.keys and key not in positions)
            remedy += f', or ignored_keys="{name}"' + (f", which also leaves out {more}" if more else "")
            break
    return Finding(WARNING, text, remedy)


def _positions(found: Survey) -> list[str]:
    """The keys that hold positions in the text, ids, or ids of parents."""
    columns = [np.array(column) for column in zip(*found.nodes, strict=True)]
    parent, level, tree, role = *columns[:3], np.unique(columns[3], return_inverse=True)[1]
    leads, others = dict[str, Array](), dict[str, tuple[Array, Array]]()  # numbers [N + 1], NaN without

    def placed(node: Array, number: Array) -> Array:
        """Numbers by node; the last one stands for the parent of the roots."""
        by_node = np.full(len(parent) + 1, np.nan)
        by_node[node] = number
        return by_node

    def groups(node: Array) -> tuple[tuple[Array, ...], ...]:
        """In which numbers may rise: a whole tree, a list, the children of a node."""
        return (tree[node],), (parent[node], role[node]), (parent[node],)

    for key, column in found.keys.items():
        named = _ID.fullmatch(key.lower()) is not None
        if (read := column.numbers) is None:
            texts = {*column.value} if isinstance(column.value[0], str) else set()
            id_like = re.compile(".*[0-9].*") if named else _HEX
            many = len(texts) >= max(20, 0.98 * len(column.value))
            if many and all(isinstance(one, str) and id_like.fullmatch(one) for one in texts):
                leads[key] = placed(np.arange(0), np.arange(0))
            continue
        shape, node, rows = read
        name = re.sub("[_-]", "", key.lower())
        if len(np.unique(node)) < 0.9 * len(node) or (re.search("[a-z]", shape) and _WORD.search(name)):
            continue
        before, after = _steps(tree[node], level[node])
        apart = parent[node][before] != parent[node][after]
        for number in rows.T:
            depth = number - level[node]
            few = len(np.unique(number)) < 8 or np.mean(depth == np.median(depth)) > 0.9
            years = number.min() >= 1000 and number.max() <= 2100
            restart = apart.sum() >= 10 and not _rise(number, before[apart], after[apart], 1, 2)
            rising = not restart and any(_rise(number, *_steps(*group)) for group in groups(node))
            usual = few or years or not (rising or _are_unique(number, tree[node], named))
            if not usual or _SURE.fullmatch(name):
                leads[key] = placed(node, number)
                break
        else:
            others[key] = node, rows
    for key in [*others] * 2:  # the column of an end needs the line of that end
        node, number, wide = others[key][0], others[key][1][:, 0], others[key][1].shape[1] > 1
        maybe = _MAYBE.fullmatch(re.sub("[_-]", "", key.lower())) is not None
        above = placed(node, number)[parent[node]]
        within = np.sum(above >= number) > max(_RISES, 0.99 * np.sum(~np.isnan(above)))
        for lead in [*leads.values()]:
            beside = lead[node]
            near = np.mean(~np.isnan(beside)) > 0.9
            aligned = any(_rise(number, *_steps(beside, *group)) for group in groups(node))
            end = within and np.mean(number >= beside) > 0.99 and len(np.unique(number)) >= 8
            if (near and (aligned or end or maybe)) or (maybe and wide):
                leads[key] = placed(node, number)
                break
    rest = found.keys.keys() - leads.keys()
    return sorted({*leads, *(k for k in rest if any(_points(found, k, lead, parent) for lead in leads))})


def _steps(*groups: Array) -> tuple[Array, Array]:
    """Places of each value and of the next one of its groups, in the order of the text."""
    order = np.lexsort((np.arange(len(groups[0])), *groups))
    same = np.all([group[order][1:] == group[order][:-1] for group in groups], axis=0)
    return order[:-1][same], order[1:][same]


def _rise(number: Array, before: Array, after: Array, enough: int = _RISES, times: int = 10) -> bool:
    """Whether nearly all steps that change a number make it larger."""
    rises, falls = (int((number[a] > number[b]).sum()) for a, b in ((after, before), (before, after)))
    return rises >= max(enough, times * falls)


def _are_unique(number: Array, tree: Array, named: bool) -> bool:
    """Whether numbers count through each tree in any order, through the corpus, or are large ids."""
    order = np.lexsort((number, tree))
    step = np.diff(number[order])[np.diff(tree[order]) == 0]
    large = np.median(number) > 2**31
    if len(step) >= _RISES and np.mean(step > 0 if large else step == 1) > 0.95:
        return True
    unique = len(number) >= 50 and len(np.unique(number)) > 0.98 * len(number)
    return unique and (large or named or _rise(number, *_steps(np.zeros(len(number)))))


def _points(found: Survey, key: str, lead: str, parent: Array) -> bool:
    """Whether the values of a key are those that the parents have under another one."""
    of_parent = dict(zip(found.keys[lead].node, found.keys[lead].value, strict=True))
    values = zip(parent[found.keys[key].node].tolist(), found.keys[key].value, strict=True)
    same = [of_parent[above] == value for above, value in values if above in of_parent]
    return len(same) >= _RISES and sum(same) > 0.9 * len(same)


def _numbers(found: Survey, positions: list[str], read: str) -> Iterator[Finding]:
    """Numbers of which most are a symbol of their own."""
    for key, column in found.keys.items():
        numbers = [value for value in column.value if type(value) in (int, float)]
        distinct, floats = len({*numbers}), any(isinstance(value, float) for value in numbers)
        least, share = (20, 0.25) if floats else (50, 0.9)
        if key in positions or len(numbers) < least or distinct < share * len(numbers):
            continue
        text = f'"{key}" has {distinct:,} different numbers on {len(numbers):,} nodes {read} '
        text += f"({distinct / len(numbers):.0%}): each is a symbol of its own, near to no other"
        remedy = f'Round them, write classes of them, or add "{key}" to ignored_keys'
        yield judged(text, floats, WARNING, remedy, NOTE)


def _forms(symbols: Iterable[str]) -> Iterator[Finding]:
    """Texts that occur composed (NFC) and decomposed (NFD)."""
    composed: dict[str, set[str]] = {}
    for symbol in symbols:
        if not symbol.isascii():
            composed.setdefault(unicodedata.normalize("NFC", symbol), set()).add(symbol)
    twice = sorted(form for form, spellings in composed.items() if len(spellings) > 1)
    if twice:
        per_key = Counter(map(key_of, twice)).most_common(4)
        listed = ", ".join(f'{count:,} of "{key}"' for key, count in per_key)
        text = f"{len(twice):,} texts occur composed (NFC) and decomposed (NFD), as different symbols: "
        remedy = 'Write all files in one form: unicodedata.normalize("NFC", text) in Python'
        yield Finding(WARNING, f"{text}{listed}, such as {twice[0]}", remedy)


def _constant(pairs: Pairs) -> Iterator[Finding]:
    """Keys with one value only."""
    forest = pairs.forest
    owners = np.array([key_of(symbol) for symbol in forest.symbols])
    occurrences = np.bincount(forest.symbol, minlength=len(owners))
    names, own, values = np.unique(owners, return_inverse=True, return_counts=True)
    often = np.bincount(own, weights=occurrences) >= 50
    constant = [name for name in names[often & (values == 1)].tolist() if name != "role"]
    if constant:
        yield Finding(NOTE, f"keys with one value only: {', '.join(constant)}")
