"""The processes of a run: how weights and work are spread over them, recomputed and compiled."""
