"""An offer to write the sample corpus where a page finds no data."""

import ipywidgets

from treelstm.config import Config, as_setting
from treelstm.data.sample import write_sample
from treelstm.errors import UserError
from treelstm.files import is_there
from treelstm.plain import AS_WRITTEN, in_html
from treelstm.widgets.base import NightForm


class SampleOffer(NightForm, ipywidgets.VBox):
    """A button that writes the sample corpus to `data_dir`, if there is nothing; else it is empty."""

    def __init__(self, config: Config) -> None:
        self._directory, self._said = config.data_path, ipywidgets.HTML()
        self._button = ipywidgets.Button(description="Write the sample corpus there")
        self._button.layout.width = "max-content"
        self._button.on_click(lambda button: self.write())
        super().__init__()
        if not is_there(self._directory):
            self._say(f"There are no data yet: nothing is at {as_setting(self._directory)}.")
            self.children = [self._said, self._button]

    def write(self) -> None:
        """What the button does; says what came of it."""
        try:
            write_sample(self._directory)
            self._say("The sample corpus is written. Run the page from the next cell on.")
        except UserError as error:
            self._say(str(error))
        self.children = [self._said]

    def _say(self, words: str) -> None:
        self._said.value = f"<span {AS_WRITTEN}>{in_html(words)}</span>"
        self.keep()

    def night_form(self) -> str:
        return str(self._said.value)
