"""Train, measure and ship neural networks in a few dimensions."""
