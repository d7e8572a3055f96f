"""What small is worth: fixed questions, sounds kept apart, and the tables of the model card."""
