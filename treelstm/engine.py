"""What papermill finds under the name `treelstm`: three functions, as it expects of an engine.

papermill imports all engines, used or not, while it is itself being imported; `overnight` builds on
papermill, so it can only be imported after that, and is so when a page is to be executed.
"""

from __future__ import annotations

from typing import Any


def execute_notebook(nb: Any, kernel_name: str, **options: Any) -> Any:
    from treelstm import overnight

    return overnight.execute_notebook(nb, kernel_name, **options)


def nb_kernel_name(nb: Any, name: str | None = None) -> Any:
    from papermill.engines import NBClientEngine

    return NBClientEngine.nb_kernel_name(nb, name)


def nb_language(nb: Any, language: str | None = None) -> Any:
    from papermill.engines import NBClientEngine

    return NBClientEngine.nb_language(nb, language)
