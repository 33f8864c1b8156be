"""What is learned: the language task, its grounded form and that with chosen tokens, and patch naming."""
