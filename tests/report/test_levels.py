"""The nested system as text and drawing."""

import math
from xml.etree import ElementTree

from nestling.core.level import Level
from nestling.report.levels import COLUMNS, levels_svg, levels_text

NAMESPACE = "{http://www.w3.org/2000/svg}"
SYSTEM = [
    Level(name="weights", period=512, parameters=1234567, depends_on=("m",), rule="a < b & c"),
    Level(name="m", period=512, objective="-<m, g>"),
    Level(name="attention", period=0, per_sequence=True, parameters=10),
    Level(name="frozen", period=math.inf),
]


def test_text_lists_boxes_fast_to_slow():
    text = levels_text(SYSTEM)
    heads = [line for line in text.splitlines() if line.startswith("level")]
    assert heads == [
        "level 1: frequency infinite (at every read)",
        "level 2: frequency 1/512 (every 512 tokens)",
        "level 3: frequency 1/512 (every 512 tokens)",
        "level 4: frequency 0 (never)",
    ]
    assert "1,234,567" in text and "10 per sequence" in text and "after      m" in text


def shapes(levels):
    root = ElementTree.fromstring(levels_svg(levels, "a & b"))
    return root, root.findall(f"{NAMESPACE}rect")[1:], root.findall(f"{NAMESPACE}text")


def test_drawing_has_a_labelled_box_per_level():
    root, boxes, texts = shapes(SYSTEM)
    assert len(boxes) == len(SYSTEM)
    words = [text.text for text in texts]
    assert {"a & b", "weights", "m", "attention", "frozen", "a < b & c", "1,234,567"} <= set(words)
    assert root.find(f"{NAMESPACE}title").text == "a & b"


def test_boxes_do_not_overlap_and_stay_inside():
    many = [Level(name=f"box {i}", period=16, rule="word " * i) for i in range(2 * COLUMNS + 1)]
    root, boxes, texts = shapes([*many, *SYSTEM])
    frames = [tuple(float(box.get(k)) for k in ("x", "y", "width", "height")) for box in boxes]
    width, height = float(root.get("width")), float(root.get("height"))
    for i, (x, y, w, h) in enumerate(frames):
        assert x >= 0 and y >= 0 and x + w <= width and y + h <= height
        for a, b, c, d in frames[:i]:
            assert x + w <= a or a + c <= x or y + h <= b or b + d <= y
    for text in texts:
        assert 0 < float(text.get("y")) <= height


def test_drawing_is_deterministic():
    assert levels_svg(SYSTEM, "t") == levels_svg(SYSTEM, "t")
