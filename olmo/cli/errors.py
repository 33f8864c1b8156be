"""How an error reads on the command line, and what the program ends with."""

from __future__ import annotations

EXIT_ERROR, EXIT_BUG, EXIT_INTERRUPTED = 1, 70, 130
"""Exit codes: a mistake or a missing file, a fault of ours, stopped by a person or a batch system."""

_SHOWN_PARTS = 4  # of a message with many lines, such as a list of missing weights


def one_line(error: Exception) -> str:
    """The message of an error in one line; a long list is cut and counted."""
    parts = [" ".join(part.split()) for part in str(error).splitlines() if part.strip()]
    hidden = len(parts) - _SHOWN_PARTS
    if hidden > 0:
        parts = [*parts[:_SHOWN_PARTS], f"and {hidden} more (MOLMO_DEBUG=1 shows all)"]
    return "; ".join(part.rstrip(":;") for part in parts)
