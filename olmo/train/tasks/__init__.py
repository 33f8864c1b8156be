"""What is learned: the language task, its grounded form, and patch naming."""
