"""Scenes that a tiny model can learn from: 84 px, one kind of thing, two questions."""

SCENES = {"image_size": 84, "max_kinds": 1, "max_count": 2, "max_objects": 2, "questions_per_scene": 2}
