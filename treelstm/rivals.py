"""What an encoder is compared with: a bag of symbols that is trained in the same way, without a tree."""

from dataclasses import replace
from pathlib import Path

from treelstm.config import Config
from treelstm.listeners import train
from treelstm.model.encoder import TreeEncoder
from treelstm.model.files import load_encoder
from treelstm.run.directory import find_best_model

BAG_ALONE = "bag_alone"  # the directory beside a run's checkpoints


def bag_alone(config: Config, epochs: int) -> TreeEncoder:
    """The best encoder without a tree (hidden_dim=0) that `epochs` epochs of the same settings give.

    It is trained on demand, in seconds, and kept in `bag_alone/` in the run's directory; raises as
    `train`.
    """
    directory = Path(config.output_path) / BAG_ALONE
    same = replace(
        config,
        hidden_dim=0,
        bag_of_symbols=True,
        output_dir=str(directory),
        epochs=epochs,
        resume="auto",
        start_from=None,
        keep=1,
        changes=(),
    )
    train(same)
    return load_encoder(find_best_model(directory), config.device)
