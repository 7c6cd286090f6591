"""The sample, offered where there are no data."""

from __future__ import annotations

from treelstm import Config, load_pairs, preflight
from treelstm.widgets.sample import SampleOffer


def test_where_there_are_no_data_a_button_writes_the_sample_and_the_page_can_go_on(tmp_path):
    config = Config(data_dir=str(tmp_path / "<b>pairs"), output_dir=str(tmp_path / "run"))
    assert preflight(config, quick=True).verdict == "no-go"
    offer = SampleOffer(config)
    assert "There are no data yet" in offer.night_form() and "&lt;b&gt;pairs" in offer.night_form()
    offer.children[1].click()
    assert "is written" in offer.night_form() and len(offer.children) == 1
    assert len(load_pairs(config.data_path)) == 5495
    assert preflight(config, quick=True).verdict == "go"


def test_nothing_is_offered_where_something_is_and_what_goes_wrong_is_said(tmp_path):
    config = Config(data_dir=str(tmp_path / "pairs"), output_dir=str(tmp_path / "run"))
    offer = SampleOffer(config)
    (tmp_path / "pairs").write_text("in the way")
    assert SampleOffer(config).children == () and SampleOffer(config).night_form() == ""
    offer.children[1].click()
    assert "pairs" in offer.night_form() and "is written" not in offer.night_form()
