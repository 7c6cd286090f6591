"""What papermill finds under the name `treelstm`: `overnight`, imported when a notebook is executed.

papermill imports every engine while it is itself being imported, and `overnight` needs papermill.
"""

from typing import Any


def __getattr__(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    from treelstm import overnight

    return getattr(overnight, name)
