"""How weights move: AdamW by component, learning rates over steps, what is frozen when, the moving average."""
