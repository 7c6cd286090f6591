"""Encoders for other tools: weights and settings in plain files, and a card that says what they are.

An export is three files: `encoder.safetensors` holds the state dict, `encoder.json` the settings, the
vocabulary and the threshold, and `README.md` is the card, which nothing reads. Exporting, importing and
exporting again gives the same bytes of the first two. Why there is no ONNX: docs/export.md.
"""

import json
import math
from importlib.metadata import version
from pathlib import Path
from typing import TypedDict

from safetensors import SafetensorError
from safetensors.torch import load, save

from treelstm.comparison import compared
from treelstm.config import (
    MODEL_SETTINGS,
    NOT_OF_TRAINING,
    Config,
    ConfigError,
    EncoderSettings,
    completed,
    plain,
)
from treelstm.data.files import pair_files
from treelstm.data.load import load_corpus
from treelstm.data.pairs import Corpus, Pairs
from treelstm.data.store import open_store
from treelstm.errors import UserError
from treelstm.evaluation import encoder_scorer
from treelstm.files import make_directory, write_whole
from treelstm.history import METRICS, Number
from treelstm.model.content import Symbols, check_encoder, require_type
from treelstm.model.encoder import Origin, TreeEncoder
from treelstm.model.files import encoder_of
from treelstm.plain import shown
from treelstm.process import chosen_device
from treelstm.run.content import Commit
from treelstm.run.directory import newest_usable
from treelstm.sealed import CheckpointError, DamagedCheckpoint, bytes_of, require_format, require_known
from treelstm.trees.vocabulary import Vocabulary

EXPORT_FORMAT = 3  # raised whenever another version of the package could misread an export
_UNTYPED_EXPORT = 2  # its symbols are spelled as `Vocabulary` says of `typed=False`
WEIGHTS, SETTINGS, CARD = "encoder.safetensors", "encoder.json", "README.md"
_MOST_PAIRS = 20_000  # evaluated for a card


class _Export(TypedDict):
    threshold: Number | None
    vocabulary: Symbols


def export_encoder(encoder: TreeEncoder, directory: Path | str) -> None:
    """Writes `encoder.safetensors`, `encoder.json` and a model card, `README.md`, into `directory`, each
    whole or not at all.

    The card evaluates the encoder if the validation pairs of its run lie compiled where they were, and
    are at most 20,000; else it has the numbers of the run's history, or says that they are not known.
    There is no ONNX file, whose arithmetic would lack what reads the trees: see docs/export.md.

    Raises:
        WriteFailed: the disk refuses.
    """
    directory = Path(directory)
    make_directory(directory)
    weights = {name: tensor.cpu().contiguous() for name, tensor in encoder.state_dict().items()}
    number = EXPORT_FORMAT if encoder.vocabulary.typed else _UNTYPED_EXPORT
    about = {"format": number, **encoder.settings.to_dict()}
    about["threshold"] = None if math.isnan(encoder.threshold) else encoder.threshold
    about["vocabulary"] = list(encoder.vocabulary.symbols)
    write_whole(directory / WEIGHTS, save(weights))
    write_whole(directory / SETTINGS, json.dumps(about, indent=1).encode())
    write_whole(directory / CARD, model_card(encoder).encode())


def import_encoder(directory: Path | str, device: str = "cpu") -> TreeEncoder:
    """The encoder that `export_encoder` wrote, ready to `.encode(asts)`; `device` as in `load_encoder`.

    Raises:
        MissingCheckpoint: one of the two files is missing.
        CheckpointError: they are damaged, of another version, or do not belong together.
        ConfigError: torch sees no such device.
    """
    directory, on = Path(directory), chosen_device(device)
    needed = f"{directory} must hold {WEIGHTS} and {SETTINGS}"
    files = [bytes_of(directory / name, needed) for name in (SETTINGS, WEIGHTS)]
    try:
        about, weights = json.loads(files[0]), load(files[1])
    except (SafetensorError, ValueError, RecursionError) as error:
        raise DamagedCheckpoint(f"{directory} is damaged: {error}. Export it again.") from error
    path = directory / SETTINGS
    about = about if isinstance(about, dict) else {}
    require_format(
        path, about.get("format", "none"), (_UNTYPED_EXPORT, EXPORT_FORMAT), "export it again"
    )
    require_known(path, about.keys() - {"format", *_Export.__annotations__}, MODEL_SETTINGS)
    try:
        settings = EncoderSettings.among(completed(about))
    except KeyError as error:
        raise DamagedCheckpoint(f"{path} lacks a setting: {error}.") from error
    except ConfigError as error:
        raise DamagedCheckpoint(f"{path} is damaged: {error}") from error
    export: _Export = require_type(path, about, _Export)
    check_encoder(directory, settings, export["vocabulary"], weights)
    known = Vocabulary(export["vocabulary"], typed=about["format"] == EXPORT_FORMAT)
    return encoder_of(settings, known, weights, export["threshold"]).to(on)


def model_card(encoder: TreeEncoder) -> str:
    """What an encoder is and on what it was trained, as Markdown; what is not known here, it says."""
    of, origin = encoder.settings, getattr(encoder, "origin", None)
    bag = " and the bags of their symbols" if of.bag_of_symbols else ""
    parts = [
        "---\nlibrary_name: treelstm\ntags: [tree-lstm, syntax-trees, similarity]\n---",
        f"# Tree encoder {_code(str(origin)) if origin else ''}".rstrip(),
        f"Makes {of.output_dim} numbers of a JSON syntax tree, by a Child-Sum Tree-LSTM over trees"
        f"{bag}: similar trees are near. Exported by treelstm {version('treelstm')}.",
        '```python\nimport treelstm\n\nencoder = treelstm.import_encoder("this directory")\n'
        "vectors = encoder.encode([tree])  # trees as json.load gives them\n```",
    ]
    sections = {"Data, settings, quality": ["not known: the encoder does not come from a run's file"]}
    if origin is not None:
        commit, (corpus, why) = _commit(origin), _corpus(origin.config)
        own = commit and commit.get("content_digest")  # those of earlier versions have none
        if corpus and own and own != corpus.content_digest:
            corpus, why = None, "the pairs that lie there now are not those of the run"
        sections = {
            "Data": _data(origin.config, corpus, why, commit),
            "Settings that differ from the defaults": [
                f"{name}: {_code(value)}"
                for name, value in origin.config.to_dict().items()
                if value != plain(getattr(Config, name)) and name not in NOT_OF_TRAINING
            ],
            "Quality on unseen pairs": _quality(encoder, corpus, why, commit),
            "Versions that trained it": [
                f"{name}: {_code(text)}" for name, text in (commit["versions"] if commit else {}).items()
            ],
        }
    sections["Limits"] = _limits(encoder)
    for name, lines in sections.items():
        parts.append("\n".join([f"## {name}\n", *(f"- {line}" for line in lines or ["none known"])]))
    return "\n\n".join(parts) + "\n"


def _code(text: object) -> str:
    """Text of data, settings and paths, which is no Markdown."""
    return f"`{shown(text)}`".replace("\n", " ") if "`" not in str(text) else repr(shown(text))


def _commit(origin: Origin) -> Commit | None:
    """The newest commit of the encoder's run, if that still lies beside the encoder's file."""
    try:
        start = newest_usable(origin.path.parent)
    except CheckpointError:
        return None
    mine = origin.config.fixed_on_resume()
    same = start and Config.from_parameters(start.content["config"]).fixed_on_resume() == mine
    return start.content if start and same else None


def _corpus(config: Config) -> tuple[Corpus | None, str]:
    """The pairs of a run if they can be opened at once, else why not."""
    try:
        for directory in filter(None, (config.data_path, config.validation_path)):
            if open_store(pair_files(directory, config.objective, ""), config) is None:
                return None, f"{directory} is not compiled"
        return load_corpus(config), ""
    except (UserError, OSError) as error:
        return None, str(error).partition("\n")[0].rstrip(".")


def _data(config: Config, corpus: Corpus | None, why: str, commit: Commit | None) -> list[str]:
    held_out = config.validation_dir or f"{config.validation_fraction:.0%} of them, held out"
    digests = commit.get("content_digest", {}) if commit else {}
    lines = [f"not counted: {_code(why)}"] * bool(why)
    for name, where in (("training", config.data_dir), ("validation", held_out)):
        words = [f"{name}: {_code(where)}"]
        if corpus is not None:
            pairs: Pairs = getattr(corpus, name)
            kinds = {"similar": 1, "dissimilar": 0, "not labelled": -1}
            counts = {kind: int((pairs.label == label).sum()) for kind, label in kinds.items()}
            words += [f"{len(pairs):,} pairs", *(f"{n:,} {kind}" for kind, n in counts.items() if n)]
        digest = corpus.content_digest[name] if corpus else digests.get(name, "not known")
        lines.append(", ".join([*words, f"digest of their content {_code(digest)}"]))
    return lines


def _quality(encoder: TreeEncoder, corpus: Corpus | None, why: str, commit: Commit | None) -> list[str]:
    """Metrics with 95% intervals; else those of the run's history, which has none."""
    epoch = encoder.origin.epoch
    if corpus is not None and len(corpus.validation) > _MOST_PAIRS:
        corpus, why = None, f"more than {_MOST_PAIRS:,} pairs"
    if corpus is not None:
        pairs = corpus.validation
        found = compared({"encoder": encoder_scorer(encoder, pairs)}, pairs)[0]["encoder"]
        lines = [
            "{}: {:.3f} [{:.3f}, {:.3f}]".format(metric.label, *found[metric.name])
            for metric in METRICS
            if metric.name in found
        ]
        if lines:
            text = f"of the {len(pairs):,} validation pairs, with 95% intervals from resampled trees"
            return [f"{text}; they also chose epoch and threshold, which flatters a little", *lines]
    history = commit["history"] if commit else []
    record = next((each for each in history if each["epoch"] == epoch), None)
    if record is None:
        return [f"not known: {_code(why or 'the history of the run is not beside its file')}"]
    shown_here = (m for m in METRICS if m.key.startswith("validation_") and m.key in record)
    text = f"from the history of the run, epoch {epoch}, without intervals"
    return [text + f": {_code(why)}" * bool(why), *(f"{m.label}: {m.text(record)}" for m in shown_here)]


def _limits(encoder: TreeEncoder) -> list[str]:
    of, cut = encoder.settings, f"threshold {encoder.threshold:.4g}, calibrated for the best F1 on the "
    cut += "validation pairs; other data need another"
    unseen = "keep an identity, made from their text," if of.bag_of_symbols else "are one symbol a key,"
    order = "" if of.child_order else ", nor the order of siblings"
    return [
        "what counts as similar is what the labels of these pairs say, and no more",
        f"it knows {len(encoder.vocabulary):,} symbols; words, keys and languages that training did not "
        f"have {unseen} without a meaning",
        f"it does not see the keys {_code(', '.join(of.ignored_keys) or 'none')}{order}",
        f"`is_similar`: {'no threshold is known' if math.isnan(encoder.threshold) else cut}",
    ]
