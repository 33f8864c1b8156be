from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from local_server import LocalServer, question

from olmo.exceptions import OLMoInputError
from olmo.models.molmo.molmo import Molmo
from olmo.serve.constrained import Constrainer
from olmo.serve.errors import ApiError
from olmo.serve.protocol import read_request

SCHEMA = {
    "type": "object",
    "properties": {"color": {"enum": ["red", "green"]}, "n": {"type": "integer", "minimum": 0, "maximum": 99}},
    "required": ["color", "n"],
    "additionalProperties": False,
}


def in_schema(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}


def hook_of(model: Molmo, wanted: dict[str, Any]) -> Any:
    request = read_request(json.dumps(question(response_format=wanted)).encode())
    hooks = Constrainer(model.tokenizer, 10_000).hooks(request)
    assert hooks is not None
    return hooks()[0]


@pytest.mark.parametrize("seed", range(4))
def test_an_untrained_model_writes_json_of_the_schema(local: LocalServer, seed: int) -> None:
    answer = local.ask(response_format=in_schema(SCHEMA), temperature=1.5, seed=seed, max_tokens=60, n=2).json()
    for choice in answer["choices"]:
        assert choice["finish_reason"] == "stop"
        value = json.loads(choice["message"]["content"])
        assert value["color"] in ("red", "green") and 0 <= value["n"] <= 99 and len(value) == 2


def test_an_object_begins_with_a_brace(local: LocalServer) -> None:
    text = local.ask(response_format={"type": "json_object"}, max_tokens=20).json()["choices"][0]["message"]["content"]
    assert text.startswith("{")


def test_only_tokens_that_can_go_on_are_left(model: Molmo) -> None:
    hook, tokenizer = hook_of(model, in_schema(SCHEMA)), model.tokenizer
    ids = tokenizer.encode('{"color":"red","n":7}')
    logits = torch.zeros(1, tokenizer.vocab_size + 8)
    for k in range(len(ids) + 1):
        left = hook(torch.tensor([ids[:k]], dtype=torch.long), logits)
        allowed = torch.isfinite(left[0]).nonzero()[:, 0].tolist()
        assert max(allowed) < tokenizer.vocab_size
        if k < len(ids):
            assert ids[k] in allowed and tokenizer.eos_token_id not in allowed
    assert allowed == [tokenizer.eos_token_id]
    assert torch.equal(logits, torch.zeros_like(logits)), "what was given is not changed"


def test_a_token_that_was_forbidden_is_an_error(model: Molmo) -> None:
    hook = hook_of(model, in_schema(SCHEMA))
    with pytest.raises(OLMoInputError, match="cannot be held to its schema"):
        hook(torch.tensor([model.tokenizer.encode("no")]), torch.zeros(1, model.tokenizer.vocab_size))


def test_words_need_no_hook(model: Molmo) -> None:
    constrainer = Constrainer(model.tokenizer, 100)
    for wanted in (None, {"type": "text"}):
        assert constrainer.hooks(read_request(json.dumps(question(response_format=wanted)).encode())) is None


@pytest.mark.parametrize(("schema", "status"), [
    ({"type": "nothing"}, 400), ({"$ref": "#/none"}, 400), ({"$ref": "http://127.0.0.1/schema.json"}, 400),
    ({"$ref": "file:///etc/passwd"}, 400), ({"type": "string", "pattern": "("}, 400), ({"title": "x" * 10_000}, 413),
    ({"type": "object", "minProperties": -1}, 400),
])  # fmt: skip
def test_schemas_that_cannot_be_followed(model: Molmo, schema: dict[str, Any], status: int) -> None:
    with pytest.raises(ApiError) as caught:
        hook_of(model, in_schema(schema))
    assert caught.value.status == status and caught.value.param == "response_format"
