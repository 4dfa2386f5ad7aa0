"""Pictures of the study: one panel for each x axis, a tick at every point's place, every curve named."""

import xml.etree.ElementTree as ET

from xtc_jax.report.pictures import named_curves


def test_every_panel_has_its_axis_and_every_curve_its_name():
    panels = {"epochs": {"2 bits": [(1, 97.0), (3, 99.0)], "1 bit": [(3, 98.0)]}, "times smaller": {"8 bits": [(3.7, 100.0)]}}
    svg = named_curves(panels, "of the teacher, %")
    words = {"".join(text.itertext()).strip() for text in ET.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")}
    assert {"epochs", "times smaller", "of the teacher, %", "2 bits", "1 bit", "8 bits", "1", "3", "3.7"} <= words
    assert named_curves(panels, "of the teacher, %") == svg
