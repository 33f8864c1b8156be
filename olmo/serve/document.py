"""What the OpenAPI document says of answers: each route's own, and the one shape of every error."""

from __future__ import annotations

from typing import Any

_ERROR = "Error"
_JSON, _EVENTS, _PLAIN = "application/json", "text/event-stream", "text/plain"
_TEXT: dict[str, Any] = {"type": "string"}
_MAYBE_TEXT: dict[str, Any] = {"type": ["string", "null"]}
_NUMBER, _WHOLE = {"type": "number"}, {"type": "integer", "minimum": 0}


def _object(**properties: dict[str, Any]) -> dict[str, Any]:
    """An object with all of these properties, and perhaps more."""
    return {"type": "object", "required": list(properties), "properties": properties}


def _list(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items}


_USAGE = _object(prompt_tokens=_WHOLE, completion_tokens=_WHOLE, total_tokens=_WHOLE)
_HEAD = {"id": _TEXT, "created": _WHOLE, "model": _TEXT}
_CHOICE = _object(
    index=_WHOLE,
    message=_object(role={"const": "assistant"}, content=_TEXT),
    finish_reason={"enum": ["stop", "length"]},
    logprobs={"type": ["object", "null"]},
)
_MODEL = _object(id=_TEXT, object={"const": "model"}, created=_WHOLE, owned_by=_TEXT)
SCHEMAS: dict[str, dict[str, Any]] = {
    _ERROR: _object(error=_object(message=_TEXT, type=_TEXT, param=_MAYBE_TEXT, code=_MAYBE_TEXT)),
    "ChatCompletion": _object(**_HEAD, object={"const": "chat.completion"}, choices=_list(_CHOICE), usage=_USAGE),
    "Points": _object(
        **_HEAD,
        object={"const": "points"},
        text=_TEXT,
        finish_reason={"enum": ["stop", "length"]},
        image_sizes=_list(_object(width=_WHOLE, height=_WHOLE)),
        points=_list(_object(label=_TEXT, x=_NUMBER, y=_NUMBER)),
        usage=_USAGE,
    ),
    "Model": _MODEL,
    "Models": _object(object={"const": "list"}, data=_list(_MODEL)),
    "Status": _object(status=_TEXT),
    "Event": _object(data=_TEXT),
}
"""Schemas of what is answered, by name."""

_ANSWERS: dict[str, dict[str, str | None]] = {
    "/v1/chat/completions": {_JSON: "ChatCompletion", _EVENTS: "Event"},
    "/v1/points": {_JSON: "Points"},
    "/v1/models": {_JSON: "Models"},
    "/v1/models/{model_id}": {_JSON: "Model"},
    "/health": {_JSON: "Status"},
    "/ready": {_JSON: "Status"},
    "/metrics": {_PLAIN: None},
}
"""Types and schemas of what each path answers; None: text."""


def describe_answers(document: dict[str, Any]) -> dict[str, Any]:
    """Put what is answered into an OpenAPI document, in place of what a framework supposes.

    Args:
        document: with the paths of the server; it is changed.

    Returns:
        The document.
    """
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    for supposed in ("HTTPValidationError", "ValidationError"):
        schemas.pop(supposed, None)
    schemas.update(SCHEMAS)
    failed = {"description": "Why it is not answered", "content": {_JSON: {"schema": _reference(_ERROR)}}}
    for path, operations in document["paths"].items():
        content = {
            kind: {"schema": _TEXT if name is None else _reference(name)} for kind, name in _ANSWERS[path].items()
        }
        for operation in operations.values():
            operation["responses"] = {"200": {"description": "The answer", "content": content}, "default": failed}
            if path == "/ready":
                operation["responses"]["503"] = {"description": "It is being stopped", "content": content}
    return document


def _reference(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}
