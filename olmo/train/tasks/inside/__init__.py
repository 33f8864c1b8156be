"""What a model is asked inside: facts about what its tokens show or name, where the truth is known."""
