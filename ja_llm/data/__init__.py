"""Tasks and mixtures, token stores, packing, batches. What training imports of it needs no TensorFlow."""
