"""What a run will take before it starts: tokens, arithmetic, memory."""
