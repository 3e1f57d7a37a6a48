"""Training: one loop for every method, on accelerate, that can be killed at any moment and goes on as if it had not."""
