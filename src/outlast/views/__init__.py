"""Readings of the journal for people: functions of what is written, with nothing of their own."""
