"""The chat template of a model: the Jinja text by which other engines write a conversation as one prompt."""

from __future__ import annotations

from olmo.preprocessing.data_formatter import DataFormatter, MessageFormat

_TEMPLATE = """\
{%- for message in messages -%}
{%- if message['role'] not in ('user', 'assistant') or (message['role'] == 'user') != (loop.index % 2 == 1) -%}
{{ raise_exception('Messages are from user and assistant in turn, and the first is from the user') }}
{%- endif -%}
{%- set lead = FIRST if loop.first else ' ' -%}
{%- if message['role'] == 'user' -%}
{{ lead + USER }}
{%- else -%}
{{ lead + message['content'] + eos_token }}
{%- endif -%}
{%- endfor -%}"""

_USER = {
    MessageFormat.role: "'User: ' + message['content'] + ' Assistant:'",
    MessageFormat.none: "message['content']",
}


def chat_template(formatter: DataFormatter) -> str:
    """The Jinja text that writes what `formatter` writes for inference; the content of messages is plain text.

    A style has no place in the chat protocol, so there is no prefix of one, as where an example names none.
    """
    first = "' '" if formatter.always_start_with_space else "''"
    return _TEMPLATE.replace("FIRST", first).replace("USER", _USER[formatter.message_format])
