"""Files and frames → upright RGB pictures and mono sound: the one way in, for the model and the call. No torch."""
