"""Training: recipe, optimizer, schedule, loop and the tasks that give the loss."""
