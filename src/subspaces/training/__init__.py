"""The only training loop, over a model, batches, a loss and an optimiser: `fit.fit`, its state, steps, callbacks."""
