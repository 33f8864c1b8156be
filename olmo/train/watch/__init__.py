"""What a run shows and writes about itself: console, JSON lines, TensorBoard, Weights & Biases, speed, warnings."""
