"""Small: assembling, converting, and the call with it where the cache holds it."""
