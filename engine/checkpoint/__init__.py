"""Files → a loaded model: shards, devices, quantisation. Refusals name the file, the key and the remedy."""
