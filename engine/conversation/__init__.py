"""What a session remembers, says and draws: its value, the tasks that extend it, and what carries them out."""
