"""What mini can be told and shown, and what it answers."""
