"""What a server does a second, and what options of decoding gain."""

from __future__ import annotations

from doc_tables.cells import result, table


def served() -> str:
    """What a server does a second, and how soon the first token comes, beside its peers."""
    if (found := result("serve")) is None:
        return "Not measured yet: `python benchmarks/serve.py --save` writes the figures."
    cells = []
    for row in found["rows"]:
        ours, peer = row["first_token_ms"].values()
        figures = (f"{row['ours']:.2f}", f"{row['peer']:.2f}", f"{row['ratio']:.2f}x")
        cells.append((row["case"], *figures, f"{ours:.0f}", f"{peer:.0f}"))
    header = ("Case", "Requests/s", "Peer", "Ratio", "First token, ms", "Peer, ms")
    return f"{table(header, cells)}\n\nPeer: {found['peer']}; then {found['second_peer']}."


def decode_options() -> str:
    """What each option of decoding gains."""
    if (found := result("decode_options")) is None:
        return "Not measured yet: `python benchmarks/decode_options.py --save` writes the figures."
    cells = [
        (
            r["case"],
            f"{1000 * r['ours']:.1f}",
            f"{1000 * r['peer']:.1f}",
            f"{1000 * r['limit']:.1f}",
            f"{r['ratio']:.2f}x",
        )
        for r in found["rows"]
    ]
    return table(("Case", "With, ms", "Without, ms", "Limit, ms", "Gain"), cells)
