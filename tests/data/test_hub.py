"""Hub data sets, read by ``datasets`` from files with the layout of the hub."""

import importlib.util
from collections import Counter

import pytest

from nestling.core.error import UserError
from nestling.data import hub
from nestling.data.sets import Labelled

HERE = importlib.util.find_spec("datasets") is not None
pytestmark = pytest.mark.skipif(not HERE, reason="datasets is not installed (nestling[eval])")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Nothing is stored outside the test's folder."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return datasets


def test_clinc150_schema(tmp_path, cache):
    names = ["oil_change_how", "oos", "w2", "time"]  # a few, in arbitrary order
    features = cache.Features(
        {"text": cache.Value("string"), "intent": cache.ClassLabel(names=names)}
    )
    counts = {"train": 3, "validation": 1, "test": 2}
    lines = ["configs:"]
    for configuration in ("imbalanced", "plus", "small"):
        lines += [f"- config_name: {configuration}", "  data_files:"]
        for split, count in counts.items():
            rows = [
                {"text": f"{configuration}  {split} {name} {i}", "intent": name}
                for name in names
                for i in range(count)
            ]
            made = cache.Dataset.from_list(rows, features=features)
            made.to_parquet(tmp_path / configuration / f"{split}-00000-of-00001.parquet")
            lines += [f"  - split: {split}", f"    path: {configuration}/{split}-*"]
    (tmp_path / "README.md").write_text("---\n" + "\n".join(lines) + "\n---\n")
    splits = hub.load(str(tmp_path), "plus", str)
    assert set(splits) == set(counts)
    rows = list(hub.clinc150(splits))
    assert Counter(row.label for row in rows) == {"oil change how": 5, "w2": 5, "time": 5}
    assert rows[0] == Labelled("plus train oil_change_how 0", "oil change how", "learn")
    assert Counter(row.part for row in rows) == {"learn": 9, "ask": 6}
    with pytest.raises(UserError, match="cannot fetch"):
        hub.load(str(tmp_path), "minus", str)


def test_banking77_schema(tmp_path, cache):
    names = ["age_limit", "Refund_not_showing_up", "reverted_card_payment?"]
    for split in ("train", "test"):
        rows = [
            {"text": f"{split} {name}\n", "label": i, "label_text": name}
            for i, name in enumerate(names)
        ]
        path = tmp_path / "data" / f"{split}-00000-of-00001.parquet"
        cache.Dataset.from_list(rows).to_parquet(path)
    rows = list(hub.banking77(hub.load(str(tmp_path), None, str)))
    labels = ["age limit", "refund not showing up", "reverted card payment?"]
    assert [row.label for row in rows] == labels * 2
    assert [row.part for row in rows] == ["learn"] * 3 + ["ask"] * 3
    assert rows[0].text == "train age_limit"


def test_dbpedia_schema(tmp_path, cache):
    for split in ("train", "val", "test"):
        (tmp_path / f"DBPEDIA_{split}.csv").write_text(
            "text,l1,l2,l3\n"
            f'"A {split}, ""quoted"".",Agent,SportsTeamSeason,NCAATeamSeason\n'
            f"Another {split}.,Place,BodyOfWater,Lake\n"
        )
    splits = hub.load(str(tmp_path), None, str)
    assert set(splits) == {"train", "validation", "test"}
    assert list(hub.dbpedia(splits)) == [
        Labelled('A train, "quoted".', "sports team season", "learn"),
        Labelled("Another train.", "body of water", "learn"),
        Labelled('A test, "quoted".', "sports team season", "ask"),
        Labelled("Another test.", "body of water", "ask"),
    ]
