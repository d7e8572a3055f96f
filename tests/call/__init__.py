"""Tests of the call: media in, turns, media out, events."""
