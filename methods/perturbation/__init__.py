"""What the model says while parts of the input are hidden; no gradients, no internals."""
