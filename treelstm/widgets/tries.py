"""A button that tries learning rates and batch sizes, and shows what they do."""

from typing import Any

import ipywidgets

from treelstm.config import Config
from treelstm.errors import UserError
from treelstm.plain import in_html
from treelstm.tuning import try_batch_sizes, try_learning_rates
from treelstm.widgets.base import NightForm


class Tries(NightForm, ipywidgets.VBox):
    """Both tests at the press of a button, or at once if `try_settings` asks, on any page.

    `value` holds what they found, as data.
    """

    def __init__(self, config: Config) -> None:
        self._config, self._found, self.value = config, ipywidgets.HTML(), dict[str, Any]()
        button = ipywidgets.Button(description="Try learning rates and batch sizes")
        button.layout.width = "max-content"
        button.on_click(lambda button: self.run())
        super().__init__([button, self._found])
        if config.try_settings:
            self.run()

    def run(self) -> None:
        self._found.value = "Training copies that are thrown away: at most a minute ..."
        try:
            rates, sizes = try_learning_rates(self._config), try_batch_sizes(self._config)
            html = rates._repr_html_() + sizes._repr_html_()
            self._found.value = f"<div class='jp-RenderedHTMLCommon'>{html}</div>"
            self.value = {"learning_rate": rates.proposal, "pairs_per_second": sizes.pace}
        except UserError as error:
            self._found.value = in_html(error)
        self.keep()

    def night_form(self) -> str:
        return str(self._found.value) or "Not tried: nobody asked for it (try_settings=True does)."
