"""What a user sees of an error, in a notebook's real kernel."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Iterator

import pytest
from jupyter_client.manager import start_new_kernel

import treelstm
from treelstm.errors import UserError


def test_every_error_of_this_package_is_a_user_error():
    found = set()
    for info in pkgutil.walk_packages(treelstm.__path__, "treelstm."):
        if info.name == "treelstm.__main__":
            continue
        for thing in vars(importlib.import_module(info.name)).values():
            ours = inspect.isclass(thing) and thing.__module__.startswith("treelstm")
            if ours and issubclass(thing, BaseException):
                found.add(thing.__name__)
                assert issubclass(thing, UserError), thing
    assert {"ConfigError", "DataError", "TreeError", "WriteFailed", "RunInUse"} <= found


@pytest.fixture(scope="module")
def kernel() -> Iterator[object]:
    manager, client = start_new_kernel()
    client.execute_interactive("import treelstm; _ = treelstm.train, treelstm.preflight", timeout=120)
    yield client
    client.stop_channels()
    manager.shutdown_kernel(now=True)


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("treelstm.Config(epochz=3)", "ConfigError: epochz: no such setting. Did you mean epochs?"),
        ("treelstm.Config(epochs=0)", "ConfigError: epochs is 0, expected at least 1"),
        ("treelstm.load_encoder('none.pt')", "MissingCheckpoint: none.pt: no such file"),
        ("treelstm.load_pairs('none')", "DataError: none: no such directory"),
        ("treelstm.load_pairs('none', 3)", "ConfigError: ignored_keys is 3, expected"),
        ("treelstm.import_encoder('none')", "MissingCheckpoint: none"),
        ("treelstm.run_status('none')", "CheckpointError: none holds no checkpoint"),
        ("treelstm.train('data/x')", "ConfigError: expected a treelstm.Config(...), found 'data/x'"),
        ("treelstm.preflight({})", "ConfigError: expected a treelstm.Config(...), found {}"),
        ("treelstm.load_corpus(None)", "ConfigError: expected a treelstm.Config(...), found None"),
        ("treelstm.Config(validation_dir='')", "ConfigError: validation_dir is ''"),
        ("treelstm.write_sample('none', positives=-1)", "ConfigError: positives is -1"),
        ("treelstm.write_sample('none', unlike='none')", "ConfigError: unlike is 'none'"),
        ("treelstm.write_sample('/dev/null/x')", "WriteFailed: [Errno 20] Not a directory: /dev/null/x"),
        ("treelstm.import_encoder('/dev/null')", "MissingCheckpoint: /dev/null"),
        ("treelstm.load_encoder('none.pt', 'gpu')", 'ConfigError: device is "gpu", expected "auto"'),
        ("treelstm.train(treelstm.Config(data_dir='/none'))", "DataError: /none: no such directory"),
    ],
)
def test_an_error_in_a_notebook_is_its_message_and_no_traceback(kernel, source, message):
    said = []
    kernel.execute_interactive(source, timeout=120, output_hook=said.append)
    (error,) = [each["content"] for each in said if each["msg_type"] == "error"]
    (line,) = error["traceback"]
    assert line.startswith(message) and "\n" not in line.strip()


@pytest.mark.filterwarnings("default")
def test_tab_completion_offers_the_public_names_and_nothing_else(kernel):
    answer = kernel.complete("treelstm.", 9, reply=True, timeout=60)
    assert set(answer["content"]["matches"]) == set(treelstm.__all__)
