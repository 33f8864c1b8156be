from __future__ import annotations

import pytest

from olmo.data.download import Wanted
from olmo.data.field_maps import FIELD_MAPS
from olmo.data.picture_urls import urls_of_dataset, urls_of_jsonl
from olmo.exceptions import OLMoInputError


def test_urls_of_a_dataset():
    datasets = pytest.importorskip("datasets")
    rows = datasets.Dataset.from_list([{"image_url": u, "image_sha256": s} for u, s in (("http://a", "1"), ("x", "2"))])
    assert list(urls_of_dataset(rows, FIELD_MAPS["pixmo_points"])) == [Wanted("http://a", "1")]
    assert list(urls_of_dataset(rows, FIELD_MAPS["pixmo_cap"], limit=1)) == [Wanted("http://a", None)]
    with pytest.raises(OLMoInputError, match="has no column 'image'; it has image_url"):
        list(urls_of_dataset(rows, FIELD_MAPS["vqa2"]))


def test_urls_of_a_jsonl_file(write_rows):
    path = write_rows(
        '{"image": "https://a/1", "sha256": "5"}',
        "",
        '{"images": ["http://a/2", "b.png"]}',
        '{"messages": [{"role": "user", "content": [{"type": "image", "image": "http://a/3"}, "x"]}, 7]}',
        '{"image": "a.png", "messages": "text"}',
    )
    assert list(urls_of_jsonl(path)) == [Wanted("https://a/1", "5"), Wanted("http://a/2"), Wanted("http://a/3")]
    with pytest.raises(OLMoInputError, match=r"rows.jsonl:2: not JSON"):
        list(urls_of_jsonl(write_rows("{}", "{")))
    with pytest.raises(OLMoInputError, match="cannot read"):
        list(urls_of_jsonl("no.jsonl"))
