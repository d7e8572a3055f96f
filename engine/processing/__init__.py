"""From pictures, sound and words to tensors and token ids. Nothing here has weights."""
