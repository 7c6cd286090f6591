"""What papermill finds under the name `treelstm`: the three functions that it expects of an engine.

papermill imports every engine while it is itself being imported. `overnight` needs papermill, so it is
imported only when a notebook is executed.
"""

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
