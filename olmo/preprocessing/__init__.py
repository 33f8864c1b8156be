"""From one example to tensors: pictures, crops, prompts, points and batches, in numpy and Pillow."""
