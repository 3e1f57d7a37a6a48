"""Networks: tensors in, tensors out; no input or output, no global state."""
