"""How weights move and when: AdamW by component, schedules, freezing, moving average, the course of selection."""
