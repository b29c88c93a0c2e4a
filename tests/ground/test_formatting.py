"""Numbers as a reader wants them."""

import pytest

from nngpt_lab.ground.formatting import format_column, show, show_estimate


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (["0.5", "", "0.123456"], ("number", ["0.500", "", "0.123"])),
        (["12.0", "nan", "3.0"], ("number", ["12", "", "3"])),
        (["0.00001234", "1.5"], ("number", ["1.2e-05", "1.500"])),
        (["123456", "2"], ("number", ["123,456", "2"])),
        (["ResNet", "3"], ("", ["ResNet", "3"])),
        (["", ""], ("", ["", ""])),
    ],
)
def test_columns_get_the_decimals_they_need(cells, expected):
    assert format_column(cells) == expected


def test_numbers_carry_their_unit_and_text_does_not():
    assert show("600", "×") == "600\u202f×"
    assert show("unknown", "%") == "unknown"
    assert show("", "%") == ""


@pytest.mark.parametrize(
    ("estimate", "expected"),
    [
        (("82.14513", "81.11", "83.06"), ("82.1\u202f%", "81.1 to 83.1")),
        (("6000", "6000", "6000"), ("6,000\u202f%", "")),  # counted, not estimated
        (("0.36", "-0.00999", "0.66"), ("0.36\u202f%", "-0.01 to 0.66")),
        (("5", "", ""), ("5\u202f%", "")),
    ],
)
def test_an_estimate_shows_the_digits_its_interval_supports(estimate, expected):
    assert show_estimate(*estimate, "%") == expected
