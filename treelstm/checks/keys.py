"""Checks of the keys of the ASTs: ignored ones, positions and ids, lists that are no trees, numbers.

Words are never called bookkeeping, however rare they are: what counts is how numbers behave in a text.
"""

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator
from functools import partial

from treelstm.checks.bookkeeping import bookkeeping
from treelstm.checks.report import NOTE, OK, WARNING, Check, Finding, judged
from treelstm.config import KEY_LISTS
from treelstm.data.foreign import CONVERT, flat_trees
from treelstm.data.pairs import Corpus, Pairs
from treelstm.data.survey import Survey, survey
from treelstm.trees.builder import compile_forest
from treelstm.trees.vocabulary import key_of


def keys(corpus: Corpus) -> Iterator[Finding | Check]:
    pairs = corpus.training
    found = survey(pairs)
    read = f"in the {len(found.asts):,} trees read"
    flat = list(token_lists(found))
    yield from flat
    if not flat:
        positions = bookkeeping(found)
        yield partial(_ignored, found, positions, pairs, read)
        if positions:
            yield partial(_positions, found, positions, pairs, read)
        yield partial(_numbers, found, positions, read)
    yield partial(_forms, corpus)


def token_lists(found: Survey) -> Iterator[Finding]:
    """What is no tree yet, though it is a JSON object."""
    in_trees = {(n.tree, said) for n in found.nodes for said in flat_trees(n.content, found.ignored)}
    flat = Counter(said for _, said in in_trees)
    usual = [said for said, count in sorted(flat.items()) if 2 * count >= len(found.asts)]
    if usual:
        text = "most trees hold what looks like a token list with heads, or nodes with ids of children"
        text += f" ({'; '.join(usual)}): it is read as a flat bag"
        yield Finding("keys.token-list", WARNING, text, CONVERT)


def _ignored(found: Survey, positions: list[str], pairs: Pairs, read: str) -> Iterator[Finding]:
    """What is left out, and whether it is what tells nodes apart."""
    said, missing = list[str](), list[str]()
    for key in pairs.ignored_keys:
        values = [(n, n.content[key]) for n in found.nodes if n.content.get(key) not in (None, [])]
        texts = Counter(value for _, value in values if isinstance(value, str))
        if values:
            said.append(f'"{key}" ({len(values):,} nodes, {len(texts) or "no"} texts)')
        else:
            missing.append(key)
        count, numbers = texts.total(), sum(n for t, n in texts.items() if any(map(str.isdigit, t)))
        if count < 10 or numbers > 0.9 * count or not 1 < len(texts) <= count / 2:
            continue
        alone, told = 0, defaultdict[tuple[str, ...], Counter[str]](Counter)
        for node, text in ((n, v) for n, v in values if isinstance(v, str)):
            kept = [(k, v) for k, v in node.content.items() if k not in found.ignored]
            alone += not any(isinstance(v, str) for _, v in kept)
            plain = [(k, v) for k, v in kept if isinstance(v, str | int | float) and k not in positions]
            told[(node.role, *sorted(f"{k}={v}" for k, v in plain))][text] += 1
        untold = 1 - sum(max(each.values()) for each in told.values()) / count
        if alone >= 0.2 * count or untold >= 0.3:
            common = ", ".join(text for text, _ in texts.most_common(4))
            text = (
                f'the ignored key "{key}" looks like content: {len(texts):,} texts on {count:,} nodes '
                f"{read}, such as {common}; {alone / count:.0%} of these nodes have no other text, in "
                f"{untold:.0%} it cannot be told from the rest"
            )
            left = tuple(each for each in pairs.ignored_keys if each != key)
            remedy = f"If the model should see it, set ignored_keys={left}"
            yield Finding("keys.ignored-content", WARNING, text, remedy)
    text = f"ignored keys {read}: {', '.join(said) or 'none'}"
    text += f"; not found: {', '.join(missing)}" if missing else ""
    yield Finding("keys.ignored", OK, text)


def _positions(found: Survey, positions: list[str], pairs: Pairs, read: str) -> Finding:
    """What the forest would be without positions and ids, and the setting that makes it so."""
    complete = (*pairs.ignored_keys, *positions)
    now, then = (compile_forest(found.asts, without) for without in (pairs.ignored_keys, complete))
    counts = ((key, len({v for _, v in found.values[key]}), len(found.values[key])) for key in positions)
    listed = (f'"{key}" ({values:,} values on {nodes:,} nodes)' for key, values, nodes in counts)
    text = (
        f"{', '.join(listed)} {read} look like positions or ids, which make equal subtrees differ: "
        f"without them {len(then.height):,} distinct subtrees instead of {len(now.height):,}, "
        f"{len(then.symbols):,} symbols instead of {len(now.symbols):,}"
    )
    remedy = f"Set ignored_keys={complete}"
    in_use = found.ignored & {key for node in found.nodes for key in node.content}
    fitting = [name for name, names in KEY_LISTS.items() if {*positions} <= {*names} and not in_use]
    if fitting:
        more = [k for k in KEY_LISTS[fitting[0]] if k in found.values and k not in positions]
        remedy += f', or ignored_keys="{fitting[0]}"'
        remedy += f", which also leaves out {', '.join(more)}" if more else ""
    return Finding("keys.bookkeeping", WARNING, text, remedy)


def _numbers(found: Survey, positions: list[str], read: str) -> Iterator[Finding]:
    """Numbers of which most are a symbol of their own."""
    for key, values in found.values.items():
        numbers = [value for _, value in values if type(value) in (int, float)]
        distinct, floats = len({*numbers}), float in map(type, numbers)
        least, share = (20, 0.25) if floats else (50, 0.9)
        if key not in positions and len(numbers) >= least and distinct >= share * len(numbers):
            text = (
                f'"{key}" has {distinct:,} different numbers on {len(numbers):,} nodes {read} '
                f"({distinct / len(numbers):.0%}): each is a symbol of its own, near to no other"
            )
            remedy = f'Round them, write classes of them, or add "{key}" to ignored_keys'
            yield judged("keys.numbers", text, floats, WARNING, remedy, NOTE)


def _forms(corpus: Corpus) -> Iterator[Finding]:
    """Texts that occur composed (NFC) and decomposed (NFD)."""
    symbols = {*corpus.training.forest.symbols, *corpus.validation.forest.symbols}
    other = {symbol for symbol in symbols if not unicodedata.is_normalized("NFC", symbol)}
    twice = sorted(symbols & {unicodedata.normalize("NFC", symbol) for symbol in other})
    if twice:
        per_key = Counter(map(key_of, twice)).most_common(4)
        listed = ", ".join(f'{count:,} of "{key}"' for key, count in per_key)
        text = f"{len(twice):,} texts occur composed (NFC) and decomposed (NFD), as different symbols: "
        remedy = 'Write all files in one form: unicodedata.normalize("NFC", text) in Python'
        text += f"{listed}, such as {twice[0]}"
        yield Finding("keys.unicode-forms", WARNING, text, remedy)
