"""The base of all configurations: strict keys, types, overrides, files, and errors that name path and nearest key."""

from __future__ import annotations

import copy
import json
import pickle
from dataclasses import InitVar, dataclass, field

import numpy as np
import pytest

from olmo.config import BaseConfig, ConfigEnum, apply_overrides, read_config_file
from olmo.exceptions import OLMoConfigurationError


class Kind(ConfigEnum):
    two_word = "two-word"
    other = "other"
    old_name = "other"


@dataclass(kw_only=True)
class Leaf(BaseConfig):
    rate: float = 0.5
    kind: Kind = Kind.other
    sizes: list[int] = field(default_factory=lambda: [1, 2])
    weights: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rate < 0:
            raise OLMoConfigurationError(f"must be at least 0, got {self.rate}", "rate")


@dataclass(kw_only=True)
class Tree(BaseConfig):
    count: int
    flat_rate: InitVar[float | None] = None
    leaf: Leaf = field(default_factory=Leaf)
    maybe: Leaf | None = None
    name: str | None = None
    is_on: bool = False
    leaves: list[Leaf] = field(default_factory=list)

    def __post_init__(self, flat_rate: float | None) -> None:
        super().__post_init__()
        if flat_rate is not None:
            self.leaf = self.leaf.replace(rate=flat_rate)


def error(match: str):
    return pytest.raises(OLMoConfigurationError, match=match)


# -- building ------------------------------------------------------------------------------------------------------


def test_objects_and_dicts_mean_the_same():
    nested = Tree.new(count=3, leaf={"rate": 1, "kind": "TWO_WORD"}, leaves=[{"sizes": (4,)}])
    assert nested == Tree(count=3, leaf=Leaf(rate=1.0, kind=Kind.two_word), leaves=[Leaf(sizes=[4])])
    assert isinstance(nested.leaf.rate, float) and nested.leaf.kind is Kind.two_word
    assert Tree.from_dict(nested.asdict()) == nested


def test_numbers_of_numpy_and_whole_floats_are_numbers():
    assert Tree(count=np.int64(3)).count == 3 and Tree(count=3.0).count == 3
    assert type(Tree(count=np.int64(3)).count) is int
    assert Leaf(rate=np.float32(0.5)).rate == 0.5


def test_aliases_of_a_choice_are_taken():
    assert Leaf(kind="old-name").kind is Kind.other
    assert Leaf(kind=Kind.other).asdict()["kind"] == "other"


BAD = {
    "misspelt": ({"count": 1, "leaff": {}}, "^leaff: unknown key 'leaff' in Tree; did you mean 'leaf'\\?$"),
    "nested": ({"count": 1, "leaf": {"rat": 1}}, "^leaf.rat: unknown key 'rat' in Leaf; did you mean 'rate'"),
    "in a list": ({"count": 1, "leaves": [{}, {"xyz": 1}]}, "^leaves.1.xyz: unknown key .* known keys: kind, rate"),
    "near an alternative spelling": ({"count": 1, "flat_rat": 1}, "did you mean 'flat_rate'"),
    "missing": ({}, "^count: is required"),
    "type": ({"count": "three"}, "^count: expected int, got 'three' \\(str\\)"),
    "half": ({"count": 1.5}, "^count: expected int, got 1.5"),
    "bool": ({"count": True}, "^count: expected int, got True"),
    "nested type": ({"count": 1, "maybe": {"sizes": [1, "x"]}}, "^maybe.sizes.1: expected int, got 'x'"),
    "not a list": ({"count": 1, "leaf": {"sizes": 3}}, "^leaf.sizes: expected list\\[int\\], got 3"),
    "not a mapping": ({"count": 1, "leaf": 3}, "^leaf: expected Leaf, got 3"),
    "mapping": ({"count": 1, "leaf": {"weights": {"a": "b"}}}, "^leaf.weights.a: expected float, got 'b'"),
    "null": ({"count": None}, "^count: expected int, got None"),
    "choice": ({"count": 1, "leaf": {"kind": "none"}}, "^leaf.kind: 'none' is not one of 'two-word', 'other'"),
    "range": ({"count": 1, "leaf": {"rate": -1}}, "^leaf.rate: must be at least 0, got -1.0"),
}


@pytest.mark.parametrize(("values", "match"), BAD.values(), ids=BAD)
def test_wrong_values_name_their_path(values, match):
    with error(match):
        Tree.new(**values)
    with error(match):
        Tree.from_dict(values)


def test_a_misspelt_keyword_of_the_class_itself_is_a_configuration_error():
    with error("rte: unknown key 'rte' in Leaf; did you mean 'rate'"):
        Leaf(rte=1)
    with error("cont: unknown key 'cont' in Tree; did you mean 'count'"):
        Tree.new(cont=1)


def test_attributes_are_strict_too():
    leaf = Leaf()
    leaf.rate = 0.25
    with error("did you mean 'rate'"):
        leaf.rte = 1


def test_copies_and_pickles_are_equal():
    tree = Tree(count=2, maybe={"rate": 1})
    assert copy.copy(tree) == copy.deepcopy(tree) == pickle.loads(pickle.dumps(tree)) == tree
    assert tree.replace(count=3) == Tree(count=3, maybe={"rate": 1})
    with error("count"):
        tree.replace(count="x")


# -- overrides -----------------------------------------------------------------------------------------------------


def test_p22_overrides_set_values_of_every_type():
    tree = Tree.from_dict(
        {"count": 1, "leaf": {"sizes": [5, 6, 7]}, "name": "x"},
        ["count=2", "is_on=true", "leaf.rate=1e-3", "leaf.sizes.1=-3", "leaf.sizes[2]=9", "leaf.kind=two_word",
         "maybe.rate=2", "leaf.weights={a: 1, b: 2.5}", "name=null", "leaves=[{rate: 3}]"],
    )  # fmt: skip
    assert tree == Tree(
        count=2, is_on=True, leaf=Leaf(rate=1e-3, sizes=[5, -3, 9], kind="two-word", weights={"a": 1, "b": 2.5}),
        maybe=Leaf(rate=2), leaves=[Leaf(rate=3)],
    )  # fmt: skip
    assert Tree.from_dict({"count": 1, "name": "x"}, ["name="]).name is None
    assert Tree.from_dict({"count": 1}, ["name=a=b"]).name == "a=b"
    assert Tree.from_dict({"count": 1}, ["leaf.sizes=[8]"]).leaf.sizes == [8]


def test_p22_an_alternative_spelling_overrides_the_nested_one():
    assert Tree.from_dict({"count": 1, "leaf": {"rate": 3}}, ["flat_rate=4"]).leaf.rate == 4
    assert Tree.from_dict({"count": 1, "flat_rate": 3}, ["leaf.rate=4"]).leaf.rate == 4


BAD_OVERRIDES = {
    "unknown": ("leaf.rat=1", "^leaf.rat: unknown key"),
    "below a number": ("count.x=1", "^count: expected int"),
    "no value": ("count", "not of the form key=value"),
    "no key": ("=3", "not of the form key=value"),
    "type": ("count=[1]", "^count: expected int, got \\[1\\]"),
    "index": ("leaf.sizes.9=1", "cannot apply override 'leaf.sizes.9=1'"),
    "yaml": ("name={a", "cannot apply override"),
    "interpolation": ("name=${nothing}", "cannot apply override"),
}


@pytest.mark.parametrize(("override", "match"), BAD_OVERRIDES.values(), ids=BAD_OVERRIDES)
def test_p22_wrong_overrides_are_refused(override, match):
    with error(match):
        Tree.from_dict({"count": 1}, [override])


def test_overrides_are_a_list():
    with error("write \\['count=3'\\]"):
        apply_overrides({"count": 1}, "count=3")


# -- files ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["c.yaml", "c.json", "deep/er/c.yml"])
def test_p20_save_and_load_give_an_equal_configuration(tmp_path, name):
    tree = Tree(count=2, name="Ümlaut: [x] #1", leaf=Leaf(rate=1e-7, weights={"a b": 0.1}), maybe=Leaf())
    tree.save(tmp_path / name)
    assert Tree.load(tmp_path / name) == tree
    assert Tree.load(str(tmp_path / name), overrides=["count=3"]) == tree.replace(count=3)
    if name.endswith(".json"):
        assert json.loads((tmp_path / name).read_text())["count"] == 2


def test_a_folder_and_a_section_can_be_loaded(tmp_path):
    (tmp_path / "config.yaml").write_text("model:\n  tree: {count: 4}\n  rate: ${model.tree.count}\n")
    assert Tree.load(tmp_path, key="model.tree").count == 4
    assert read_config_file(tmp_path)["model"]["rate"] == 4
    with error("section 'model.rate' .* holds no mapping"):
        Tree.load(tmp_path, key="model.rate")


BAD_FILES = {
    "list": (b"- 1\n", "holds no mapping"),
    "empty": (b"", "^count: is required"),
    "yaml": (b"a: [1\n", "cannot read"),
    "bytes": (b"\xff\xfe\x00", "cannot read"),
    "duplicate": (b"count: 1\ncount: 2\n", "cannot read"),
    "interpolation": (b"count: ${x}\n", "cannot read"),
    "number": (b"3", "cannot read|holds no mapping"),
}


@pytest.mark.parametrize(("content", "match"), BAD_FILES.values(), ids=BAD_FILES)
def test_files_that_cannot_be_read_say_why(tmp_path, content, match):
    (tmp_path / "c.yaml").write_bytes(content)
    with error(match):
        Tree.load(tmp_path / "c.yaml")


def test_missing_files_and_folders_say_what_is_there(tmp_path):
    with error("no such configuration file"):
        Tree.load(tmp_path / "none.yaml")
    with error("has no config.yaml \\(no configuration\\)"):
        Tree.load(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with error("released Hugging Face layout; load it with Molmo.from_pretrained"):
        Tree.load(tmp_path)
